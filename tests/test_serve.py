"""Promises of the call loop: one frame in, one frame out, whatever the plugin does; the host's end is its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_worker import RawWorker

from sandbox_worker import messages, serve, wire
from sandbox_worker.channel import Channel
from sandbox_worker.errors import Unsendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCE = """
import functools, signal
from sandbox_worker.plugin_api import HookimplMarker
hookimpl = HookimplMarker("tests")

@hookimpl
def echo(value=None):
    return value

def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

@hookimpl
@decorated
def wrapped(first, second=2):
    return [first, second]

@hookimpl
def by_position(first, second="x", /):
    return [first, second]

@hookimpl
def skipping(a=1, b=2, c=3):
    return [a, b, c]

@hookimpl
def throw(name):
    raise getattr(__builtins__, name, None)("why") if not isinstance(__builtins__, dict) else __builtins__[name]("why")

@hookimpl
def bad_result(kind):
    ring = []
    ring.append(ring)
    return {"set": {1}, "ring": ring, "big": 1 << 64, "text": "\\ud800", "key": {1: 2}}[kind]

@hookimpl
def long_result(size):
    return bytes(size)

@hookimpl
def take_signals():
    signal.signal(signal.SIGTERM, lambda *_: None)

@hookimpl
def denied(path):
    for _ in range(3):
        try:
            open(path)
        except PermissionError:
            pass
    return "done"
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawWorker]:
    """One worker for the whole module: no answer may depend on an earlier one."""
    started = RawWorker(tmp_path_factory.mktemp("serve") / "plugin", SOURCE)
    messages.Ready(started.start())
    messages.hooks_of(started.receive())
    yield started
    started.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[[str], RawWorker]]:
    """Starts a worker of the test's own."""
    started: list[RawWorker] = []

    def start(source: str = SOURCE) -> RawWorker:
        started.append(RawWorker(tmp_path / "plugin", source))
        messages.Ready(started[0].start())
        return started[0]

    yield start
    for worker in started:
        worker.close()


def result(reply: Any) -> object:
    """The value of a RESULT."""
    assert isinstance(reply, list), vars(reply) if hasattr(reply, "__dict__") else reply.text
    return reply[2]


def error(reply: Any) -> messages.Error:
    """The ERROR."""
    assert isinstance(reply, messages.Error)
    return reply


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.binary(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
        max_leaves=10,
    )
)
def test_every_plain_value_comes_back(worker: RawWorker, value: object) -> None:
    assert result(worker.call(1, "echo", value=value)) == value


def test_a_long_value_comes_back(worker: RawWorker) -> None:
    assert result(worker.call(2, "echo", value="x" * 900_000)) == "x" * 900_000


def test_an_omitted_argument_takes_the_plugins_own_default(worker: RawWorker) -> None:
    assert result(worker.call(3, "skipping")) == [1, 2, 3]
    assert result(worker.call(4, "skipping", b=7)) == [1, 7, 3]
    assert result(worker.call(5, "skipping", a=7, c=9)) == [7, 2, 9]


def test_a_decorated_hook_is_called_as_pluggy_calls_it(worker: RawWorker) -> None:
    assert result(worker.call(6, "wrapped", second=5, first=4)) == [4, 5]
    assert result(worker.call(7, "wrapped", first=4)) == [4, 2]


def test_a_hook_with_parameters_by_position_is_called_as_pluggy_calls_it(worker: RawWorker) -> None:
    assert result(worker.call(8, "by_position", second=5, first=4)) == [4, 5]


BUILTINS = [
    "ValueError",
    "BrokenPipeError",
    "KeyboardInterrupt",
    "SystemExit",
    "GeneratorExit",
    "StopIteration",
    "EOFError",
    "ConnectionResetError",
    "MemoryError",
    "RecursionError",
    "BaseException",
]


@pytest.mark.parametrize("name", BUILTINS)
def test_whatever_a_hook_raises_is_its_answer_and_the_next_call_works(worker: RawWorker, name: str) -> None:
    assert error(worker.call(10, "throw", name=name)).type_name == name
    assert result(worker.call(11, "echo", value=1)) == 1


@pytest.mark.parametrize("kind", ["set", "ring", "big", "text", "key"])
def test_a_result_that_cannot_cross_is_an_error(worker: RawWorker, kind: str) -> None:
    assert error(worker.call(12, "bad_result", kind=kind)).type_name == "SerializationError"


def test_a_result_beyond_its_limit_is_an_error_that_names_the_limit(worker: RawWorker) -> None:
    assert error(worker.call(13, "long_result", size=2 << 20)).cause == ("limit", "result_size")
    assert result(worker.call(14, "long_result", size=1 << 20)) == bytes(1 << 20)


def test_the_plugin_is_not_on_the_main_thread_where_signal_handlers_run(worker: RawWorker) -> None:
    assert "main thread" in error(worker.call(15, "take_signals")).text


def test_an_unknown_hook_or_argument_is_an_error_like_any_other(worker: RawWorker) -> None:
    assert error(worker.call(16, "no_such_hook")).type_name == "KeyError"
    assert error(worker.call(17, "echo", other=1)).type_name == "TypeError"


def test_a_reply_counts_the_refusals_of_its_call(worker: RawWorker) -> None:
    assert worker.call(18, "denied", path="/etc/passwd")[3] == 3
    assert worker.call(19, "echo", value=1)[3] == 0


def test_a_traceback_shows_the_plugin_and_not_the_loop(worker: RawWorker) -> None:
    text = error(worker.call(20, "throw", name="ValueError")).traceback
    assert "in throw" in text
    assert "serve.py" not in text


def test_a_failed_import_is_told_and_ends_the_worker(fresh: Callable[..., RawWorker]) -> None:
    started = fresh("raise SystemExit('no')")
    stage, text, limit = messages.failure_of(started.receive())
    assert (stage, limit) == ("import", None)
    assert "SystemExit: no" in text
    assert started.ended() == serve.EXIT_DONE


NO_HOOKS = "x = 1"
ODD_HOOK = """
import sys
from sandbox_worker.plugin_api import HookimplMarker
setattr(sys.modules[__name__], chr(0xD800), HookimplMarker("tests")(lambda: 0))
"""


@pytest.mark.parametrize("source", [NO_HOOKS, ODD_HOOK], ids=["none", "surrogate"])
def test_a_plugin_without_usable_hooks_is_told_and_ends_the_worker(
    fresh: Callable[..., RawWorker], source: str
) -> None:
    started = fresh(source)
    assert messages.failure_of(started.receive())[0] == "hooks"
    assert started.ended() == serve.EXIT_DONE


def test_a_host_that_hangs_up_ends_the_worker_quietly(fresh: Callable[..., RawWorker]) -> None:
    started = fresh()
    messages.hooks_of(started.receive())
    started.hang_up()
    assert started.ended() == serve.EXIT_DONE


def test_bytes_that_are_no_call_end_the_worker(fresh: Callable[..., RawWorker]) -> None:
    started = fresh()
    messages.hooks_of(started.receive())
    started.send_raw(b"\0\0\0\1\xc1")
    assert started.ended() == serve.EXIT_BROKEN


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_a_call_is_read_whole_however_it_is_cut(sizes: list[int]) -> None:
    frame = wire.Encoder().encode([messages.CALL, 1, "echo", {"value": "x" * 600}])
    pieces: list[bytes] = []
    at = 0
    while at < len(frame):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(frame[at : at + size])
        at += size
    left = iter(pieces)
    call = Channel().receive(lambda _fd, _size: next(left))
    assert call == [messages.CALL, 1, "echo", {"value": "x" * 600}]


@given(st.integers(1, 5000))
def test_a_frame_is_written_whole_however_little_is_taken_at_once(taken: int) -> None:
    written: list[bytes] = []

    def write(_fd: int, data: bytes) -> int:
        written.append(data[:taken])
        return len(written[-1])

    frame = wire.Encoder().encode([messages.RESULT, 1, "x" * 4000, 0])
    Channel().send_frame(frame, write)
    assert b"".join(written) == frame


@pytest.mark.parametrize("taken", [1000, 1 << 16, 1 << 20])
def test_a_long_frame_is_written_whole_however_little_is_taken_at_once(taken: int) -> None:
    written: list[bytes] = []

    def write(_fd: int, data: memoryview) -> int:
        written.append(bytes(data[:taken]))
        return len(written[-1])

    frame = wire.Encoder().encode([messages.RESULT, 1, wire.Apart([b"x" * (1 << 18), b"y" * (1 << 17)]), 0])
    Channel().send_frame(frame, write)
    assert b"".join(written) == b"".join(frame.pieces)


def test_nothing_is_written_of_a_message_that_cannot_cross() -> None:
    with pytest.raises(Unsendable):
        Channel().send([messages.RESULT, 1, {1, 2}, 0], lambda *_: pytest.fail("wrote something"))
