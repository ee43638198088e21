"""What this machine has for the walls: its architecture, Landlock, seccomp, namespaces; and the filters for it."""

from __future__ import annotations

import contextlib
import errno
import os

from . import landlock, linux, tree
from .bpf import ALLOW, KILL_PROCESS, compile_filter, fail_with
from .profile import BROKERED, command_filter, worker_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Final

    from .bpf import Program

WALLED: Final = "walled"
"""Namespaces, Landlock and seccomp."""

CONFINED: Final = "confined"
"""Landlock and seccomp."""

FILTERED: Final = "filtered"
"""seccomp alone."""

_NO_NEW_PRIVS: Final = 38  # PR_SET_NO_NEW_PRIVS


class Machine:
    """Asks the kernel once, when it is made; of namespaces it is told (`note_namespaces`).

    `landlock_abi` is 0 without Landlock; `notifications` is False where a broker can't answer for a filter; `missing`
    says in whole sentences what is not there and why.
    """

    __slots__ = ("_command_filters", "_filters", "landlock_abi", "missing", "namespaces", "notifications", "seccomp")

    def __init__(self) -> None:
        self.landlock_abi = 0
        self.seccomp = False
        self.namespaces = False
        self.notifications = False
        self.missing: list[str] = []
        self._filters: dict[tuple[str, frozenset[str], bool, bool], Program] = {}
        self._command_filters: dict[tuple[str, bool], Program] = {}
        if linux.ARCHITECTURE is None:
            self.missing.append(f"no table of system calls for this machine: {linux.MACHINE}")
            return
        self.landlock_abi, why_not = landlock.version()
        if why_not:
            self.missing.append(why_not)
        why_not = _why_no_seccomp()
        if why_not:
            self.missing.append(why_not)
            return
        self.seccomp = True
        self.notifications = not try_notifications()
        for tier in (FILTERED, CONFINED):
            with contextlib.suppress(ValueError):
                self.filter_of(tier)

    def note_namespaces(self, why_not: str) -> None:
        """Whether an attempt at a view succeeded: the empty text, or why not."""
        if why_not:
            self.missing.append(why_not)
        elif linux.ARCHITECTURE is not None and self.seccomp and self.landlock_abi:
            self.namespaces = True
            self.filter_of(WALLED)

    def report(self) -> dict[str, object]:
        """For the host: the content of "ready"."""
        return {
            "landlock_abi": self.landlock_abi,
            "seccomp": self.seccomp,
            "namespaces": self.namespaces,
            "notifications": self.notifications,
            "forks": may_fork(WALLED if self.namespaces else CONFINED, self.landlock_abi),
            "machine": linux.MACHINE,
            "arch_supported": linux.ARCHITECTURE is not None,
            "missing": self.missing,
        }

    def filter_of(
        self, tier: str, brokered: Collection[str] = (), *, unjudged: bool = False, execs: bool = True
    ) -> Program:
        """The filter of a tier for a worker for which the broker answers `brokered`; compiled when first wanted.

        `execs` is for a worker that has yet to execute its interpreter.

        ValueError for a tier that this machine can't reach or that needs no filter, and for an unknown `brokered`.
        """
        walls = {FILTERED: True, CONFINED: bool(self.landlock_abi), WALLED: self.namespaces}
        reachable = self.seccomp and walls.get(tier, False)
        if linux.ARCHITECTURE is None or not reachable:
            raise ValueError(f"the tier {tier!r} is out of reach: {'; '.join(self.missing) or 'unknown'}")
        if not set(brokered) <= set(BROKERED):
            raise ValueError(f"{brokered!r} is more than {', '.join(BROKERED)}")
        key = tier, frozenset(brokered), unjudged, execs
        if key not in self._filters:
            abi = None if tier == FILTERED else self.landlock_abi
            self._filters[key] = worker_filter(
                linux.ARCHITECTURE, abi, brokered, metadata=tier == WALLED, unjudged=unjudged, execs=execs
            )
        return self._filters[key]

    def command_filter_of(self, tier: str, *, forks: bool) -> Program:
        """The filter of a command of a worker of this tier, which this machine reaches."""
        if linux.ARCHITECTURE is None:
            raise ValueError(f"the tier {tier!r} is out of reach")
        if (tier, forks) not in self._command_filters:
            abi = None if tier == FILTERED else self.landlock_abi
            made = command_filter(linux.ARCHITECTURE, abi, metadata=tier == WALLED, forks=forks)
            self._command_filters[tier, forks] = made
        return self._command_filters[tier, forks]


def may_fork(tier: str, landlock_abi: int) -> bool:
    """Whether the kernel keeps what the commands of a worker of this tier become together, and counts it."""
    kept = tier == WALLED or (tier == CONFINED and landlock_abi >= landlock.SIGNAL_ABI)
    return kept and tree.is_known()


def try_notifications() -> int:
    """Install a supervised filter in a child; its errno, 0 when it worked. Forks, so before any thread."""
    if linux.ARCHITECTURE is None:
        return errno.ENOSYS
    code = compile_filter({}, ALLOW, linux.ARCHITECTURE).patch({})
    pid = os.fork()
    if not pid:
        status = errno.EIO
        try:
            linux.prctl(_NO_NEW_PRIVS, 1)
            linux.install_supervised_filter(code)
            status = 0
        except OSError as error:
            status = error.errno or status
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _why_no_seccomp() -> str:
    try:
        for action in (ALLOW, fail_with(0), KILL_PROCESS):
            linux.require_filter_action(action)
    except OSError as error:
        return f"seccomp filters are not to be had (they need Linux 4.14 or later): {error.strerror}"
    return ""
