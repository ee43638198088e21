"""Rows of the table: of several runs the quietest, in which both sides together took least, with its medians."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Row = tuple[str, str, str, str]
    Run = dict[str, float]

_UNITS = {"ms": 1e3, "µs": 1e6}


def ratio(what: str, runs: Sequence[Run], ours: str, other: str, wanted: str, *, unit: str = "ms") -> Row:
    """`ours` : `other`, by their names in each run, which maps names to medians in seconds."""
    best = min(runs, key=lambda run: run[ours] + run[other])
    return what, f"{best[ours] / best[other]:.2f}", wanted, _medians(best, ours, other, unit)


def difference(what: str, runs: Sequence[Run], more: str, less: str, wanted: str, *, unit: str = "ms") -> Row:
    """`more` less `less`, each as in `ratio`."""
    best = min(runs, key=lambda run: run[more] + run[less])
    return what, f"{(best[more] - best[less]) * _UNITS[unit]:+.2f} {unit}", wanted, _medians(best, more, less, unit)


def _medians(run: Run, one: str, other: str, unit: str) -> str:
    return f"{run[one] * _UNITS[unit]:.1f} : {run[other] * _UNITS[unit]:.1f} {unit}"
