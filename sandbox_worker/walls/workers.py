"""The workers of a spawner, from fork to the wait that ends their names."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from . import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

GRACE: Final = 1.0
"""Seconds that a worker has to end by itself once it is to be reaped."""


class Workers:
    """Children that have not been waited for. Times are seconds of one monotonic clock.

    A dead child stays a zombie until it is collected: as long as a pid is in here it names that child and no other
    process, and so does the process group that the child leads. A worker with a keeper is collected after that, which
    ends by itself, with all commands, once the worker is dead.
    """

    __slots__ = ("_deadlines", "_ending", "_keepers", "_pids")

    def __init__(self) -> None:
        self._pids: set[int] = set()
        self._keepers: dict[int, int] = {}  # worker: keeper, while that has not been waited for
        self._ending: dict[int, tuple[int, int]] = {}  # pidfd: (pid of the process that is to end, worker)
        self._deadlines: dict[int, float] = {}  # pid: when it is killed

    def __contains__(self, pid: object) -> bool:
        """Whether this is a worker that nobody has asked to end yet."""
        return pid in self._pids

    def add(self, pid: int, keeper: int = 0) -> None:
        """A child has been forked, and perhaps a keeper of its commands."""
        self._pids.add(pid)
        if keeper:
            self._keepers[pid] = keeper

    def end(self, pid: int, now: float) -> int | None:
        """The wait status of a worker that is dead; else None, and it has GRACE to end: `ending` lists it."""
        self._pids.remove(pid)
        if pid not in self._keepers:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
        self._await(pid, pid, now)
        return None

    def ending(self) -> tuple[int, ...]:
        """The pidfds of workers, and of keepers of dead ones, that are to end; readable when they have."""
        return tuple(self._ending)

    def kill_overdue(self, now: float) -> float | None:
        """Kill those past their grace; gives the seconds until the next one is, None when there is none."""
        for pid in [pid for pid, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[pid]
            _kill(pid)
        return min(self._deadlines.values()) - now if self._deadlines else None

    def collect(self, pidfd: int, now: float = 0.0) -> tuple[int, int] | None:
        """(pid, wait status) of a worker in `ending` whose pidfd is readable; None when its keeper still has to end."""
        process, worker = self._ending.pop(pidfd)
        self._deadlines.pop(process, None)
        os.close(pidfd)
        keeper = self._keepers.get(worker)
        if keeper is None:
            return os.waitpid(worker, 0)
        if process == worker:
            self._await(keeper, worker, now)
            return None
        del self._keepers[worker]
        if os.waitpid(keeper, 0)[1]:  # it was killed: what it left came to its parent
            self._bury()
        return os.waitpid(worker, 0)

    def kill_all(self) -> None:
        """Kill every worker, at once, and see to it that no command is left."""
        for pid in (*self._pids, *(worker for _, worker in self._ending.values())):
            _kill(pid)
        deadline = time.monotonic() + GRACE
        if [keeper for keeper in self._keepers.values() if not _ends_within(keeper, deadline - time.monotonic())]:
            self._bury()

    def _await(self, process: int, worker: int, now: float) -> None:
        self._ending[os.pidfd_open(process)] = process, worker
        self._deadlines[process] = now + GRACE

    def _bury(self) -> None:
        """Kill the children that nobody here has started: what a keeper that was killed has left behind."""
        known = {*self._pids, *self._keepers, *self._keepers.values(), *(p for p, _ in self._ending.values())}
        known.update(worker for _, worker in self._ending.values())
        with contextlib.suppress(OSError):
            while strangers := set(tree.children()) - known:
                for pid in strangers:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)


def _ends_within(pid: int, seconds: float) -> bool:
    """Let a child end by itself, or kill it; whether it ended in order. It stays a zombie."""
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(max(0.0, 1000 * seconds)):
        _kill(pid)
        poll.poll()
    os.close(pidfd)
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return found is not None and (found.si_code, found.si_status) == (os.CLD_EXITED, 0)


def _kill(pid: int) -> None:
    """The process, which may not lead its group yet, and the group, which may have more in it."""
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
