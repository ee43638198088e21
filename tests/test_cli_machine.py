"""Facts about a machine, from what its kernel offers and what a worker proved."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from host.cli import machine
from host.cli.machine import Proof, layers
from host.run.tiers import PROOFS, strongest


def abilities(**changes: object) -> dict[str, Any]:
    full = {"landlock_abi": 7, "seccomp": True, "namespaces": True, "machine": "x86_64", "arch_supported": True}
    return {**full, "missing": [], **changes}


def states(found: dict[str, Any], tier: str, error: str = "") -> dict[str, str]:
    proof = Proof(tier, probed=() if error else tuple(PROOFS[tier]), error=error)
    return {layer.name: layer.state for layer in layers(found, proof)}


def test_what_a_worker_probed_is_proven() -> None:
    found = states(abilities(), "walled")
    assert {name for name, state in found.items() if state == "proven"} == PROOFS["walled"]
    assert "missing" not in found.values()


def test_what_namespaces_lack_is_told_as_it_was_refused() -> None:
    reason = "own namespaces are refused: unshare: Operation not permitted"
    told = layers(abilities(namespaces=False, missing=[reason]), Proof("confined"))
    assert [(layer.name, layer.next) for layer in told if layer.state == "missing"] == [("namespaces", reason)]


@pytest.mark.parametrize(
    ("lacking", "missing"),
    [
        ({"landlock_abi": 0}, {"landlock"}),
        ({"seccomp": False}, {"seccomp", "no_new_privs", "exec", "descriptors"}),
        (
            {"arch_supported": False, "seccomp": False, "landlock_abi": 0},
            {"architecture", "landlock", "seccomp", "no_new_privs", "exec", "descriptors"},
        ),
    ],
)
def test_what_a_machine_lacks_is_missing_and_says_how_to_get_it(lacking: dict[str, object], missing: set[str]) -> None:
    found = abilities(**lacking)
    tier = strongest(found)
    told = layers(found, Proof(tier, probed=tuple(PROOFS[tier])))
    assert {layer.name for layer in told if layer.state == "missing"} == missing
    assert all(layer.next for layer in told if layer.state == "missing")


def test_a_worker_that_failed_proves_nothing() -> None:
    assert "proven" not in states(abilities(), "confined", error="it died").values()


def test_an_old_landlock_says_what_it_lacks_and_which_linux_brings_it() -> None:
    [landlock] = (layer for layer in layers(abilities(landlock_abi=3), Proof("confined")) if layer.name == "landlock")
    assert "truncation" in landlock.holds.partition("not in this kernel")[0]
    assert "TCP ports (Linux 6.7)" in landlock.holds.partition("not in this kernel")[2]


def test_a_second_owner_of_an_import_name_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = {"host": ["plughold", "other"], "sandbox_worker": ["plughold"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: claims)
    found = machine.names()
    assert (found["host"]["ok"], found["host"]["claimed_by"]) == (False, ["other", "plughold"])
    assert found["sandbox_worker"]["ok"]


def test_a_distribution_that_is_not_installed_is_said_to_be_none() -> None:
    assert machine.version("no-such-distribution-anywhere") == "not installed"


def test_the_weakest_tier_is_proven_as_far_as_it_goes() -> None:
    proof = machine.prove("hooked")
    assert (proof.error, proof.probed) == ("", ("audit_hook",))
    assert len(proof.refused) == 1
