"""What one worker may reach, and which files it may change. Pure.

Rules of the network come in layers: request, grant and ceiling, each judged for itself. Text was judged when the grant
was computed; here come addresses. A rule that covers another one's text need not reach the same addresses: `"*"` covers
`10.0.0.1:80` and does not reach it. So each *layer* must reach the address on its own.
"""

from __future__ import annotations

from sandbox_worker._addresses import reachable, subject
from sandbox_worker.permissions import UNIX, parse_rule, path_prefixes, path_verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Final

    from sandbox_worker.permissions import Rule

CONNECT: Final = "net.connect"
LISTEN: Final = "net.listen"
_FILES: Final = ("fs.read", "fs.write")

ALLOWED: Final = "allow"
NO_RULE: Final = "no-rule"
DENY_RULE: Final = "deny-rule"


class Policy:
    """`layers` are lists of allow rules, all of which must allow; any of the rules in `deny` refuses. Thread-safe.

    `writes` are the fs.write rules, which need no layers: a path reaches the same in each.
    """

    __slots__ = ("__weakref__", "_rules", "_trees")

    def __init__(self, layers: Iterable[Iterable[Rule]], deny: Iterable[Rule], writes: Iterable[Rule] = ()) -> None:
        self._rules = tuple(tuple(layer) for layer in layers), tuple(deny)
        refused = (rule.pattern.stem for rule in self._rules[1] if rule.kind in _FILES)
        self._trees = path_prefixes(writes)[0], tuple(refused)

    def become(self, other: Policy) -> None:
        """Take the rules of `other` from now on: each kind's at once, for every thread that judges by them."""
        self._rules = other._rules
        self._trees = other._trees

    def judge_write(self, path: str) -> str:
        """Judge the absolute path of a file, without links; what lies in /proc, /sys and /dev is allowed by no rule.

        What may not be read may not be changed either, as everywhere.
        """
        allow, deny = self._trees
        return {1: ALLOWED, 0: NO_RULE, -1: DENY_RULE}[path_verdict(path, allow, (), deny)]

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
    """The policy of a frame: ``layers``, ``deny`` and ``writes`` hold rules as [kind, text, private].

    ValueError, TypeError, KeyError.
    """
    layers = [[_rule(*row) for row in layer] for layer in wanted["layers"]]
    if not layers:
        raise ValueError("a policy without layers would allow everything")
    return Policy(layers, [_rule(*row) for row in wanted["deny"]], [_rule(*row) for row in wanted["writes"]])


def _rule(kind: str, text: str, private: bool) -> Rule:
    return parse_rule(kind, text, private=private)


def _of_name(name: str) -> str:
    return "name:" + ".".join(reversed(name.split(".")))


def _reaches(rule: Rule, kind: str, name: str | None, text: str, port: int, address: bytes) -> bool:
    return rule.kind == kind and rule.pattern.matches(text, port) and reachable(rule, name, address)


def _covers(rule: Rule, text: str) -> bool:
    pattern = rule.pattern
    return rule.kind == CONNECT and (text == pattern.stem if pattern.exact else text.startswith(pattern.stem))
