"""Promises of streams: items as they come, bounded ahead, cancelled when closed, and errors of the same types."""

from __future__ import annotations

import itertools
import os
import threading
from typing import Any, Final

import pytest
from frames import frame
from until import until

import host
from host.run.worker import CREDIT
from sandbox_worker import messages

SOURCE: Final = """
import os, threading
from sandbox_worker.plugin_api import host
made, closed = [], []
@hookimpl
def numbers(stop):
    try:
        for number in range(stop):
            made.append(number)
            yield number
    finally: closed.append(True)
@hookimpl
def sizes(count, size):
    for _ in range(count): yield bytes(size)
@hookimpl
def counts(): return [len(made), len(closed)]
@hookimpl
def plain(): return [1, 2]
@hookimpl
def fails(after):
    yield from range(after)
    raise ValueError("in the middle")
@hookimpl
def odd(): yield {1}
@hookimpl
def dies(after):
    yield from range(after)
    os._exit(3)
@hookimpl
def hangs(after):
    yield from range(after)
    threading.Event().wait()
@hookimpl
def keeps_on():
    while True:
        try: yield 1
        except GeneratorExit: threading.Event().wait()
@hookimpl
def denied(): yield open("/etc/passwd").read()
@hookimpl
def doubled(values):
    for value in values: yield host.call("test.double", value=value)
@hookimpl
def write(data):
    os.write(4, data)
    threading.Event().wait()
@hookimpl
def echo(value): return value
"""


@pytest.fixture
def plugin(plugin_from: Any) -> Any:
    """One that streams."""
    owner = plugin_from.host()
    owner.function("test.double")(lambda value: 2 * value)
    return plugin_from(SOURCE, into=owner, permissions={"host": ["test.*"]})


@pytest.mark.parametrize("count", [0, 1, CREDIT - 1, CREDIT, CREDIT + 1, 1000])
def test_every_item_arrives_in_order(plugin: Any, count: int) -> None:
    assert list(plugin.stream("numbers", stop=count)) == list(range(count))
    assert plugin.call("counts") == [count, 1]


def test_large_items_arrive_as_they_were_sent(plugin: Any) -> None:
    assert list(plugin.stream("sizes", count=5, size=1 << 20)) == [bytes(1 << 20)] * 5


def test_items_larger_than_a_pipe_arrive_too(plugin: Any) -> None:
    assert [len(item) for item in plugin.stream("sizes", count=40, size=300_000)] == [300_000] * 40


def test_the_plugin_is_no_further_ahead_than_the_credit(plugin: Any) -> None:
    stream = plugin.stream("numbers", stop=10_000)
    assert list(itertools.islice(stream, 3)) == [0, 1, 2]
    stream.close()
    made, closed = plugin.call("counts")
    assert made <= CREDIT + 1
    assert closed == 1
    assert plugin.restarts == 0


def test_a_stream_that_nobody_begins_holds_nothing(plugin: Any) -> None:
    plugin.stream("numbers", stop=5)
    assert plugin.call("counts") == [0, 0]


def test_one_that_is_forgotten_is_closed(plugin: Any) -> None:
    next(plugin.stream("numbers", stop=5000))
    assert plugin.call("counts")[1] == 1


def test_while_a_stream_is_open_others_wait_and_its_own_thread_is_told(plugin: Any) -> None:
    stream = plugin.stream("numbers", stop=100)
    next(stream)
    assert plugin.state == "BUSY"
    with pytest.raises(host.HostError, match="in the middle of a call"):
        plugin.call("echo", value=1)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(plugin.call("echo", value=1)))
    thread.start()
    assert results == []
    stream.close()
    thread.join()
    assert results == [1]


def test_it_may_be_iterated_and_closed_by_another_thread(plugin: Any) -> None:
    stream = plugin.stream("numbers", stop=100)
    next(stream)
    rest: list[int] = []
    thread = threading.Thread(target=lambda: rest.extend(itertools.islice(stream, 50)) or stream.close())
    thread.start()
    thread.join()
    assert rest == list(range(1, 51))
    assert plugin.call("echo", value=1) == 1


def test_the_plugins_own_error_comes_behind_its_items(plugin: Any) -> None:
    found = []
    with pytest.raises(ValueError, match="in the middle"):
        found.extend(plugin.stream("fails", after=20))
    stream = plugin.stream("fails", after=2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(ValueError, match="in the middle"):
        next(stream)
    assert plugin.restarts == 0


@pytest.mark.parametrize(
    ("hook", "error"),
    [("dies", host.PluginCrashed), ("hangs", host.PluginTimeout)],
)
@pytest.mark.parametrize("after", [0, 1, 40])
def test_a_worker_that_ends_in_the_middle_raises_what_a_call_would(
    plugin_from: Any, hook: str, error: type[Exception], after: int
) -> None:
    plugin = plugin_from(SOURCE, limits={"call_timeout": "1 s"})
    stream = plugin.stream(hook, after=after)
    assert [next(stream) for _ in range(after)] == list(range(after))
    with pytest.raises(error):
        next(stream)
    assert plugin.call("echo", value=1) == 1


@pytest.mark.parametrize(
    ("hook", "error", "text"),
    [
        ("plain", TypeError, "a stream is an iterator"),
        ("odd", host.PluginError, "set, which can't cross"),
        ("denied", host.PermissionDenied, "/etc/passwd"),
    ],
)
def test_what_is_no_stream_of_plain_data_is_an_error(plugin: Any, hook: str, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        list(plugin.stream(hook))


def test_an_item_longer_than_a_result_is_a_limit(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, limits={"result_size": "10 KiB"})
    with pytest.raises(host.ResourceLimitExceeded) as caught:
        list(plugin.stream("sizes", count=1, size=20_000))
    assert caught.value.limit == "result_size"


def test_the_consumers_time_is_not_the_plugins(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, limits={"call_timeout": "1 s"})
    for item in plugin.stream("numbers", stop=2):
        threading.Event().wait(2 if item == 0 else 0)
    assert plugin.restarts == 0


def test_a_stream_may_call_functions_of_the_application(plugin: Any) -> None:
    assert list(plugin.stream("doubled", values=[1, 2, 3])) == [2, 4, 6]


def test_one_that_does_not_end_when_it_is_closed_is_ended(plugin: Any) -> None:
    stream = plugin.stream("keeps_on")
    next(stream)
    stream.close()
    assert plugin.call("echo", value=1) == 1
    assert plugin.restarts == 1


def test_closing_the_plugin_ends_its_stream(plugin: Any) -> None:
    stream = plugin.stream("numbers", stop=10_000)
    next(stream)
    thread = threading.Thread(target=plugin.close)
    thread.start()
    until(lambda: plugin.pid is None)
    with pytest.raises(host.HostError):
        list(stream)
    thread.join()


def test_a_generator_that_is_called_plainly_can_not_cross_as_ever(plugin: Any) -> None:
    with pytest.raises(host.PluginError) as caught:
        plugin.call("numbers", stop=3)
    assert caught.value.remote_type == "SerializationError"


def test_a_hook_that_is_none_is_said_before_it_begins(plugin: Any) -> None:
    with pytest.raises(AttributeError):
        plugin.stream("nothing")
    with pytest.raises(host.SerializationError):
        plugin.stream("numbers", stop=object())


@pytest.mark.parametrize(
    "data",
    [
        frame(messages.ITEM, 1, 5, 2),
        frame(messages.ITEM, 1, 5, 0),
        frame(messages.ITEM, 1, 5, "1"),
        frame(messages.ITEM, 2, 5, 1),
        frame(messages.ITEM, 1, 5),
        frame(messages.PONG, 1),
        frame(messages.ITEM, 1, 5, 1) + frame(messages.RESULT, 1, None, 0) + b"\0",
        frame(messages.ASK, 1, 1, "a.b", {}) + frame(messages.ITEM, 1, 5, 1),
    ],
)
def test_what_no_stream_sends_is_a_violation(plugin: Any, data: bytes) -> None:
    taken: list[object] = []
    with pytest.raises(host.ProtocolViolation):
        taken.extend(plugin.stream("write", data=data))
    assert len(taken) <= CREDIT
    assert plugin.call("echo", value=1) == 1


def test_an_item_where_no_stream_is_open_is_a_violation(plugin: Any) -> None:
    with pytest.raises(host.ProtocolViolation):
        plugin.call("write", data=frame(messages.ITEM, 1, 5, 1))


def test_items_whose_credit_nobody_reads_end_with_the_calls_time(plugin_from: Any) -> None:
    plugin = plugin_from(
        """
        import os
        @hookimpl
        def flood():
            number = 0
            while True:
                number += 1
                body = bytes([0x94, 22, 1, 5, 0xce]) + number.to_bytes(4, "big")
                os.write(4, len(body).to_bytes(4, "big") + body)
        @hookimpl
        def echo(value): return value
        """,
        limits={"call_timeout": "1 s"},
    )
    with pytest.raises((host.PluginTimeout, host.ProtocolViolation, host.ResourceLimitExceeded)):
        for _ in plugin.stream("flood"):
            pass
    assert plugin.call("echo", value=os.getpid()) == os.getpid()
