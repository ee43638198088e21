"""What a plugin gave up of its permissions: for good, for it and for every worker that follows."""

from __future__ import annotations

from typing import Final

from sandbox_worker.errors import DENY_RULE
from sandbox_worker.permissions import RequestError, Rule, RuleError, decide, parse_rule

_MOST: Final = 256
"""Dropped permissions kept one by one; beyond, each drops all of its kind."""


class Dropped:
    """The drops of one plugin: its own claims, which can only take from itself.

    Each worker has a private ``${tmp}`` of its own, or none: `tmp` is that of the worker a question is about.
    """

    __slots__ = ("_drops", "_rules")

    def __init__(self) -> None:
        self._drops: dict[tuple[str, str], None] = {}
        self._rules: dict[tuple[str, str | None, int], list[Rule]] = {}
        """By kind, `tmp` and number of drops: what another thread reads meanwhile is never taken for the newest."""

    def add(self, kind: str, target: str, tmp: str | None) -> str | None:
        """Note one; its target as it is kept, or None where it is no rule or nothing new."""
        try:
            parse_rule(kind, target)
        except RuleError:
            return None
        if len(self._drops) >= _MOST:
            target = "*"
        if tmp is not None and f"{target}/".startswith(f"{tmp}/"):  # the next worker has another folder
            target = "${tmp}" + target.removeprefix(tmp)
        if (kind, target) in self._drops:
            return None
        self._drops[kind, target] = None
        return target

    def covers(self, kind: str, target: str, tmp: str | None) -> bool:
        """Whether a refusal is the plugin's own wish."""
        key = kind, tmp, len(self._drops)
        rules = self._rules.get(key)
        if rules is None:
            rules = [parse_rule(kind, text) for of, text in self.for_worker(tmp) if of == kind]
            self._rules = {known: found for known, found in self._rules.items() if known[2] == key[2]} | {key: rules}
        try:
            return bool(rules) and decide(kind, (), rules, target).reason == DENY_RULE
        except RequestError:
            return False

    def for_worker(self, tmp: str | None) -> list[tuple[str, str]]:
        """Every drop as a rule of a worker with this `tmp`."""
        return [(kind, self.spelled(target, tmp)) for kind, target in list(self._drops)]

    @staticmethod
    def spelled(target: str, tmp: str | None) -> str:
        """A kept target as a rule of such a worker.

        Only what `add` wrote so begins with the variable: a path that a plugin reports is absolute.
        """
        return (tmp or "") + target.removeprefix("${tmp}") if target.startswith("${tmp}") else target
