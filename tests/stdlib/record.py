"""What is known of the interpreter's own tests in a worker: `expected.toml`, and what it says of a run."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILE: Final = Path(__file__).with_name("expected.toml")


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise, and the tests that it makes fail: patterns of their ids, and what their failures show."""

    title: str
    why: str
    modules: str
    tests: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    sometimes: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    tier: str | None = None

    def explains(self, test: str, text: str) -> bool:
        """Whether this is why the test failed with this text."""
        return self.names(test) and any(mark in text for mark in self.shows)

    def names(self, test: str) -> bool:
        """Whether one of the patterns is the test's."""
        return any(fnmatchcase(test, pattern) for pattern in (*self.tests, *self.sometimes))


@dataclass(frozen=True, slots=True)
class Record:
    """`quick` and `slow` are the modules to run in `confined`, `walled` those to run there too."""

    quick: tuple[str, ...]
    slow: tuple[str, ...]
    walled: tuple[str, ...]
    promises: tuple[Promise, ...]

    def of_tier(self, tier: str) -> tuple[Promise, ...]:
        """The promises that hold there."""
        return tuple(promise for promise in self.promises if promise.tier in (None, tier))

    def avoided(self, tier: str) -> list[str]:
        """The patterns of tests that are not run."""
        return [pattern for promise in self.of_tier(tier) for pattern in promise.avoid]


def read() -> Record:
    """The record in `expected.toml`. TypeError for a key that is none."""
    data = tomllib.loads(FILE.read_text(encoding="utf-8"))
    promises = [Promise(**{key: _frozen(value) for key, value in row.items()}) for row in data.pop("promise")]
    return Record(promises=tuple(promises), **{key: tuple(value) for key, value in data.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value.strip()


def unexplained(promises: Iterable[Promise], ended: Iterable[list[str]]) -> list[list[str]]:
    """The failures among [id, kind, text] that no promise explains."""
    failed = [row for row in ended if row[1] != "skip"]
    return [row for row in failed if not any(promise.explains(row[0], row[2]) for promise in promises)]


def stale(promises: Iterable[Promise], ran: Iterable[str], ended: Mapping[str, str]) -> list[str]:
    """The patterns that name tests which ran, all of which succeeded; what names no test of this version is none."""
    tests = set(ran)
    found = []
    for promise in promises:
        for pattern in promise.tests:
            named = {test for test in tests if fnmatchcase(test, pattern)}
            if named and not any(test in ended for test in named):
                found.append(pattern)
    return found
