"""What this machine has for the walls: its architecture, Landlock, seccomp; and the filters compiled for it."""

from __future__ import annotations

from . import landlock, linux
from .bpf import ALLOW, KILL_PROCESS, fail_with
from .profile import worker_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from .bpf import Program

CONFINED: Final = "confined"
"""Landlock and seccomp."""

FILTERED: Final = "filtered"
"""seccomp alone."""


class Machine:
    """Asks the kernel once, when it is made.

    `landlock_abi` is 0 without Landlock; `missing` says in whole sentences what is not there and why.
    """

    __slots__ = ("_filters", "landlock_abi", "missing", "seccomp")

    def __init__(self) -> None:
        self.landlock_abi = 0
        self.seccomp = False
        self.missing: list[str] = []
        self._filters: dict[str, Program] = {}
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
        self._filters[FILTERED] = worker_filter(linux.ARCHITECTURE, None)
        if self.landlock_abi:
            self._filters[CONFINED] = worker_filter(linux.ARCHITECTURE, self.landlock_abi)

    def report(self) -> dict[str, object]:
        """For the host: the content of "ready"."""
        return {
            "landlock_abi": self.landlock_abi,
            "seccomp": self.seccomp,
            "machine": linux.MACHINE,
            "arch_supported": linux.ARCHITECTURE is not None,
            "missing": self.missing,
        }

    def filter_of(self, tier: str) -> Program:
        """The filter of a tier. ValueError for one that this machine can't reach, or that needs no filter."""
        try:
            return self._filters[tier]
        except KeyError:
            raise ValueError(f"the tier {tier!r} is out of reach: {'; '.join(self.missing) or 'unknown'}") from None


def _why_no_seccomp() -> str:
    try:
        for action in (ALLOW, fail_with(0), KILL_PROCESS):
            linux.require_filter_action(action)
    except OSError as error:
        return f"seccomp filters are not to be had (they need Linux 4.14 or later): {error.strerror}"
    return ""
