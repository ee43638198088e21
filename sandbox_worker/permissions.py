"""The rules: what a manifest, a grant and a ceiling may say, and what they allow.

One pure decision function serves query, enforcement, audit and checks alike; nothing here opens a file or a socket.
A rule is a text of one kind, read by the grammar of that kind (`_paths`, `_network`, `_names`) into a pattern. Deny
beats allow, whatever the order and however specific each is.
"""

from __future__ import annotations

from sandbox_worker import _names, _paths
from sandbox_worker._names import SYS_NAMES
from sandbox_worker._paths import UNIX, normalise, path_verdict
from sandbox_worker._patterns import Pattern, Record, ports_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

__all__ = [
    "ENFORCED_KINDS",
    "IMPLIED_ENV",
    "KINDS",
    "RULE_MAX",
    "SYS_NAMES",
    "UNIX",
    "Decision",
    "RequestError",
    "Rule",
    "RuleError",
    "coverage",
    "covers",
    "decide",
    "distinct",
    "hint",
    "intersect",
    "normalise",
    "parse_rule",
    "path_prefixes",
    "path_verdict",
    "verdict",
    "without",
]

KINDS: Final[tuple[str, ...]] = (
    "fs.read",
    "fs.write",
    "net.connect",
    "net.listen",
    "env",
    "run",
    "sys",
    "native",
    "host",
)
ENFORCED_KINDS: Final = ("fs.read", "fs.write", "env", "net.connect", "net.listen", "run", "native", "sys", "host")
"""What this version can grant and hold."""
IMPLIED_ENV: Final = ("TZ", "LC_CTYPE")  # every worker has time zones and one fixed locale
RULE_MAX: Final = 4096  # characters; PATH_MAX of linux/limits.h bounds the longest thing that a rule can name

_FS: Final = ("fs.read", "fs.write")
_NET: Final = ("net.connect", "net.listen")
_PATHS: Final = (*_FS, "run")
_SHOWN_MAX: Final = 200  # characters of a foreign text in a message

_LEGAL_KIND: Final = f"one of the kinds {', '.join(KINDS)}"
_LEGAL_TEXT: Final = f"a text of at most {RULE_MAX} characters without control characters"


class _IllegalTextError(ValueError):
    """`text` is what offends, `legal` says in one line what would be legal instead."""

    def __init__(self, text: str, legal: str) -> None:
        super().__init__(text, legal)
        self.text = text
        self.legal = legal

    def __str__(self) -> str:
        return f"{_quoted(self.text, _SHOWN_MAX)} is not legal; legal is {self.legal}"


class RuleError(_IllegalTextError):
    """A rule that no manifest, grant or ceiling may contain: `.text` offends, `.legal` says what is legal."""


class RequestError(_IllegalTextError):
    """A request that names no possible target: `.text` offends, `.legal` says what is legal."""


class Rule(Record):
    """One rule of one kind; made by `parse_rule` and `intersect`.

    `text` is the rule as written, `pattern` what it means; `private` says that a network rule reaches private
    addresses too.
    """

    __slots__ = ("kind", "text", "private", "pattern")  # noqa: RUF023 - in the order of __init__
    kind: str
    text: str
    private: bool
    pattern: Pattern

    def __init__(self, kind: str, text: str, private: bool, pattern: Pattern) -> None:
        write = object.__setattr__
        write(self, "kind", kind)
        write(self, "text", text)
        write(self, "private", private)
        write(self, "pattern", pattern)

    def __str__(self) -> str:
        return self.text


class Decision(Record):
    """The answer to one request.

    `reason` is `allow-rule` or `deny-rule`, with the deciding `rule`; or without one `no-rule`, `special-path` (a rule
    for a directory above does not reach into `/proc`, `/sys`, `/dev`) or `implied` (every worker has it).
    """

    __slots__ = ("allowed", "rule", "reason")  # noqa: RUF023 - in the order of __init__
    allowed: bool
    rule: Rule | None
    reason: str

    def __init__(self, allowed: bool, rule: Rule | None, reason: str) -> None:
        self._set(allowed, rule, reason)


def parse_rule(kind: str, text: str, *, private: bool = False) -> Rule:
    """Read one rule of a manifest; `"*"` alone is everything of its kind.

    `text` has its variables already replaced. `private` is for network rules only. Raises RuleError for everything
    else than the grammar of the kind.
    """
    if kind not in KINDS:
        raise RuleError(kind, _LEGAL_KIND)
    if type(text) is not str:
        raise RuleError(f"a value of type {type(text).__name__}", _LEGAL_TEXT)
    if len(text) > RULE_MAX or (not text.isprintable() and any(_is_control(char) for char in text)):
        raise RuleError(text, _LEGAL_TEXT)
    if private and kind not in _NET:
        raise RuleError(text, f"a rule without private, which is for {' and '.join(_NET)}")
    rule = Rule(kind, text, private, _parse_pattern(kind, text))
    if private and _is_special(rule):
        raise RuleError(text, "a rule without private, which is for addresses and names")
    return rule


def decide(kind: str, allow: Iterable[Rule], deny: Iterable[Rule], request: str) -> Decision:
    """Decide whether `request`, a target of `kind`, is allowed; rules of other kinds are ignored.

    Takes an absolute path for fs and run, `host[:port]` for net, else a name. Raises RequestError, and nothing else,
    when the text can't be such a target. Of several deciding rules the most specific one is named.
    """
    subject, port = _parse_request(kind, request)
    allow = [rule for rule in allow if rule.kind == kind]
    deny = [rule for rule in deny if rule.kind == kind]
    granting = [rule for rule in allow if rule.pattern.matches(subject, port) and _reaches(rule, subject)]
    refusing = [rule for rule in deny if rule.pattern.matches(subject, port)]
    if kind in _FS:
        outcome = path_verdict(normalise(request), *path_prefixes(allow), tuple(rule.pattern.stem for rule in deny))
    else:
        outcome = -1 if refusing else 1 if granting else 0
    if outcome < 0:
        return Decision(allowed=False, rule=max(refusing, key=_precision), reason="deny-rule")
    if outcome > 0:
        return Decision(allowed=True, rule=max(granting, key=_precision), reason="allow-rule")
    if kind == "env" and subject in IMPLIED_ENV:
        return Decision(allowed=True, rule=None, reason="implied")
    # What a rule matches and path_verdict still leaves undecided lies in a special tree, below that rule's directory.
    return Decision(allowed=False, rule=None, reason="special-path" if granting else "no-rule")


def verdict(kind: object, allow_texts: object, deny_texts: object, request: object) -> tuple[str, str | None]:
    """Judge one row of texts: `("allow" | "deny", text of the deciding rule or None)` or `("error", why)`.

    The lists hold rules as texts. Never raises: whatever has a wrong type or is malformed is an error.
    """
    if type(kind) is not str or type(allow_texts) is not list or type(deny_texts) is not list:
        return "error", "a row has a kind, two lists of rules and a request"
    try:
        allow = [parse_rule(kind, text) for text in allow_texts]
        deny = [parse_rule(kind, text) for text in deny_texts]
        decision = decide(kind, allow, deny, request)  # type: ignore[arg-type]  # it refuses what is no text
    except (RuleError, RequestError) as error:
        return "error", str(error)
    return "allow" if decision.allowed else "deny", decision.rule.text if decision.rule else None


def covers(outer: Rule, inner: Rule) -> bool:
    """Say whether `outer`, as an allow rule, matches every request that `inner` matches.

    A rule without `private` does not cover one with it, nor `/` the rule `/proc/meminfo`, nor `"*"` of the network a
    unix socket: they do not reach there.
    """
    if outer.kind != inner.kind or _is_special(outer) != _is_special(inner) or (inner.private and not outer.private):
        return False
    return outer.pattern.contains(inner.pattern)


def coverage(outers: Iterable[Rule]) -> Callable[[Rule], bool]:
    """Return the question whether one of `outers` `covers` a rule; for paths it takes no longer with many of them."""
    rules = tuple(outers)
    prefixes = {kind: path_prefixes(rule for rule in rules if rule.kind == kind) for kind in _FS}

    def covered(inner: Rule) -> bool:
        if inner.kind not in _FS:
            return any(covers(outer, inner) for outer in rules)
        allow, special = prefixes[inner.kind]
        return inner.pattern.stem.startswith(special if _is_special(inner) else allow)

    return covered


def distinct(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the rules sorted by text, of those that mean the same one; `private` remains where one of them has it."""
    kept: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        pattern = rule.pattern
        key = rule.kind, pattern.stem, pattern.exact, pattern.ports
        same = kept.setdefault(key, rule)
        if same is not rule:
            kept[key] = Rule(rule.kind, min(same.text, rule.text), same.private or rule.private, pattern)
    return tuple(sorted(kept.values(), key=lambda rule: (rule.text, rule.kind)))


def intersect(a: Iterable[Rule], b: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return the allow rules that match exactly the requests that both `a` and `b` match, sorted by text.

    Independent of order. Of rules that mean the same one is kept; `private` remains where both sides have it.
    """
    b = tuple(b)
    merged: dict[tuple[str, Pattern], Rule] = {}
    for met in (_meet(one, other) for one in a for other in b):
        if met is not None:
            same = merged.setdefault((met.kind, met.pattern), met)
            merged[met.kind, met.pattern] = Rule(
                met.kind, min(same.text, met.text), same.private or met.private, met.pattern
            )
    return tuple(sorted(merged.values(), key=lambda rule: (rule.text, rule.kind)))


def without(
    allow: Iterable[Rule], deny: Iterable[Rule], kind: str, target: str
) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """Return `(allow, deny)`, both of one `kind`, when `target`, a rule's text, is given up; `"*"` gives up all.

    A rule within `target` goes; where a wider one remains, a deny is added. Raises RuleError.
    """
    gone = parse_rule(kind, target)
    if target == "*":
        return (), tuple(deny)
    kept = tuple(rule for rule in allow if not gone.pattern.contains(rule.pattern))
    wider = any(rule.pattern.meet(gone.pattern) is not None for rule in kept)
    return kept, (*deny, gone) if wider else tuple(deny)


def path_prefixes(rules: Iterable[Rule]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return `(allow, special)` for `path_verdict` from the allow rules of one fs kind, sorted, without duplicates."""
    stems = {rule.pattern.stem for rule in rules}
    special = {stem for stem in stems if stem.startswith(_paths.SPECIAL_TREES)}
    return tuple(sorted(stems - special)), tuple(sorted(special))


def hint(kind: str, target: str, granted_kinds: Iterable[str]) -> str:
    """Return the manifest line that requests `target`, as TOML, or a sentence that says why no line can.

    `granted_kinds` are the kinds that this version can grant. For a target that no deny rule refused: against one no
    line helps.
    """
    if kind not in KINDS:
        return f"No permission covers {_quoted(kind, _SHOWN_MAX)}."
    if kind not in granted_kinds:
        return f"{kind} can't be granted in this version."
    try:
        _parse_request(kind, target)
        rule = parse_rule(kind, normalise(target) if kind in _PATHS else target)
    except (RuleError, RequestError) as error:
        return f"No {kind} rule can name {_quoted(error.text, _SHOWN_MAX)}; legal is {error.legal}."
    if kind == "env" and not rule.pattern.exact:
        return f"No {kind} rule can name {_quoted(target, _SHOWN_MAX)} alone."
    return f"{kind} = [{_quoted(rule.text)}]"


def _parse_pattern(kind: str, text: str) -> Pattern:
    try:
        if kind in _NET:
            from sandbox_worker import _network  # deferred: most workers have no network rule

            return _network.parse_rule(text)
        return _paths.parse_rule(kind, text) if kind in _PATHS else _names.parse_rule(kind, text)
    except ValueError as error:
        raise RuleError(text, str(error)) from None


def _parse_request(kind: str, text: str) -> tuple[str, int | None]:
    """Return the request as the text that patterns match, and its port."""
    if kind not in KINDS:
        raise RequestError(kind, _LEGAL_KIND)
    if type(text) is not str:
        raise RequestError(f"a value of type {type(text).__name__}", "a text")
    try:
        if kind in _NET:
            from sandbox_worker import _network  # deferred: most workers have no network rule

            return _network.parse_request(text)
        if kind in _PATHS:
            path = _paths.parse_request(text)
            return _paths.as_prefix(path) if kind in _FS else path, None
        return _names.parse_request(kind, text), None
    except ValueError as error:
        raise RequestError(text, str(error)) from None


def _is_special(rule: Rule) -> bool:
    """Whether it is for what no wider rule reaches: a path in a special tree, a unix socket."""
    stem = rule.pattern.stem
    return stem.startswith(_paths.SPECIAL_TREES) if rule.kind in _FS else rule.kind in _NET and stem.startswith(UNIX)


def _reaches(rule: Rule, subject: str) -> bool:
    """Of files `path_verdict` has the word; a unix socket only its own rule reaches."""
    return rule.kind not in _NET or not subject.startswith(UNIX) or _is_special(rule)


def _precision(rule: Rule) -> tuple[int, bool, bool, str, bool]:
    pattern = rule.pattern
    return len(pattern.stem), pattern.exact, pattern.ports is not None, rule.text, rule.private


def _meet(one: Rule, other: Rule) -> Rule | None:
    """Return the rule that matches what both match, with the text of the narrower one where that says it."""
    pattern = one.pattern.meet(other.pattern)
    if pattern is None or one.kind != other.kind or _is_special(one) != _is_special(other):
        return None
    # Both are as narrow when they name the same; then the choice must not depend on their order.
    narrow = min((rule for rule in (one, other) if rule.pattern.same_texts(pattern)), key=lambda rule: rule.text)
    text = narrow.text
    if pattern.ports is not None and pattern.ports != narrow.pattern.ports:
        host = text if narrow.pattern.ports is None else text.rpartition(":")[0]
        text = f"{host}:{ports_text(pattern.ports)}"
    return Rule(one.kind, text, one.private and other.private, pattern)


def _is_control(char: str) -> bool:
    # Surrogates too: no TOML or UTF-8 text holds one.
    return char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"


def _quoted(text: str, most: int = RULE_MAX) -> str:
    """Write `text` as a basic string of TOML 1.0, everything invisible in it escaped; cut after `most` characters."""
    shown = "".join(_escaped(char) for char in text[:most])
    return f'"{shown}"' if len(text) <= most else f'"{shown}"…'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"
