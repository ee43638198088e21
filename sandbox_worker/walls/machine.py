"""What this machine has for the walls: its architecture, Landlock, seccomp, namespaces; and the filters for it."""

from __future__ import annotations

import contextlib

from . import landlock, linux
from .bpf import ALLOW, KILL_PROCESS, fail_with
from .profile import NETWORK, worker_filter

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


class Machine:
    """Asks the kernel once, when it is made; of namespaces it is told (`note_namespaces`).

    `landlock_abi` is 0 without Landlock; `missing` says in whole sentences what is not there and why.
    """

    __slots__ = ("_filters", "landlock_abi", "missing", "namespaces", "seccomp")

    def __init__(self) -> None:
        self.landlock_abi = 0
        self.seccomp = False
        self.namespaces = False
        self.missing: list[str] = []
        self._filters: dict[tuple[str, frozenset[str]], Program] = {}
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
            "machine": linux.MACHINE,
            "arch_supported": linux.ARCHITECTURE is not None,
            "missing": self.missing,
        }

    def filter_of(self, tier: str, network: Collection[str] = ()) -> Program:
        """The filter of a tier for a worker for which the broker answers `network`; compiled when first wanted.

        ValueError for a tier that this machine can't reach or that needs no filter, and for an unknown `network`.
        """
        walls = {FILTERED: True, CONFINED: bool(self.landlock_abi), WALLED: self.namespaces}
        reachable = self.seccomp and walls.get(tier, False)
        if linux.ARCHITECTURE is None or not reachable:
            raise ValueError(f"the tier {tier!r} is out of reach: {'; '.join(self.missing) or 'unknown'}")
        if not set(network) <= set(NETWORK):
            raise ValueError(f"{network!r} is more than {', '.join(NETWORK)}")
        key = tier, frozenset(network)
        if key not in self._filters:
            abi = None if tier == FILTERED else self.landlock_abi
            self._filters[key] = worker_filter(linux.ARCHITECTURE, abi, network, metadata=tier == WALLED)
        return self._filters[key]


def _why_no_seccomp() -> str:
    try:
        for action in (ALLOW, fail_with(0), KILL_PROCESS):
            linux.require_filter_action(action)
    except OSError as error:
        return f"seccomp filters are not to be had (they need Linux 4.14 or later): {error.strerror}"
    return ""
