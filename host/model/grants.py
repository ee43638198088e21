"""What a plugin effectively may: its request, as far as the grant and the ceiling allow it. Pure.

Effective permission = request ∩ grant ∩ ceiling. A required request that is not granted is `Pending`, one above the
ceiling `CeilingExceeded`; an optional one is left out. Denies of all three add up, and always win.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import types
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from host.errors import CeilingExceeded, GrantError, Pending
from host.model.links import PlantedLink
from host.model.manifest import Limits, Manifest, expand
from host.model.manifest_schema import VARIABLES
from host.model.rules import parse_rule
from host.model.units import UnitError, parse_duration, parse_size
from sandbox_worker import _argv
from sandbox_worker.permissions import KINDS, UNIX, Rule, RuleError, coverage, covers, distinct, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Rules = Mapping[str, tuple[Rule, ...]]
    Target = str | Mapping[str, object]
    Arguments = tuple[str, ...] | None

_SIZES: Final = ("memory", "file_size", "write_size", "result_size")
_TIMES: Final = ("call_timeout", "start_timeout", "cpu_time")
_PATHS: Final = ("fs.read", "fs.write", "run")
_NET: Final = ("net.connect", "net.listen")
_STAND_INS: Final = {name: f"/{name}" for name in VARIABLES}


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """What an operator allows.

    `permissions` maps a kind to its targets, as in a manifest: ``{"fs.read": ["/srv/in"], "env": ["*"]}``; the key
    ``"deny"`` may hold such a mapping of denies. A network target may also be ``{"target": …, "private": True}``: it
    then reaches private addresses too, which `"*"` and names don't; a command ``{"target": …, "argv": […]}`` with these
    arguments alone (`sandbox_worker._argv`). `limits` caps what the manifest asks for: numbers
    of bytes and seconds, or text as in a manifest (``{"memory": "128 MiB"}``). Raises GrantError where either is
    malformed.
    """

    permissions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    limits: Mapping[str, float | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for given in (self.permissions, self.limits):
            if not isinstance(given, Mapping):
                raise GrantError("a grant's permissions and limits must be mappings")
        deny = types.MappingProxyType(_checked(self.permissions.get("deny", {})))
        allow = _checked({kind: targets for kind, targets in self.permissions.items() if kind != "deny"})
        object.__setattr__(self, "permissions", types.MappingProxyType({**allow, "deny": deny}))
        object.__setattr__(self, "limits", types.MappingProxyType(dict(self.limits)))
        cap(Limits(), self)


def _checked(permissions: object) -> dict[str, tuple[Target, ...]]:
    """The targets by kind of one half of a grant; GrantError for what is no such thing."""
    if not isinstance(permissions, Mapping):
        raise GrantError("a grant's deny must be a mapping of kinds to targets")
    for kind, targets in permissions.items():
        if kind not in KINDS:
            raise GrantError(f"a grant names the unknown kind {kind!r}; kinds are {', '.join(KINDS)}")
        if isinstance(targets, str) or not isinstance(targets, Collection):
            raise GrantError(f"a grant of {kind} must be a list of texts")
        for target in targets:
            text, private, _ = _parts(kind, target)
            try:
                parse_rule(kind, expand(text, _STAND_INS), private=private)
                if kind in _PATHS and "*" in text and text != "*":  # a name to the grammar, a glob to who wrote it
                    raise RuleError(text, "a path without *")
            except RuleError as e:
                raise GrantError(f"a grant of {kind}: {e}") from e
    return {kind: tuple(targets) for kind, targets in permissions.items()}


def _parts(kind: str, target: object) -> tuple[str, bool, Arguments]:
    """(text, private, argv) of one target."""
    if kind == "run" and isinstance(target, Mapping) and target.keys() == {"target", "argv"}:
        try:
            if isinstance(target["target"], str):
                return target["target"], False, _argv.parse(target["argv"])
        except ValueError as e:
            raise GrantError(f"a grant of run: argv is not legal; legal is {e}") from None
    if kind in _NET and isinstance(target, Mapping) and target.keys() <= {"target", "private"}:
        text, private = target.get("target"), target.get("private", False)
        if isinstance(text, str) and isinstance(private, bool):
            return text, private, None
    if not isinstance(target, str):
        key = "private" if kind in _NET else "argv" if kind == "run" else ""
        tables = f", or of tables with target and {key}" if key else ""
        raise GrantError(f"a grant of {kind} must be a list of texts{tables}")
    return target, False, None


@dataclasses.dataclass(frozen=True, slots=True)
class Effective:
    """What one plugin may: rules by kind, with resolved paths, and its limits. `withheld` lists optional requests
    that were not granted, as (kind, target). `bounds` are the network rules of the grant and of the ceiling: an
    address that the plugin asks for must be within each of them too. `commands` are the layers of request, grant and
    ceiling as (path, argv): a command must be within each."""

    allow: Rules
    deny: Rules
    limits: Limits
    withheld: tuple[tuple[str, str], ...] = ()
    bounds: tuple[tuple[Rule, ...], ...] = ()
    commands: tuple[tuple[tuple[str, Arguments], ...], ...] = ()


def requested(manifest: Manifest, variables: Mapping[str, str], implied: Sequence[tuple[str, str]]) -> list[Request]:
    """Every request of a manifest: its entries, and what its other keys imply (kind, absolute path)."""
    found = [
        Request(entry.kind, entry.target, expand(entry.target, variables), entry.optional, entry.private, entry.argv)
        for entry in manifest.permissions
    ]
    return found + [Request(kind, target, target, optional=False, private=False) for kind, target in implied]


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request: `written` as in the manifest, `target` with its variables expanded."""

    kind: str
    written: str
    target: str
    optional: bool
    private: bool
    argv: Arguments = None


def effective(
    manifest: Manifest,
    requests: Sequence[Request],
    grant: Grant | None,
    ceiling: Grant | None,
    variables: Mapping[str, str],
    resolve: Callable[[str], str],
) -> Effective:
    """What the plugin may. `grant` None grants what is requested; `resolve` is realpath, applied to every path, a
    unix socket's too.

    Raises Pending (not granted), CeilingExceeded (above the ceiling), GrantError (a malformed grant or ceiling).
    """
    allow: dict[str, list[Rule]] = {}
    withheld = []
    commands = []
    kinds = {request.kind for request in requests}
    limiting = [
        (limit, {kind: _within(kind, limit, variables, resolve) for kind in kinds}, error)
        for limit, error in ((grant, Pending), (ceiling, CeilingExceeded))
        if limit is not None
    ]
    for request in requests:
        rule = _rule(request.kind, request.target, resolve, private=request.private)
        for limit, covered, error in limiting:
            if not (covered[request.kind](rule) and _may_have(rule, request.argv, limit)):
                if not request.optional:
                    raise error(_refusal(manifest, request, error), plugin=manifest.name)
                withheld.append((request.kind, request.written))
                break
        else:
            allow.setdefault(request.kind, []).append(rule)
            if request.kind == "run":
                commands.append((request.target, request.argv))
    deny = {
        kind: tuple(
            _rule(kind, _parts(kind, target)[0], resolve, variables)
            for source in (_manifest_denies(manifest), _denies(grant), _denies(ceiling))
            for target in source.get(kind, ())
        )
        for kind in KINDS
    }
    limits = cap(cap(manifest.limits, grant), ceiling)
    bounds = tuple(
        tuple(rule for kind in _NET for rule in _granted(kind, limit, variables, resolve))
        for limit in (grant, ceiling)
        if limit is not None
    )
    merged = {kind: distinct(rules) for kind, rules in allow.items()}
    layers = (tuple(commands), *(tuple(_commands(limit)) for limit in (grant, ceiling) if limit is not None))
    return Effective(merged, deny, limits, tuple(withheld), bounds, layers)


def narrowed(rules: Effective, dropped: Iterable[tuple[str, str]]) -> Effective:
    """`rules` less what the plugin gave up: (kind, target), ``"*"`` for all; what is no rule is passed over."""
    allow, deny = dict(rules.allow), dict(rules.deny)
    for kind, target in dropped:
        with contextlib.suppress(RuleError):
            allow[kind], deny[kind] = without(allow.get(kind, ()), deny.get(kind, ()), kind, target)
    return dataclasses.replace(rules, allow=allow, deny=deny)


def _within(
    kind: str, limit: Grant, variables: Mapping[str, str], resolve: Callable[[str], str]
) -> Callable[[Rule], bool]:
    """The question whether a rule of `kind` is within a grant or a ceiling."""
    rules = functools.partial(_granted, kind, limit, variables, resolve)
    try:
        return coverage(rules())
    except (PlantedLink, GrantError):  # one of them can't be resolved: that is the affair of who needs that one
        return lambda rule: any(covers(outer, rule) for outer in rules())


def _granted(kind: str, limit: Grant, variables: Mapping[str, str], resolve: Callable[[str], str]) -> Iterator[Rule]:
    """The rules of one kind in a grant or a ceiling."""
    for target in limit.permissions.get(kind, ()):
        text, private, _ = _parts(kind, target)
        yield _rule(kind, text, resolve, variables, private=private)


def _may_have(rule: Rule, argv: Arguments, limit: Grant) -> bool:
    """Whether a command that is within a grant or a ceiling is so with these arguments."""
    if rule.kind != "run":
        return True
    granted = ((parse_rule("run", text), items) for text, items in _commands(limit))
    return any(covers(outer, rule) and _argv.contains(items, argv) for outer, items in granted)


def _commands(limit: Grant) -> Iterator[tuple[str, Arguments]]:
    for target in limit.permissions.get("run", ()):
        text, _, argv = _parts("run", target)
        yield text, argv


def _rule(
    kind: str,
    target: str,
    resolve: Callable[[str], str],
    variables: Mapping[str, str] | None = None,
    *,
    private: bool = False,
) -> Rule:
    try:
        target = target if variables is None else expand(target, variables)
        rule = parse_rule(kind, target, private=private)
        prefix = UNIX if kind in _NET and rule.pattern.stem.startswith(UNIX) else ""
        path = target.removeprefix(prefix)
        has_path = prefix or (kind.startswith("fs.") and target != "*")
        if has_path and (resolved := resolve(path)) != path:
            rule = parse_rule(kind, prefix + resolved)
        if kind == "run" and target != "*":
            resolve(target)  # for PlantedLink alone: a program is known by the name that the rule has for it
    except RuleError as e:
        raise GrantError(f"{kind}: {e}") from e
    return rule


def _denies(grant: Grant | None) -> Mapping[str, Sequence[Target]]:
    return grant.permissions.get("deny", {}) if grant else {}


def _manifest_denies(manifest: Manifest) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for entry in manifest.deny:
        found.setdefault(entry.kind, []).append(entry.target)
    return found


def _refusal(manifest: Manifest, request: Request, error: type[GrantError]) -> str:
    what = f"{manifest.name}: {request.kind} = [{request.written!r}]"
    if error is CeilingExceeded:
        return f"{what} is above the ceiling, and the manifest doesn't mark it optional"
    return f"{what} is requested but not granted"


def cap(limits: Limits, grant: Grant | None) -> Limits:
    """`limits` with none above what `grant` allows. Raises GrantError for an unknown name or a bad value."""
    if grant is None:
        return limits
    changes: dict[str, Any] = {}
    for name, value in grant.limits.items():
        if name not in Limits.__dataclass_fields__:
            raise GrantError(
                f"a grant limits the unknown {name!r}; limits are {', '.join(Limits.__dataclass_fields__)}"
            )
        try:
            number = _number(name, value)
        except UnitError as e:
            raise GrantError(f"limit {name}: {e}") from e
        changes[name] = min(getattr(limits, name), number)
    return dataclasses.replace(limits, **changes)


def _number(name: str, value: float | str) -> float:
    if isinstance(value, str):
        return parse_size(value) if name in _SIZES else parse_duration(value) if name in _TIMES else _refuse(value)
    if type(value) not in (int, float) or not 0 < value < math.inf:  # nor NaN
        return _refuse(value)
    return value if name in _TIMES else int(value)


def _refuse(value: object) -> int:
    raise UnitError(str(value), "a positive number")
