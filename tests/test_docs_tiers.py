"""docs/tiers.md speaks of every permission kind in every tier."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from host.run.tiers import TIERS
from sandbox_worker.permissions import ENFORCED_KINDS, KINDS

LINES: Final = (Path(__file__).parent.parent / "docs/tiers.md").read_text().splitlines()
ROWS: Final = [[cell.strip() for cell in line.strip("|").split("|")] for line in LINES if line.startswith("|")]
HEAD: Final = next(row for row in ROWS if row[0] == "permission")
CELLS: Final = {row[0].strip("`"): row[1:] for row in ROWS[ROWS.index(HEAD) + 2 :]}


def test_the_table_has_every_tier_strongest_first() -> None:
    assert [cell.strip("`") for cell in HEAD[1:-1]] == list(reversed(TIERS))


def test_the_table_has_every_kind_and_a_word_on_each() -> None:
    assert set(KINDS) <= set(CELLS)
    assert all(len(cells) == len(TIERS) + 1 and all(cells) for cells in CELLS.values())


def test_what_nothing_grants_yet_says_so() -> None:
    told = {kind for kind in KINDS if CELLS[kind][-1].endswith("in this version")}
    assert told == set(KINDS) - set(ENFORCED_KINDS)
