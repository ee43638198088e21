"""The one thread that looks at all workers from outside: deadlines, memory, CPU time, threads, output.

It never touches a call's pipes. While calls run it looks every 50 ms; when none runs it sleeps longer, and a call that
starts wakes it. psutil is imported here, in the thread, since its import takes longer than a worker's start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final

from host.run.process import UNCOVERED

if TYPE_CHECKING:
    from collections.abc import Callable

    import psutil

    from host.run.covers import Covers
    from host.run.worker import Worker

_log: Final = logging.getLogger("host")

BUSY_TICK: Final = 0.05
IDLE_TICK: Final = 0.5
_QUIET: Final = 1.0
"""Seconds without a call after which the longer tick will do."""


class Watch:
    """What the watcher keeps about one worker."""

    __slots__ = (
        "covers",
        "cpu_at_call",
        "listened",
        "on_denials",
        "on_end",
        "process",
        "quiet_until",
        "turn",
        "worker",
    )

    def __init__(
        self, worker: Worker, on_denials: Callable[[], None], on_end: Callable[[], None], covers: Covers
    ) -> None:
        self.worker = worker
        self.on_denials = on_denials
        self.on_end = on_end
        self.covers = covers
        self.quiet_until = 0.0
        self.turn = -1
        self.cpu_at_call = 0.0
        self.process: psutil.Process | None = None
        self.listened = {worker.events, worker.output, worker.refusals, worker.pidfd, self.awaited} - {-1}

    @property
    def awaited(self) -> int:
        """Ready when the worker has something for its broker, and that is not yet told of it."""
        return self.worker.broker.awaited if self.worker.broker is not None else -1


class Watcher:
    """A daemon thread, started with the first worker; `close` ends it."""

    def __init__(self) -> None:
        self.asleep = False
        self._lock = threading.Lock()
        self._watched: dict[int, Watch] = {}
        self._closing = False
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._last_call = 0.0

    def add(self, watch: Watch) -> None:
        """Look at one more worker."""
        with self._lock:
            self._watched[watch.worker.pid] = watch
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="plughold-watcher", daemon=True)
                self._thread.start()
        if self.asleep:  # else the next tick will do: a look now would compete with the start
            self.wake()

    def remove(self, worker: Worker) -> None:
        """Look at it no more; the thread is done with its descriptors when this returns."""
        with self._lock:
            self._watched.pop(worker.pid, None)
        self.wake()

    def wake(self) -> None:
        """Look now."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """End the thread and wait for it. Idempotent."""
        self._closing = True
        self.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self.abandon()

    def abandon(self) -> None:
        """Close the descriptors; in a forked child there is no thread to wait for."""
        mine, self._wake_read, self._wake_write = {self._wake_read, self._wake_write} - {-1}, -1, -1
        for descriptor in mine:
            os.close(descriptor)

    # --- the thread

    def _run(self) -> None:
        while not self._closing:
            with self._lock:
                watched = list(self._watched.values())
            news = self._poll(watched)
            for watch in watched:
                try:
                    self._attend(watch, news)
                except Exception:  # noqa: BLE001 - the others' deadlines must hold; what can't be watched must not run
                    _log.exception("worker %d can't be watched", watch.worker.pid)
                    watch.worker.kill("")

    def _poll(self, watched: list[Watch]) -> dict[int, int]:
        """Descriptors with news, and which, after at most one tick."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        begin = time.monotonic()
        for watch in watched:
            # What it says is heard once a tick: a flood fills its pipe and waits there, instead of this thread's time.
            urgent = {watch.worker.pidfd, watch.awaited}
            heard = watch.listened if watch.quiet_until <= begin else watch.listened & urgent
            for descriptor in heard:
                poll.register(descriptor, select.POLLIN)
        self.asleep = True  # before the look at the deadlines: a call that starts after it wakes this thread
        now = time.monotonic()
        if any(watch.worker.busy or watch.worker.deadline is not None for watch in watched):
            self._last_call = now
        busy = now - self._last_call < _QUIET
        self.asleep = not busy
        news = dict(poll.poll(1000 * (BUSY_TICK if busy else IDLE_TICK)))
        self.asleep = False
        with contextlib.suppress(OSError):
            os.read(self._wake_read, 4096)
        return news

    def _attend(self, watch: Watch, news: dict[int, int]) -> None:
        """Listen to one worker, then look at it. One that was removed meanwhile is left alone."""
        worker = watch.worker
        with self._lock:
            if self._watched.get(worker.pid) is not watch:
                return
            if worker.output in news:
                worker.drain_output()
            if worker.output in news or worker.events in news:
                watch.quiet_until = time.monotonic() + BUSY_TICK
            if worker.broker is not None and worker.broker.awaited in news:
                watch.listened.discard(worker.broker.awaited)
                worker.broker.attend()
                watch.listened |= {worker.refusals, watch.awaited} - {-1}
            # A pipe whose other end is closed stays "ready" for ever (poll(2)): stop listening to it.
            watch.listened -= {d for d, mask in news.items() if not mask & select.POLLIN}
            gone = worker.pidfd in news
            if gone:
                watch.listened.clear()
        if worker.events in news or worker.refusals in news:
            watch.on_denials()
        if gone:
            watch.on_end()
        elif worker.usable:
            self._check(watch)

    def _check(self, watch: Watch) -> None:
        worker = watch.worker
        if watch.covers.lost():
            worker.kill(UNCOVERED)
            return
        limit = worker.overdue(time.monotonic()) or self._exceeded(watch)
        if limit is not None:
            worker.kill(limit)

    def _exceeded(self, watch: Watch) -> str | None:
        """The limit that this worker is above, if any."""
        import psutil

        worker, limits = watch.worker, watch.worker.limits
        try:
            if watch.process is None:
                watch.process = psutil.Process(worker.pid)
            process = watch.process
            # Nothing resident: it is ending, or its first thread has ended, and the others still show it (proc(5)).
            if (process.memory_info().rss or _resident_of_threads(worker.pid)) > limits.memory:
                return "memory"
            if len(os.listdir(f"/proc/{worker.pid}/task")) > limits.threads + 2:  # the worker's own two
                return "threads"
            times = process.cpu_times()
        except (psutil.Error, OSError):  # it ended just now; the host has no descriptor left: the next look will tell
            return None
        cpu = times.user + times.system
        if worker.turn != watch.turn:
            watch.turn, watch.cpu_at_call = worker.turn, cpu
        # What its threads use after the call is charged to the call that left them.
        return "cpu_time" if cpu - watch.cpu_at_call > limits.cpu_time else None


def _resident_of_threads(pid: int) -> int:
    """Bytes resident, as the threads of a process show them."""
    pages = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/statm", "rb") as statm:
            pages = max(pages, int(statm.read().split()[1]))
    return pages * os.sysconf("SC_PAGESIZE")
