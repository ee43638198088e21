"""Statistics of the numeric columns of a CSV file, in one pass and constant memory."""

from __future__ import annotations

import csv
import math
import re
from typing import Final

from sandbox_worker.plugin_api import HookimplMarker

hookimpl: Final = HookimplMarker("demo")

MISSING: Final = frozenset({"", "NA", "N/A", "NaN", "null"})
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Column:
    """Running statistics of one column, by Welford's method (Technometrics 4, 1962, pp. 419-420)."""

    __slots__ = ("count", "highest", "lowest", "mean", "missing", "squares")

    def __init__(self) -> None:
        self.count = self.missing = 0
        self.lowest, self.highest = math.inf, -math.inf
        self.mean = self.squares = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        self.count += 1
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)
        distance = value - self.mean
        self.mean += distance / self.count
        self.squares += distance * (value - self.mean)

    def summary(self) -> dict[str, float | int | None]:
        """What is known by now; `stdev` is the sample's, None for a single value."""
        stdev = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else None
        return {
            "count": self.count,
            "missing": self.missing,
            "min": self.lowest,
            "max": self.highest,
            "mean": self.mean,
            "stdev": stdev,
        }


@hookimpl
def column_stats(path: str) -> dict[str, dict[str, float | int | None]]:
    """Return count, missing, min, max, mean and stdev of each numeric column of the CSV file at `path`.

    The first row holds the names. A column is numeric when it has a number and nothing but numbers and `MISSING` words;
    a row that ends early lacks the values it does not have. Raises OSError where the file can't be read, and
    UnicodeDecodeError where it is no UTF-8.
    """
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream, restval="")
        columns = {name: Column() for name in rows.fieldnames or ()}
        for row in rows:
            for name, column in list(columns.items()):
                text = row[name].strip()
                if text in MISSING:
                    column.missing += 1
                elif _NUMBER.fullmatch(text):
                    column.add(float(text))
                else:
                    del columns[name]
    return {name: column.summary() for name, column in columns.items() if column.count}
