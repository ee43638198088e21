"""Landlock rulesets for workers: the rules that all of them have, and each one's own."""

from __future__ import annotations

import os

from . import landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Rulesets:
    """Makes rulesets of the kernel's `abi` that start with `base`, whose paths stay open.

    Half of the work can be done before anybody asks: `prepare`.
    """

    __slots__ = ("_abi", "_next", "base", "skipped")

    def __init__(self, abi: int, base: Iterable[tuple[str, str]]) -> None:
        """Rules as `landlock.open_rules` takes them, and raises; `skipped` are the paths that it skips."""
        self._abi = abi
        opened, self.skipped = landlock.open_rules(base)
        self.base = landlock.Rules(opened, abi)
        self._next = -1

    def prepare(self) -> None:
        """Have the next one ready but for its own rules."""
        if self._next < 0:
            self._next = landlock.make_ruleset(self._abi, self.base)

    def make(self, rules: Iterable[tuple[str, str]]) -> int:
        """A descriptor of a ruleset of the base and these. Paths that can't be opened are left out of it."""
        opened, _ = landlock.open_rules(rules)
        try:
            own = landlock.Rules(opened, self._abi)
            self.prepare()
            made, self._next = self._next, -1
            try:
                own.add_to(made)
            except BaseException:
                os.close(made)
                raise
            return made
        finally:
            landlock.close_rules(opened)
