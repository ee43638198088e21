"""Aligned columns for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from host.cli.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable


def columns(rows: Iterable[tuple[str | Text, ...]], titles: tuple[str, ...] = (), width: int = 1) -> Table:
    """`rows` in columns two spaces apart, each row with as many cells; the first is at least `width` wide.

    A long cell goes on in the next line of its column. Texts are made visible; a `Text` is as it is.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=bool(titles), header_style="bold")
    for index, title in enumerate(titles):
        table.add_column(title, overflow="fold", min_width=width if index == 0 else None)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell), overflow="fold") for cell in row))
    return table
