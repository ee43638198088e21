"""Promises of the watcher: deadlines hold, and one worker's trouble is never another's."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from until import PATIENCE, until

from host.model.manifest import Limits
from host.run import watcher as watching
from host.run.covers import Covers
from host.run.watcher import Watch, Watcher, _resident_of_threads

if TYPE_CHECKING:
    from collections.abc import Iterator


class Fake:
    """As much of a worker as the watcher looks at; its `pid` is above any that Linux gives out (proc_sys_kernel(5))."""

    numbers = itertools.count(1 << 23)

    def __init__(self, deadline: float | None = None) -> None:
        self.pid = next(self.numbers)
        self.limits = Limits()
        self.deadline = deadline
        self.busy = deadline is not None
        self.turn = 1
        self.events, self._events = os.pipe()
        self.output, self._output = os.pipe()
        self.pidfd, self._pidfd = os.pipe()
        self.killed = threading.Event()
        self.reason = ""
        self.refusals = -1
        self.broker = None

    @property
    def usable(self) -> bool:
        return not self.killed.is_set()

    def overdue(self, now: float) -> str | None:
        return "timeout" if self.deadline is not None and now > self.deadline else None

    def kill(self, reason: str) -> None:
        self.reason = reason
        self.killed.set()

    def drain_output(self) -> None:
        os.read(self.output, 100)

    def say(self, what: bytes = b"x") -> None:
        os.write(self._events, what)

    def close(self) -> None:
        for end in (self.events, self._events, self.output, self._output, self.pidfd, self._pidfd):
            os.close(end)


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    before = set(os.listdir("/proc/self/fd"))
    made = Watcher()
    yield made
    made.close()
    assert set(os.listdir("/proc/self/fd")) - before == set()


def watch(watcher: Watcher, worker: Any, on_denials: Any = lambda: None, on_end: Any = lambda: None) -> None:
    watcher.add(Watch(worker, on_denials, on_end, Covers(())))


def test_a_worker_past_its_deadline_is_killed(watcher: Watcher) -> None:
    worker = Fake(time.monotonic())
    watch(watcher, worker)
    assert worker.killed.wait(PATIENCE)
    assert worker.reason == "timeout"
    watcher.remove(worker)  # type: ignore[arg-type]
    worker.close()


def test_a_worker_that_cannot_be_watched_is_killed_and_the_others_deadlines_hold(watcher: Watcher) -> None:
    def fail() -> None:
        raise OSError("no space")

    broken, other = Fake(), Fake(time.monotonic() + 0.2)
    watch(watcher, broken, on_denials=fail)
    watch(watcher, other)
    broken.say()
    assert broken.killed.wait(PATIENCE)
    assert other.killed.wait(PATIENCE)
    assert (broken.reason, other.reason) == ("", "timeout")
    for worker in (broken, other):
        watcher.remove(worker)  # type: ignore[arg-type]
        worker.close()


def test_a_worker_that_was_removed_is_left_alone(watcher: Watcher) -> None:
    worker, other = Fake(), Fake()
    seen = threading.Event()
    watch(watcher, worker, on_denials=lambda: pytest.fail("looked at"))
    watch(watcher, other, on_denials=seen.set)
    watcher.remove(worker)  # type: ignore[arg-type]
    worker.say()
    other.say()
    assert seen.wait(PATIENCE)
    watcher.remove(other)  # type: ignore[arg-type]
    worker.close()
    other.close()


def test_the_end_of_a_worker_is_told_once(watcher: Watcher) -> None:
    worker, other = Fake(), Fake()
    ends: list[int] = []
    told, later = threading.Event(), threading.Event()

    def end() -> None:
        ends.append(1)
        told.set()

    watch(watcher, worker, on_end=end)
    watch(watcher, other, on_denials=later.set)
    os.write(worker._pidfd, b"x")
    assert told.wait(PATIENCE)
    other.say()  # another round of the thread
    assert later.wait(PATIENCE)
    assert ends == [1]
    for one in (worker, other):
        watcher.remove(one)  # type: ignore[arg-type]
        one.close()


def test_closing_ends_the_thread_and_is_idempotent() -> None:
    watcher = Watcher()
    worker = Fake()
    watch(watcher, worker)
    (thread,) = (t for t in threading.enumerate() if t.name == "plughold-watcher")
    watcher.close()
    watcher.close()
    watcher.wake()
    assert not thread.is_alive()
    worker.close()


def test_a_call_that_starts_while_it_sleeps_wakes_it(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a deadline could be overrun by its longer tick."""
    monkeypatch.setattr(watching, "IDLE_TICK", 60.0)
    worker = Fake()
    watch(watcher, worker)
    until(lambda: watcher.asleep)
    worker.deadline, worker.busy = time.monotonic(), True
    watcher.wake()
    assert worker.killed.wait(PATIENCE)
    watcher.remove(worker)  # type: ignore[arg-type]
    worker.close()


def test_the_memory_of_a_process_whose_first_thread_has_ended_is_seen_in_its_others() -> None:
    code = (
        "import ctypes, os, sys, threading\n"
        "threading.Thread(target=lambda: (print(flush=True), sys.stdin.read())).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        until(lambda: "Z" in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0])
        assert _resident_of_threads(process.pid) > 1 << 20
        process.kill()
