"""What a plugin gave up of its permissions: for good, for it and for every worker that follows."""

from __future__ import annotations

from typing import Final

from sandbox_worker.errors import DENY_RULE
from sandbox_worker.permissions import RequestError, Rule, RuleError, decide, parse_rule

_MOST: Final = 256
"""Dropped permissions kept one by one; beyond, each drops all of its kind."""


class Dropped:
    """The drops of one plugin: its own claims, which can only take from itself."""

    __slots__ = ("_drops", "_rules", "_tmp")

    def __init__(self) -> None:
        self._drops: dict[tuple[str, str], None] = {}
        self._rules: dict[str, list[Rule]] = {}
        self._tmp: str | None = None

    def add(self, kind: str, target: str) -> str | None:
        """Note one; its target as it is kept, or None where it is no rule or nothing new."""
        try:
            parse_rule(kind, target)
        except RuleError:
            return None
        if len(self._drops) >= _MOST:
            target = "*"
        if self._tmp is not None and f"{target}/".startswith(f"{self._tmp}/"):  # the next worker has another folder
            target = "${tmp}" + target.removeprefix(self._tmp)
        if (kind, target) in self._drops:
            return None
        self._drops[kind, target] = None
        self._parse()
        return target

    def covers(self, kind: str, target: str) -> bool:
        """Whether a refusal is the plugin's own wish."""
        rules = self._rules.get(kind)
        try:
            return rules is not None and decide(kind, (), rules, target).reason == DENY_RULE
        except RequestError:
            return False

    def for_worker(self, tmp: str | None) -> list[tuple[str, str]]:
        """Every drop as a rule of a worker that starts, whose private ``${tmp}`` is `tmp` if it has one."""
        self._tmp = tmp
        self._parse()
        return self._all()

    def _all(self) -> list[tuple[str, str]]:
        return [(kind, self.spelled(target)) for kind, target in self._drops]

    def spelled(self, target: str) -> str:
        """A kept target as a rule of the worker that runs.

        Only what `add` wrote so begins with the variable: a path that a plugin reports is absolute.
        """
        return (self._tmp or "") + target.removeprefix("${tmp}") if target.startswith("${tmp}") else target

    def _parse(self) -> None:
        found: dict[str, list[Rule]] = {}
        for kind, target in self._all():
            found.setdefault(kind, []).append(parse_rule(kind, target))
        self._rules = found
