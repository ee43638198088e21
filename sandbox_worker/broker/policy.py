"""What one worker may reach: the rules of its request, its grant and the ceiling, each judged for itself. Pure.

Text was judged when the grant was computed; here come addresses. A rule that covers another one's text need not reach
the same addresses: `"*"` covers `10.0.0.1:80` and does not reach it. So each *layer* must reach the address on its own.
"""

from __future__ import annotations

from sandbox_worker._addresses import reachable, subject
from sandbox_worker.permissions import UNIX, parse_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

    from sandbox_worker.permissions import Rule

CONNECT: Final = "net.connect"
LISTEN: Final = "net.listen"

ALLOWED: Final = "allow"
NO_RULE: Final = "no-rule"
DENY_RULE: Final = "deny-rule"


class Policy:
    """`layers` are lists of allow rules, all of which must allow; any of the rules in `deny` refuses. Thread-safe."""

    __slots__ = ("__weakref__", "_rules")

    def __init__(self, layers: Iterable[Iterable[Rule]], deny: Iterable[Rule]) -> None:
        self._rules = tuple(tuple(layer) for layer in layers), tuple(deny)

    def become(self, other: Policy) -> None:
        """Take the rules of `other` from now on: all at once, for every thread that judges by them."""
        self._rules = other._rules

    def judge(self, kind: str, address: bytes, port: int, names: Iterable[str] = ()) -> str:
        """Judge one packed address and port, of which `names` are names that resolved to it: one of the verdicts."""
        layers, deny = self._rules
        text = subject(address)
        candidates = [(None, text), *((name, _of_name(name)) for name in names)]
        if any(rule.kind == kind and rule.pattern.matches(s, port) for rule in deny for _, s in candidates):
            return DENY_RULE
        if any(
            all(any(_reaches(rule, kind, name, named, port, address) for rule in layer) for layer in layers)
            for name, named in candidates
        ):
            return ALLOWED
        return NO_RULE

    def judge_path(self, kind: str, path: str) -> str:
        """Judge where a unix socket lies: one of the verdicts."""
        layers, deny = self._rules
        text = UNIX + path
        if any(rule.kind == kind and rule.pattern.matches(text) for rule in deny):
            return DENY_RULE
        # Only a rule for this very path: "*" does not reach it.
        reached = all(any(rule.kind == kind and rule.pattern.stem == text for rule in layer) for layer in layers)
        return ALLOWED if reached else NO_RULE

    def knows(self, name: str) -> bool:
        """Whether `name` may be resolved: on some port each layer allows it, and no deny rule takes every port."""
        layers, deny = self._rules
        text = _of_name(name)
        if any(rule.kind == CONNECT and rule.pattern.matches(text) for rule in deny):
            return False
        return all(any(_covers(rule, text) for rule in layer) for layer in layers)

    def reaches(self, name: str, address: bytes) -> bool:
        """Whether the allowed `name` may stand for `address`."""
        text = _of_name(name)
        return all(
            any(_covers(rule, text) and reachable(rule, name, address) for rule in layer) for layer in self._rules[0]
        )

    def exact_names(self) -> tuple[str, ...]:
        """The names that the first layer, the request, allows one by one."""
        layers, _ = self._rules
        rules = layers[0] if layers else ()
        stems = [r.pattern.stem for r in rules if r.kind == CONNECT and r.pattern.exact]
        names = (".".join(reversed(s.removeprefix("name:").split("."))) for s in stems if s.startswith("name:"))
        return tuple(sorted(name for name in set(names) if self.knows(name)))


def policy_of(wanted: dict[str, Any]) -> Policy:
    """The policy of a frame: ``layers`` and ``deny`` hold rules as [kind, text, private]. ValueError, TypeError."""
    layers = [[_rule(*row) for row in layer] for layer in wanted["layers"]]
    if not layers:
        raise ValueError("a policy without layers would allow everything")
    return Policy(layers, [_rule(*row) for row in wanted["deny"]])


def _rule(kind: str, text: str, private: bool) -> Rule:
    return parse_rule(kind, text, private=private)


def _of_name(name: str) -> str:
    return "name:" + ".".join(reversed(name.split(".")))


def _reaches(rule: Rule, kind: str, name: str | None, text: str, port: int, address: bytes) -> bool:
    return rule.kind == kind and rule.pattern.matches(text, port) and reachable(rule, name, address)


def _covers(rule: Rule, text: str) -> bool:
    pattern = rule.pattern
    return rule.kind == CONNECT and (text == pattern.stem if pattern.exact else text.startswith(pattern.stem))
