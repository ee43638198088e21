"""Promises against a worker that breaks the protocol: it is told, killed, costs the host no memory, and is replaced."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack
import pytest

import host
from host.run.pidfd import ended
from sandbox_worker import messages, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY_MAX: Final = 100 << 20

SOURCE: Final = """
import os
@hookimpl
def answer(): return 42
@hookimpl
def write(data, descriptor=4, stay=True):
    try:
        while data: data = data[os.write(descriptor, data):]
    except OSError as e: return e.errno
    if stay:
        import threading; threading.Event().wait()
    return len(data)
@hookimpl
def flood(head, chunk, times):
    os.write(4, head)
    for _ in range(times): os.write(4, chunk)
@hookimpl
def deep(): return __import__("functools").reduce(lambda value, _: [value], range(10000), 1)
"""


def frame(*message: object) -> bytes:
    body: bytes = msgpack.packb(list(message))
    return len(body).to_bytes(4, "big") + body


def sized(length: int, body: bytes = b"") -> bytes:
    return length.to_bytes(4, "big") + body


DEEP: Final = b"\x94\x13\x01" + b"\x91" * 10_000 + b"\x01" + b"\x00"
HUGE_ARRAY: Final = b"\x94\x13\x01\xdd\xff\xff\xff\xff\x00"
MANY_ITEMS: Final = b"\x94\x13\x01" + b"\xdd\x00\x20\x00\x00" + b"\x90" * (2 << 20) + b"\x00"
BAD: Final = {
    "garbage": b"\xff\x00\xfe garbage \x7f" * 50,
    "a length of 4 GiB": sized(0xFFFFFFFF, b"x"),
    "a length just above the limit": sized((1 << 20) + wire.ENVELOPE + 1),
    "an empty frame": sized(0),
    "a value 10,000 deep": sized(len(DEEP), DEEP),
    "an array that claims 4 billion items": sized(len(HUGE_ARRAY), HUGE_ARRAY),
    "no msgpack": sized(1, b"\xc1"),
    "bytes behind the value in a frame": sized(6, b"\x94\x13\x01\x01\x00\x00"),
    "an extension": frame(messages.RESULT, 1, msgpack.ExtType(5, b"x"), 0),
    "no array": sized(1, b"\x01"),
    "an unknown kind": frame(99, 1, 2, 0),
    "a message of the host's": frame(messages.CALL, 1, "answer", {}),
    "another READY": frame(messages.READY, [1, 1, "confined", [], []]),
    "a reply to another call": frame(messages.RESULT, 2, 42, 0),
    "a reply to call 0": frame(messages.RESULT, 0, 42, 0),
    "an id that is no integer": frame(messages.RESULT, 1.0, 42, 0),
    "an id that is true": frame(messages.RESULT, True, 42, 0),
    "a field too few": frame(messages.RESULT, 1, 42),
    "a field too many": frame(messages.RESULT, 1, 42, 0, 0),
    "a negative count": frame(messages.RESULT, 1, 42, -1),
    "a count that is text": frame(messages.RESULT, 1, 42, "0"),
    "an error whose type is no text": frame(messages.ERROR, 1, 5, [], "", "", None, 0),
    "an error with a value of a list": frame(messages.ERROR, 1, "E", [[1]], "", "", None, 0),
    "an error with an endless text": frame(messages.ERROR, 1, "E", [], "x" * 10_000, "", None, 0),
    "an error with an unknown cause": frame(messages.ERROR, 1, "E", [], "", "", ["limit", "patience"], 0),
    "an error with an unknown layer": frame(messages.ERROR, 1, "E", [], "", "", ["denied", "a", "b", "host"], 0),
    "a second reply behind the first": frame(messages.RESULT, 1, 42, 0) + frame(messages.RESULT, 2, 42, 0),
    "an ask of another call": frame(messages.ASK, 2, 1, "a.b", {}),
    "an ask out of turn": frame(messages.ASK, 1, 2, "a.b", {}),
    "an ask whose function is no text": frame(messages.ASK, 1, 1, b"a.b", {}),
    "an ask whose arguments are a list": frame(messages.ASK, 1, 1, "a.b", []),
    "an ask whose argument has no text for its name": sized(13, b"\x95\x15\x01\x01\xa3a.b\x81\xc4\x01x\x01"),
    "an ask with too many arguments": frame(messages.ASK, 1, 1, "a.b", {f"a{n}": 1 for n in range(101)}),
    "an answer of the host's": frame(messages.ANSWER, 1, 5),
    "a reply behind an ask": frame(messages.ASK, 1, 1, "a.b", {}) + frame(messages.RESULT, 1, 42, 0),
    "two asks at once": frame(messages.ASK, 1, 1, "a.b", {}) + frame(messages.ASK, 1, 2, "a.b", {}),
    "half a header behind the reply": frame(messages.RESULT, 1, 42, 0) + b"\0\0",
}


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Within, this process's peak memory must stay near where it was: proc_pid_status(5), proc_pid_clear_refs(5)."""
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    yield
    assert peak() - before < MEMORY_MAX


def peak() -> int:
    """VmHWM of this process in bytes."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10


@pytest.mark.parametrize("what", BAD)
def test_what_no_worker_sends_is_a_violation_and_the_next_call_works(plugin_from: Any, what: str) -> None:
    plugin = plugin_from(SOURCE, limits={"result_size": "1 MiB"})
    first, handle = plugin.pid, os.pidfd_open(plugin.pid)
    with little_memory(), pytest.raises(host.ProtocolViolation) as caught:
        plugin.call("write", data=BAD[what])
    assert ended(handle)
    os.close(handle)
    assert (caught.value.pid, caught.value.signal, caught.value.hook) == (first, 9, "write")
    assert caught.value.plugin == plugin.name
    assert plugin.call("answer") == 42
    assert plugin.restarts == 1


def test_millions_of_small_items_are_refused_before_they_are_built(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    with little_memory(), pytest.raises(host.ProtocolViolation):
        plugin.call("write", data=sized(len(MANY_ITEMS), MANY_ITEMS))
    assert plugin.call("answer") == 42


def test_a_flood_without_a_frame_stops_at_the_limit(plugin_from: Any) -> None:
    """A length that is allowed, and far more bytes behind it."""
    plugin = plugin_from(SOURCE, limits={"result_size": "1 MiB"})
    with little_memory(), pytest.raises(host.ProtocolViolation):
        plugin.call("flood", head=sized(1 << 20), chunk=b"\0" * 65536, times=10_000)
    assert plugin.call("answer") == 42


def test_half_a_frame_and_silence_is_a_timeout(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, limits={"call_timeout": "1 s"})
    with pytest.raises(host.PluginTimeout):
        plugin.call("write", data=sized(100, b"half"))
    assert plugin.call("answer") == 42


def test_a_worker_that_dies_in_the_middle_of_a_frame_has_crashed(plugin_from: Any) -> None:
    plugin = plugin_from("import os\n@hookimpl\ndef die(): os.write(4, bytes([0, 0, 0, 9, 1])); os._exit(3)")
    with pytest.raises(host.PluginCrashed) as caught:
        plugin.call("die")
    assert caught.value.exit_code == 3


def test_bytes_after_a_reply_are_found_at_the_next_call_at_the_latest(plugin_from: Any) -> None:
    plugin = plugin_from(
        """
        import os, threading
        sent = threading.Event()
        def later():
            sent.wait(); os.write(4, b"\\0\\0\\0\\1\\1"); done.set()
        done = threading.Event()
        threading.Thread(target=later, daemon=True).start()
        @hookimpl
        def start(): sent.set()
        @hookimpl
        def wait(): done.wait()
        @hookimpl
        def answer(): return 42
        """
    )

    def two_calls() -> None:
        plugin.call("start")
        plugin.call("wait")

    with pytest.raises(host.ProtocolViolation):
        two_calls()
    assert plugin.call("answer") == 42


def test_a_forged_reply_changes_no_other_plugin(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    other = plugin_from(SOURCE, into=plugin._owner)
    with pytest.raises(host.ProtocolViolation):
        plugin.call("write", data=frame(messages.RESULT, 2, "forged", 0))
    assert other.call("answer") == 42
    assert other.restarts == 0


def test_a_plugin_that_forges_its_own_reply_only_lies_about_itself(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    assert plugin.call("write", data=frame(messages.RESULT, 1, "forged", 0), stay=True) == "forged"
    plugin.restart()
    assert plugin.call("answer") == 42


# --- asks


def test_asks_whose_answers_nobody_reads_end_with_the_calls_time(plugin_from: Any) -> None:
    """The pipe down is full some time; the host that writes to it is freed by the deadline."""
    plugin = plugin_from(
        """
        import os
        def frame(number):
            body = bytes([0x95, 21, 1, 0xce]) + number.to_bytes(4, "big") + b"\\xa3a.b\\x80"
            return len(body).to_bytes(4, "big") + body
        @hookimpl
        def flood():
            for number in range(1, 1 << 30): os.write(4, frame(number))
        @hookimpl
        def answer(): return 42
        """,
        limits={"call_timeout": "1 s"},
        permissions={"host": ["a.b"]},
    )
    plugin._owner.function("a.b")(lambda: "x" * 1000)
    with little_memory(), pytest.raises((host.PluginTimeout, host.ProtocolViolation)):
        plugin.call("flood")
    assert plugin.call("answer") == 42


def test_an_ask_that_a_worker_writes_itself_is_answered_once(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions={"host": ["a.b"]}, limits={"call_timeout": "1 s"})
    asked: list[int] = []
    plugin._owner.function("a.b")(lambda: asked.append(1))
    with pytest.raises(host.PluginTimeout):
        plugin.call("write", data=frame(messages.ASK, 1, 1, "a.b", {}))
    assert asked == [1]


def test_an_ask_between_calls_is_a_violation(plugin_from: Any) -> None:
    plugin = plugin_from(
        """
        import os, threading
        @hookimpl
        def later(data):
            threading.Timer(1.0, lambda: os.write(4, data)).start()
        @hookimpl
        def wait(): threading.Event().wait()
        """
    )

    def two_calls() -> None:
        plugin.call("later", data=frame(messages.ASK, 1, 1, "a.b", {}))
        plugin.call("wait")

    with pytest.raises(host.ProtocolViolation):
        two_calls()


# --- the event pipe holds claims


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 5000,
        b"\0\0\0\0" * 1000,
        messages.event_record("fs.read\x1b[2J", "\u202e/x\n", False),
        bytes(range(256)) * 4,
    ],
    ids=["ff", "zeros", "escapes", "all bytes"],
)
def test_whatever_is_written_to_the_event_pipe_is_only_a_visible_claim(plugin_from: Any, data: bytes) -> None:
    plugin = plugin_from(SOURCE)
    plugin.call("write", data=data, descriptor=5, stay=False)
    for record in plugin.denials():
        assert record.origin == "worker"
        assert record.permission.target.isprintable()
    assert plugin.call("answer") == 42


def test_a_flood_of_claims_is_capped_and_does_not_stop_the_call(plugin_from: Any) -> None:
    plugin = plugin_from(
        """
        from sandbox_worker.messages import event_record
        import os
        @hookimpl
        def flood(times):
            for number in range(times):
                try: os.write(5, event_record("fs.read", f"/{number}", False))
                except BlockingIOError: pass
        """
    )
    with little_memory():
        plugin.call("flood", times=20_000)
        assert len(plugin.denials()) <= 501


# --- the start


@pytest.mark.parametrize(
    ("forged", "error"),
    [
        (frame(messages.HOOKS, [["answer", [], [False, False, False, None]]]), None),
        (frame(messages.HOOKS, "all"), host.ProtocolViolation),
        (frame(messages.HOOKS, [["answer", [], [0, 0, 0, None]]]), host.ProtocolViolation),
        (frame(messages.HOOKS, [["a" * 201, [], [False, False, False, None]]]), host.ProtocolViolation),
        (frame(messages.HOOKS, [["__class__", [], [False, False, False, None]]]), host.PluginStartError),
        (frame(messages.HOOKS, [["x; import os", [], [False, False, False, None]]]), host.PluginStartError),
        (frame(messages.HOOKS, [["f", [["a=print()", None]], [False, False, False, None]]]), host.PluginStartError),
        (frame(messages.FAILED, "nowhere", "text", None), host.ProtocolViolation),
        (frame(messages.FAILED, "import", "\x1b[2J", None), host.PluginStartError),
        (sized(0xFFFFFFFF), host.ProtocolViolation),
        (b"\x00\x00\x00\x05hello", host.ProtocolViolation),
    ],
)
def test_what_a_module_writes_while_it_is_imported_is_checked_too(
    plugin_from: Any, forged: bytes, error: type[Exception] | None
) -> None:
    source = f"import os; os.write(4, {forged!r})\n@hookimpl\ndef answer(): return 42\n"
    if error is None:  # its own hooks, told by itself: the real message is then the extra one
        plugin = plugin_from(source)
        with pytest.raises(host.ProtocolViolation):
            plugin.call("answer")
        return
    with pytest.raises(error) as caught:
        plugin_from(source)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("code", ["os._exit(5)", "os.abort()", "os.close(4)", "os.close(3)"])
def test_a_module_that_ends_or_deafens_its_worker_is_a_start_error(plugin_from: Any, code: str) -> None:
    attempt: Callable[[], Any] = lambda: plugin_from(f"import os; {code}\n@hookimpl\ndef answer(): return 42\n")  # noqa: E731
    if code == "os.close(3)":
        with pytest.raises(host.HostError):
            attempt().call("answer")
    else:
        with pytest.raises(host.PluginStartError):
            attempt()
