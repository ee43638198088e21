"""The workers of a spawner, from fork to the wait that ends their names."""

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

GRACE: Final = 1.0
"""Seconds that a worker has to end by itself once it is to be reaped."""


class Workers:
    """Children that have not been waited for. Times are seconds of one monotonic clock.

    A dead child stays a zombie until it is collected: as long as a pid is in here it names that child and no other
    process, and so does the process group that the child leads.
    """

    __slots__ = ("_deadlines", "_ending", "_pids")

    def __init__(self) -> None:
        self._pids: set[int] = set()
        self._ending: dict[int, int] = {}  # pidfd: pid
        self._deadlines: dict[int, float] = {}  # pid: when it is killed

    def __contains__(self, pid: object) -> bool:
        """Whether this is a worker that nobody has asked to end yet."""
        return pid in self._pids

    def add(self, pid: int) -> None:
        """A child has been forked."""
        self._pids.add(pid)

    def end(self, pid: int, now: float) -> int | None:
        """The wait status of a worker that is dead; else None, and it has GRACE to end: `ending` lists it."""
        self._pids.remove(pid)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        self._ending[os.pidfd_open(pid)] = pid
        self._deadlines[pid] = now + GRACE
        return None

    def ending(self) -> tuple[int, ...]:
        """The pidfds of workers that are to end; readable when they have."""
        return tuple(self._ending)

    def kill_overdue(self, now: float) -> float | None:
        """Kill those past their grace; gives the seconds until the next one is, None when there is none."""
        for pid in [pid for pid, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[pid]
            _kill(pid)
        return min(self._deadlines.values()) - now if self._deadlines else None

    def collect(self, pidfd: int) -> tuple[int, int]:
        """(pid, wait status) of a worker in `ending` whose pidfd is readable."""
        pid = self._ending.pop(pidfd)
        self._deadlines.pop(pid, None)
        os.close(pidfd)
        return os.waitpid(pid, 0)

    def kill_all(self) -> None:
        """Kill every worker, at once."""
        for pid in (*self._pids, *self._ending.values()):
            _kill(pid)


def _kill(pid: int) -> None:
    """The process, which may not lead its group yet, and the group, which may have more in it."""
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
