"""What a worker uses that no rlimit bounds: the files that it writes, and memory that is shared with nobody.

Looked at by a thread of its own, since a plugin decides how long the look takes; the watcher's deadlines don't wait for
it. The walk goes by descriptors, so that neither a path's length nor a link swapped in on the way leads it astray.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from host.model.manifest import Limits
    from host.run.worker import Worker

_log: Final = logging.getLogger("host")

TICK: Final = 0.25
"""Seconds between two looks at a worker that is in a call; one that is idle is looked at every eighth time."""
_IDLE_TICKS: Final = 8
_SHARE: Final = 5
"""A look that took n seconds is followed by at least 20 n without one."""
_DEEPEST: Final = 200
_FIRST_LOOK: Final = 5.0
"""Seconds that the size of what is there already may take to find; what takes longer is not watched, and said so."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclasses.dataclass(slots=True)
class Usage:
    """Bytes, entries, and folders that can't be looked into; `whole` is False where the walk was given up."""

    size: int = 0
    entries: int = 0
    hidden: int = 0
    whole: bool = True

    def add(self, status: os.stat_result) -> None:
        """Count one file: what it claims, or the blocks that it keeps beyond its end (fallocate(2))."""
        self.size += max(status.st_size, status.st_blocks * 512)


class _EnoughError(Exception):
    """A walk is given up."""


def measure(paths: tuple[str, ...], go_on: Callable[[Usage], bool]) -> Usage:
    """What lies in `paths` (files or folders), counted until `go_on(usage so far)` is false."""
    usage = Usage()
    for path in paths:
        try:
            _measure_one(path, usage, go_on)
        except FileNotFoundError:
            continue
        except OSError:
            usage.hidden += 1
        except _EnoughError:
            usage.whole = False
            break
    return usage


def _measure_one(path: str, usage: Usage, go_on: Callable[[Usage], bool]) -> None:
    status = os.lstat(path)
    if stat.S_ISREG(status.st_mode):
        usage.add(status)
    elif stat.S_ISDIR(status.st_mode):
        folder = os.open(path, _FOLDER)
        try:
            _walk(folder, usage, go_on, 0)
        finally:
            os.close(folder)


def _walk(folder: int, usage: Usage, go_on: Callable[[Usage], bool], depth: int) -> None:
    with os.scandir(folder) as found:
        for entry in found:
            usage.entries += 1
            if not go_on(usage):
                raise _EnoughError
            try:
                if not entry.is_dir(follow_symlinks=False):
                    usage.add(entry.stat(follow_symlinks=False))
                    continue
                child = os.open(entry.name, _FOLDER, dir_fd=folder)
            except FileNotFoundError:
                continue
            except OSError:
                usage.hidden += 1
                continue
            try:
                if depth >= _DEEPEST:
                    usage.hidden += 1
                else:
                    _walk(child, usage, go_on, depth + 1)
            finally:
                os.close(child)


class Quota:
    """How much one plugin's writable paths have grown since it was loaded; kept over its workers."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        end = time.monotonic() + _FIRST_LOOK
        self.granted = paths
        self.paths = paths
        self._start = measure(paths, lambda _: time.monotonic() < end)
        if not self._start.whole:
            self.paths, self._start = (), Usage()
            _log.warning("write_size and write_files are not watched: %s hold too much to count", ", ".join(paths))

    def exceeded(self, limits: Limits, private: tuple[str, ...], unlinked: int) -> str | None:
        """``write_size`` or ``write_files`` if that limit is passed.

        `private` are folders that were empty at their worker's start, `unlinked` bytes of open files without a name.
        """
        size = self._start.size + limits.write_size - unlinked
        entries = self._start.entries + limits.write_files
        usage = measure((*self.paths, *private), lambda found: found.size <= size and found.entries <= entries)
        if usage.size > size or usage.hidden > self._start.hidden:
            return "write_size"
        return "write_files" if usage.entries > entries else None


def unlinked(pid: int) -> int:
    """Bytes of the regular files that a process holds open and that have no name any more."""
    usage = Usage()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{name}")
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                    usage.add(status)
    return usage.size


def shared_memory(pid: int) -> int:
    """Bytes that a process maps shared and anonymous: resident or not, such pages stay until they are unmapped."""
    total = 0
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps,
    ):
        for line in maps:
            if line.endswith("/dev/zero (deleted)\n"):  # so the kernel calls them, proc_pid_maps(5)
                start, _, end = line.split(maxsplit=1)[0].partition("-")
                total += int(end, 16) - int(start, 16)
    return total


@dataclasses.dataclass(slots=True)
class _Watched:
    worker: Worker
    quota: Quota
    private: tuple[str, ...]
    looked: float = 0.0
    took: float = 0.0

    def due(self, now: float) -> bool:
        pause = TICK if self.worker.busy else _IDLE_TICKS * TICK
        return now >= self.looked + max(pause, _SHARE * self.took) - TICK / 2


class QuotaWatcher:
    """The thread; started with the first worker, ended by `close`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watched: dict[Worker, _Watched] = {}
        self._closing = False
        self._thread: threading.Thread | None = None

    def add(self, worker: Worker, quota: Quota, private: tuple[str, ...]) -> None:
        """Look at one more worker."""
        with self._changed:
            first = not self._watched
            self._watched[worker] = _Watched(worker, quota, private, time.monotonic())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="plughold-quota", daemon=True)
                self._thread.start()
            if first:  # else its own tick will do: a look now would compete with the start
                self._changed.notify()

    def remove(self, worker: Worker) -> None:
        """Look at it no more."""
        with self._changed:
            self._watched.pop(worker, None)

    def close(self) -> None:
        """End the thread and wait for it. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def abandon(self) -> None:
        """In a forked child there is no thread, and whatever it held is held for ever."""
        self._changed, self._thread = threading.Condition(), None

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._closing:
                    self._changed.wait(TICK if self._watched else None)
                if self._closing:
                    return
                due = [watched for watched in self._watched.values() if watched.due(time.monotonic())]
            for watched in due:
                self._look(watched)

    @staticmethod
    def _look(watched: _Watched) -> None:
        worker, begin = watched.worker, time.monotonic()
        if not worker.usable:
            return
        try:
            limit = watched.quota.exceeded(worker.limits, watched.private, unlinked(worker.pid))
            if limit is None and shared_memory(worker.pid) > worker.limits.memory:
                limit = "memory"
        except Exception:  # noqa: BLE001 - what can't be watched must not run
            _log.exception("worker %d can't be watched", worker.pid)
            limit = "write_size"
        if limit is not None:
            worker.kill(limit)
        watched.looked = time.monotonic()
        watched.took = watched.looked - begin
