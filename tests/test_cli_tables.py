"""Columns: aligned, within their width, and nothing in a cell is markup or invisible."""

from __future__ import annotations

from cli_driver import EVIL, EVIL_SHOWN
from rich.console import Console
from rich.text import Text

from host.cli.tables import columns


def drawn(*arguments: object, width: int = 60) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(columns(*arguments))  # type: ignore[arg-type]
    return [line.rstrip() for line in capture.get().splitlines()]


def test_cells_are_aligned_under_their_titles() -> None:
    assert drawn([("a", Text("b")), ("ccc", "d")], ("one", "two"), 5) == ["one    two", "a      b", "ccc    d"]


def test_a_long_cell_goes_on_in_its_column() -> None:
    lines = drawn([("a", "x" * 100)])
    assert all(len(line) <= 60 for line in lines)
    assert sum(line.count("x") for line in lines) == 100


def test_cells_are_made_visible_and_are_no_markup() -> None:
    assert drawn([(EVIL, "[red]x[/]")]) == [f"{EVIL_SHOWN}  [red]x[/]"]
