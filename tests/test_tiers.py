"""Promises of the tiers: the strongest one reached, never one below the minimum, and what is missing said in words."""

from __future__ import annotations

import itertools
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import LockdownUnavailable
from host.run import tiers

FULL: Final = {"arch_supported": True, "machine": "x86_64", "seccomp": True, "landlock_abi": 7, "namespaces": True}
NO_NAMESPACES: Final = FULL | {"namespaces": False}
NO_LANDLOCK: Final = FULL | {"landlock_abi": 0}
NO_SECCOMP: Final = FULL | {"seccomp": False}
OTHER_MACHINE: Final = FULL | {"arch_supported": False, "seccomp": False, "landlock_abi": 0, "machine": "riscv64"}
MACHINES: Final = st.fixed_dictionaries(
    {
        "arch_supported": st.booleans(),
        "machine": st.just("x86_64"),
        "seccomp": st.booleans(),
        "landlock_abi": st.integers(0, 8),
        "namespaces": st.booleans(),
    }
)


@pytest.mark.parametrize(
    ("abilities", "tier"),
    [
        (FULL, "walled"),
        (NO_NAMESPACES, "confined"),
        (NO_LANDLOCK, "filtered"),
        (NO_SECCOMP, "hooked"),
        (OTHER_MACHINE, "hooked"),
    ],
)
def test_the_strongest_tier_that_the_machine_reaches_is_taken(abilities: dict[str, Any], tier: str) -> None:
    assert tiers.strongest(abilities) == tier
    assert tiers.choose(abilities, "hooked", None) == tier


@pytest.mark.parametrize("abilities", [NO_LANDLOCK, NO_SECCOMP, OTHER_MACHINE])
def test_below_the_minimum_nothing_starts_and_the_error_says_what_is_missing(abilities: dict[str, Any]) -> None:
    with pytest.raises(LockdownUnavailable) as caught:
        tiers.choose(abilities, "confined", None)
    assert caught.value.tier == "confined"
    assert caught.value.missing == tiers.missing(abilities)
    assert caught.value.missing
    assert all(text in str(caught.value) for text in caught.value.missing)


@given(MACHINES, st.sampled_from(tiers.TIERS), st.none() | st.sampled_from(tiers.TIERS))
def test_a_chosen_tier_is_reached_is_no_weaker_than_the_minimum_and_is_the_forced_one(
    abilities: dict[str, Any], minimum: str, forced: str | None
) -> None:
    try:
        tier = tiers.choose(abilities, minimum, forced)
    except LockdownUnavailable:
        return
    rank = tiers.TIERS.index
    assert rank(minimum) <= rank(tier) <= rank(tiers.strongest(abilities))
    assert forced in (None, tier)


@given(MACHINES)
def test_something_is_missing_exactly_where_a_tier_is_not_reached(abilities: dict[str, Any]) -> None:
    assert bool(tiers.missing(abilities)) == (tiers.strongest(abilities) not in ("walled", "confined"))
    assert bool(tiers.missing(abilities, "walled")) == (tiers.strongest(abilities) != "walled")


def test_a_forced_tier_below_the_minimum_is_refused() -> None:
    with pytest.raises(LockdownUnavailable, match="forced"):
        tiers.choose(FULL, "confined", "hooked")


def test_hooked_can_be_forced_without_knowing_the_machine() -> None:
    assert tiers.choose(None, "hooked", "hooked") == "hooked"


@pytest.mark.parametrize(("minimum", "forced"), [("walled", None), ("hooked", "walled")])
def test_walled_is_refused_without_namespaces_and_the_error_says_so(minimum: str, forced: str | None) -> None:
    with pytest.raises(LockdownUnavailable, match="namespaces") as caught:
        tiers.choose(NO_NAMESPACES, minimum, forced)
    assert (caught.value.tier, caught.value.missing) == ("walled", tiers.missing(NO_NAMESPACES, "walled"))


@pytest.mark.parametrize(("minimum", "forced"), [("none", None), ("confined", "strong"), ("", None)])
def test_a_name_that_is_no_tier_is_a_value_error_that_lists_them(minimum: str, forced: str | None) -> None:
    with pytest.raises(ValueError, match="walled, confined, filtered, hooked"):
        tiers.choose(FULL, minimum, forced)


def test_a_stronger_tier_is_proven_by_more() -> None:
    proofs = [tiers.PROOFS[tier] for tier in tiers.TIERS]
    assert all(weaker < stronger for weaker, stronger in itertools.pairwise(proofs))
    assert set(tiers.PROOFS) == set(tiers.TIERS)
