"""Rows of the table: of several runs the quietest, in which both sides together took least, with its medians."""

from __future__ import annotations

import operator
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Row = tuple[str, str, str, str]
    Run = dict[str, float]

_UNITS = {"ms": 1e3, "µs": 1e6}


def ratio(what: str, runs: Sequence[Run], ours: str, other: str, wanted: str, *, unit: str = "ms") -> Row:
    """`ours` : `other`, by their names in each run, which maps names to medians in seconds."""
    best = min(runs, key=lambda run: run[ours] + run[other])
    return what, f"{best[ours] / best[other]:.2f}", wanted, _medians(best, ours, other, unit)


def difference(what: str, runs: Sequence[Run], more: str, less: str, wanted: str, *, unit: str = "ms") -> Row:
    """`more` less `less`, each as in `ratio`; the median of what each round came to (`medians`)."""
    best = min(runs, key=lambda run: run[more] + run[less])
    return what, f"{best[_less(more, less)] * _UNITS[unit]:+.2f} {unit}", wanted, _medians(best, more, less, unit)


def medians(rounds: dict[str, list[float]], pairs: Iterable[tuple[str, str]] = ()) -> Run:
    """A run of what was measured in turn, seconds by name; of each pair (more, less) the rounds' difference besides."""
    run = {name: statistics.median(times) for name, times in rounds.items()}
    for more, less in pairs:
        run[_less(more, less)] = statistics.median(map(operator.sub, rounds[more], rounds[less]))
    return run


def _less(more: str, less: str) -> str:
    return f"{more} less {less}"


def _medians(run: Run, one: str, other: str, unit: str) -> str:
    return f"{run[one] * _UNITS[unit]:.1f} : {run[other] * _UNITS[unit]:.1f} {unit}"
