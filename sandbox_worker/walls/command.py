"""What a forked child of a keeper does before it is a command: a worker's ordered steps, with three descriptors.

It stands behind the walls of its worker, less the network: the same files, the same view, a filter that lets pass one
execve, with the program's own rules besides. The program is the only thing that it executes, ever.
"""

from __future__ import annotations

import os
import signal

from .lockdown import Child, require_one_thread
from .steps import EXIT_BASE, STEPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

    from .lockdown import Plan

CWD: Final = len(STEPS)
"""The step, in a report, of changing to the folder that the worker named."""
REPORT: Final = 8
"""Bytes of a report: a step and an errno, 4 bytes each, big-endian."""


def become_command(plan: Plan, umask: int, report: int) -> NoReturn:
    """Take the steps, in a child that has just been forked. Never returns, and never raises.

    What fails is written to the pipe `report`, which an execve closes.
    """
    child = _Command(plan, umask, report)
    index = 0
    try:
        for index, step in enumerate(STEPS):  # noqa: B007 - the step that failed is read below
            getattr(child, step)()
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on as a second keeper
        number = error.errno if isinstance(error, OSError) and error.errno else 0
        failed = CWD if child.moving else index
        os.write(report, failed.to_bytes(4, "big") + number.to_bytes(4, "big"))
    finally:
        os._exit(EXIT_BASE + index)


class _Command(Child):
    __slots__ = ("_report", "_umask", "moving")

    def __init__(self, plan: Plan, umask: int, report: int) -> None:
        super().__init__(plan)
        self._umask = umask
        self._report = report
        self.moving = False

    def descriptors(self) -> None:
        """The three that the worker gave, and until the exec the ruleset and the report."""
        self.keep_only(self._plan.ruleset, self._report)

    def session(self) -> None:
        """A session of its own, so that what it signals as a group is itself. Signals as a new program expects them."""
        require_one_thread()
        os.setsid()
        os.chdir("/")
        os.umask(self._umask)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)

    def settle(self) -> None:
        """Nothing: the descriptors are the worker's, which come from a view like this one."""

    def exec(self) -> None:
        """The program, from the folder that the worker named, if that is there for it."""
        self.moving = True
        os.chdir(self._plan.folder)
        self.moving = False
        super().exec()
