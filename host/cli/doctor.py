"""`plughold doctor`: the tier that this machine reaches, layer by layer, proven by a real worker."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from host.cli import machine
from host.cli.command import command
from host.cli.report import Report
from host.cli.shown import duration, shown
from host.cli.tables import columns
from host.errors import LockdownUnavailable
from host.model import enforcement
from host.run import tiers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

    from host.cli.machine import Layer, Proof

NEEDED: Final = "confined"
_COLOURS: Final = {"proven": "green", "present": "green", "missing": "red"}
_NAME_WIDTH: Final = 14


@command
def doctor() -> Report:
    """Show the tier that this machine reaches, and what is missing.

    A real worker proves it. Exit status: 0 for confined or stronger, 8 below it or where no worker could prove it.
    """
    abilities = machine.abilities()
    tier = tiers.strongest(abilities)
    proof = machine.prove(tier)
    document: dict[str, Any] = {
        "tier": tier,
        "needed": NEEDED,
        "ok": tiers.TIERS.index(tier) >= tiers.TIERS.index(NEEDED) and not proof.error,
        "layers": [dataclasses.asdict(layer) for layer in machine.layers(abilities, proof)],
        "missing": list(tiers.missing(abilities)),
        "reasons": list(abilities["missing"]),
        "worker": dataclasses.asdict(proof),
        "enforcement": {subject: held for subject, held, _ in enforcement.of_tier(tier)},
        "implied": machine.implied(),
        "names": machine.names(),
        "versions": machine.versions(),
        "error": None,
    }
    body = tuple(told(document, proof, machine.layers(abilities, proof)))
    return Report(document, body=body, status=0 if document["ok"] else LockdownUnavailable.status)


def told(document: Mapping[str, Any], proof: Proof, layers: list[Layer]) -> Iterator[RenderableType]:
    """The document as a person reads it."""
    yield from _verdict(document, proof)
    rows = [(layer.name, Text(layer.state, _COLOURS[layer.state]), _holds(layer)) for layer in layers]
    yield columns(rows, ("layer", "state", "what it holds"), _NAME_WIDTH)
    yield ""
    yield columns(_worker(proof), ("worker", ""), _NAME_WIDTH)
    yield ""
    yield Text("What holds what a plugin is not granted", "bold")
    yield columns(document["enforcement"].items(), ("what", "held by"), _NAME_WIDTH)
    yield ""
    yield Text("Every worker may, without a grant", "bold")
    implied = ((kind, ", ".join(targets)) for kind, targets in document["implied"].items())
    yield columns(implied, ("kind", "what"), _NAME_WIDTH)
    yield ""
    yield columns((*_names(document["names"]), *document["versions"].items()), ("installed", ""), _NAME_WIDTH)


def _verdict(document: Mapping[str, Any], proof: Proof) -> Iterator[RenderableType]:
    tier = document["tier"]
    if document["ok"]:
        yield Text(f"This machine reaches tier {tier}, as the host needs.", "bold")
    elif proof.error:
        yield Text(shown(f"This machine offers tier {tier}, but no worker could prove it: {proof.error}"), "bold red")
    else:
        yield Text(f"This machine reaches tier {tier}; below {NEEDED} the host starts no worker.", "bold red")
        yield from (Text(shown(f"  {reason}.")) for reason in document["reasons"])
        yield Text('For development, minimum_tier="hooked" accepts it: that stops mistakes, not attackers.')
    yield ""


def _holds(layer: Layer) -> str:
    return layer.holds if layer.state != "missing" else f"{layer.holds}. Needs {layer.next}"


def _worker(proof: Proof) -> Iterator[tuple[str, str]]:
    yield "tier", proof.tier
    if proof.error:
        yield "failed", proof.error
    if proof.start_s is not None and proof.call_s is not None:
        yield "start", f"{duration(proof.start_s)}, then {duration(proof.call_s)} for one call"
        yield "probes", f"refused at its start, as they must be: {', '.join(proof.probed)}"
        yield "plugin", f"could not open {machine.FORBIDDEN} by {'; by '.join(proof.refused)}"


def _names(names: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for name, found in names.items():
        owners = ", ".join(found["claimed_by"])
        if found["ok"]:
            yield name, f"imported from {found['path']}{f', of {owners}' if owners else ''}"
        else:
            trouble = "they overwrite each other's files: uninstall all of them, then install plughold"
            yield name, f"claimed by {owners}; {trouble}"
