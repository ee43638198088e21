"""Which tier this machine reaches, and whether that is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from host.errors import LockdownUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

TIERS: Final = ("hooked", "filtered", "confined", "walled")
"""Weakest first."""

PROOFS: Final[Mapping[str, frozenset[str]]] = {
    "walled": frozenset(("namespaces", "landlock", "seccomp", "exec", "descriptors", "audit_hook")),
    "confined": frozenset(("landlock", "seccomp", "exec", "descriptors", "audit_hook")),
    "filtered": frozenset(("seccomp", "exec", "descriptors", "audit_hook")),
    "hooked": frozenset(("audit_hook",)),
}
"""What a worker must have probed, by tier, before its plugin is imported."""


def strongest(abilities: Mapping[str, Any]) -> str:
    """The strongest tier for what the spawner found (its ``ready`` answer)."""
    if not abilities["arch_supported"] or not abilities["seccomp"]:
        return "hooked"
    if abilities["landlock_abi"] < 1:
        return "filtered"
    return "walled" if abilities["namespaces"] else "confined"


def missing(abilities: Mapping[str, Any], tier: str = "confined") -> tuple[str, ...]:
    """What keeps this machine from `tier` (confined or walled), each with what to do about it."""
    found = []
    if not abilities["arch_supported"]:
        found.append(f"a system call table for {abilities['machine']} (there are tables for x86_64 and aarch64)")
    if not abilities["seccomp"]:
        found.append(
            "seccomp filters: a kernel with CONFIG_SECCOMP_FILTER, and no outer sandbox that refuses seccomp(2)"
        )
    if abilities["landlock_abi"] < 1:
        found.append(
            "Landlock: Linux 5.13 or newer with landlock in the lsm= list, and an outer sandbox that lets it pass"
        )
    if tier == "walled" and not abilities["namespaces"]:
        found.append(
            "namespaces: a kernel and an outer sandbox that let an ordinary user have a user namespace and mount in it "
            "(tried; plughold doctor says what was refused)"
        )
    return tuple(found)


def choose(abilities: Mapping[str, Any] | None, minimum: str, forced: str | None) -> str:
    """The tier to run at. `abilities` is None where `forced` needs none.

    Raises ValueError for a name that is no tier, LockdownUnavailable below `minimum` or what is forced.
    """
    for name in (minimum, forced):
        if name is not None and name not in TIERS:
            raise ValueError(f"{name!r} is no tier; tiers are {', '.join(reversed(TIERS))}")
    reached = "hooked" if abilities is None else strongest(abilities)
    for wanted in (forced or reached, minimum):
        if TIERS.index(wanted) > TIERS.index(reached):
            raise _unavailable(wanted, reached, () if abilities is None else missing(abilities, wanted))
    if TIERS.index(forced or reached) < TIERS.index(minimum):
        raise _unavailable(minimum, forced or reached, (f"tier {forced} was forced",))
    return forced or reached


def _unavailable(wanted: str, reached: str, lacking: tuple[str, ...]) -> LockdownUnavailable:
    text = f"tier {wanted} can't be reached here, only {reached}; missing: {'; '.join(lacking)}"
    return LockdownUnavailable(text, tier=wanted, missing=lacking)
