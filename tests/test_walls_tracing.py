"""System calls in another process: real children of ours, which do afterwards what they were about to do."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import TYPE_CHECKING, Final

import pytest
from walls_driver import ended, need

from sandbox_worker.walls.tracing import SUPPORTED, Tracee

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="registers of another machine")

NO_TRACING: Final = 999_999_999


class Child:
    """A child that reads from `reads`, then does `work` with what it read, until it is told nothing more."""

    def __init__(self, work: Callable[[bytes], bytes]) -> None:
        self.reads, self._tell = os.pipe()
        self._answers, answers = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self._tell)
            with contextlib.suppress(BaseException):
                while told := os.read(self.reads, 100):
                    os.write(answers, work(told))
            os._exit(0)
        os.close(answers)
        self.handle = os.pidfd_open(self.pid)

    def ask(self, what: bytes) -> bytes:
        self.tell(what)
        return os.read(self._answers, 1000)

    def tell(self, what: bytes) -> None:
        os.write(self._tell, what)

    def heard(self) -> bytes:
        return os.read(self._answers, 1000)

    def end(self) -> None:
        for descriptor in (self.reads, self._tell, self._answers, self.handle):
            os.close(descriptor)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child(lambda told: told + b" in " + os.getcwd().encode())
    yield made
    made.end()


def stopped(child: Child) -> Tracee:
    """The child, ready to be asked for calls."""
    tracee = Tracee(child.pid, child.reads)
    tracee.borrow()
    return tracee


def test_a_call_is_made_by_the_child_and_its_read_after_that(child: Child) -> None:
    tracee = stopped(child)
    assert tracee.call("getpid") == child.pid
    tracee.call("chdir", tracee.hold(b"/proc\0"))
    tracee.release()
    assert child.ask(b"hello") == b"hello in /proc"
    assert child.ask(b"again") == b"again in /proc"


def test_what_it_is_told_while_it_is_stopped_is_read_afterwards(child: Child) -> None:
    tracee = stopped(child)
    child.tell(b"early")
    assert tracee.call("getppid") == os.getpid()
    tracee.release()
    assert child.heard().startswith(b"early in ")


def test_a_call_that_fails_says_so_with_the_kernels_reason(child: Child) -> None:
    tracee = stopped(child)
    with pytest.raises(OSError) as caught:
        tracee.call("close", 9999)
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, "close")
    tracee.release()
    assert child.ask(b"hello").startswith(b"hello")


def test_memory_that_was_held_is_given_back(child: Child) -> None:
    before = maps(child.pid)
    tracee = stopped(child)
    address = tracee.hold(lambda start: start.to_bytes(8, "little") + b"more")
    assert tracee.held(12) == address.to_bytes(8, "little") + b"more"
    assert maps(child.pid) != before
    with pytest.raises(OSError) as caught:
        tracee.hold(bytes(1 << 20))
    assert caught.value.errno == errno.E2BIG
    tracee.release()
    assert maps(child.pid) == before


def test_it_is_no_longer_traced_once_it_is_released(child: Child) -> None:
    stopped(child).release()
    with open(f"/proc/{child.pid}/status") as file:
        assert "TracerPid:\t0\n" in file.read()


def test_a_child_that_is_busy_is_stopped_when_it_reads() -> None:
    child = Child(lambda _: str(sum(range(2_000_000))).encode())
    try:
        child.tell(b"count")
        tracee = stopped(child)
        assert tracee.call("getpid") == child.pid
        tracee.release()
        assert child.heard() == str(sum(range(2_000_000))).encode()
    finally:
        child.end()


def test_one_that_dies_is_an_error(child: Child) -> None:
    tracee = stopped(child)
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises((ChildProcessError, ProcessLookupError)):
        tracee.call("getpid")


def test_one_that_gets_a_signal_is_an_error_and_no_call_is_lost_in_it(child: Child) -> None:
    tracee = stopped(child)
    os.kill(child.pid, signal.SIGTERM)
    with pytest.raises(ChildProcessError):
        tracee.call("getpid")


def test_a_copy_is_a_child_of_ours_in_the_same_place() -> None:
    def work(told: bytes) -> bytes:
        return b"" if os.fork() else told + b" by %d" % os.getppid()

    server = Child(work)
    try:
        tracee = Tracee(server.pid, server.reads)
        server.tell(b"fork")
        copy = tracee.fork()
        assert copy.pid != server.pid
        copy.borrow()
        assert copy.call("getpid") == copy.pid
        assert copy.call("getppid") == os.getpid()
        assert server.heard() == b"fork by %d" % os.getpid()
        os.kill(copy.pid, signal.SIGKILL)
        assert os.waitpid(copy.pid, 0)[0] == copy.pid
    finally:
        server.end()


def test_it_dies_with_the_one_that_traces_it() -> None:
    """Between its birth and its walls nothing of it may be left to run."""
    pids, answer = os.pipe()
    tracer = os.fork()
    if not tracer:
        child = Child(bytes)
        tracee = stopped(child)
        os.write(answer, tracee.pid.to_bytes(4, "big"))
        time.sleep(60)
        os._exit(0)
    handle = os.pidfd_open(int.from_bytes(os.read(pids, 4), "big"))
    os.kill(tracer, signal.SIGKILL)
    os.waitpid(tracer, 0)
    assert ended(handle)
    for descriptor in (pids, answer, handle):
        os.close(descriptor)


def test_what_may_not_be_traced_is_an_error() -> None:
    need(os.path.exists("/proc/1/status"), "a first process")
    with pytest.raises(OSError):
        Tracee(NO_TRACING, 0)


def maps(pid: int) -> list[str]:
    with open(f"/proc/{pid}/maps") as file:
        return [line.split()[0] for line in file]
