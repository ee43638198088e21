"""What a manifest's request, minus its denies, says about one target; grants and ceilings are left out."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Final

from host.model.manifest import expand
from host.model.plan import NET_KINDS
from host.run import interpreter as interpreters
from host.service.options import data_home
from sandbox_worker.permissions import ENFORCED_KINDS, UNIX, Rule, decide, hint, parse_rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from host.model.manifest import Entry, Manifest

_FILES: Final = ("fs.read", "fs.write")
_DENY: Final = "permissions.deny"
_TEMPORARY: Final = "/${tmp}"  # no folder before a start; nothing written as a path begins like it


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """The answer: `rule` is the deciding one as the manifest writes it and `key` where, both "" where none decided.

    `argv` are the arguments that the entries of an allowed command have, each None for all.

    `reason` is a `sandbox_worker.permissions.Decision`'s, `hint` what would allow the target, "" where it is allowed.
    """

    allowed: bool
    reason: str
    rule: str = ""
    key: str = ""
    hint: str = ""
    argv: tuple[tuple[str, ...] | None, ...] = ()


def judge(manifest: Manifest, kind: str, target: str) -> Judgement:
    """Judge `target`, an absolute path, a path behind one of the manifest's variables, or a name, as `kind` needs it.

    A path is judged as it is given and, where it leads over symbolic links, as what they lead to. Raises RuleError
    (an unknown variable) and RequestError (no target of that kind).
    """
    variables = _variables(manifest)
    if kind == "run" and os.path.isabs(target):
        found = _decide(manifest, kind, _place(target), variables)
        in_the_end = _decide(manifest, kind, os.path.realpath(target), variables)
        return in_the_end if found.allowed and in_the_end.reason == "deny-rule" else found
    target = expand(target, variables) if _before_path(kind, target) is not None else target
    found = _decide(manifest, kind, target, variables)
    real = _real(kind, target)
    return _decide(manifest, kind, real, variables) if found.allowed and real != target else found


def _before_path(kind: str, text: str) -> str | None:
    """What stands before the path of a rule or a target; None where it has none."""
    if kind in _FILES:
        return "" if text != "*" else None
    return UNIX if kind in NET_KINDS and text.startswith(UNIX) else None


def _real(kind: str, text: str) -> str:
    """The same with its path, if it has an absolute one, as what that leads to."""
    prefix = _before_path(kind, text)
    path = text.removeprefix(prefix or "")
    return text if prefix is None or not os.path.isabs(path) else prefix + os.path.realpath(path)


def _decide(manifest: Manifest, kind: str, target: str, variables: Mapping[str, str]) -> Judgement:
    allow = list(_rules(manifest.permissions, "permissions", kind, variables))
    deny = list(_rules(manifest.deny, _DENY, kind, variables))
    decision = decide(kind, [rule for rule, _, _ in allow], [rule for rule, _, _ in deny], target)
    if decision.rule is not None:
        written, key = next((text, key) for rule, text, key in (*deny, *allow) if rule is decision.rule)
        advice = "" if decision.allowed else "a deny rule always wins: only removing it could allow this"
        argv = tuple(_arguments(manifest, decision.rule)) if kind == "run" and decision.allowed else ()
        return Judgement(decision.allowed, decision.reason, written, key, advice, argv)
    if decision.allowed or _implied(manifest, kind, target, variables):
        return Judgement(True, "implied")
    return Judgement(False, decision.reason, hint=hint(kind, target, ENFORCED_KINDS))


def _arguments(manifest: Manifest, rule: Rule) -> Iterator[tuple[str, ...] | None]:
    for entry in manifest.permissions:
        if entry.kind == "run" and rule.text in (entry.target, _place(entry.target)):
            yield entry.argv


def _place(program: str) -> str:
    """The path of a program as a keeper compares it: its folder resolved, its name as it is."""
    return os.path.join(os.path.realpath(os.path.dirname(program)), os.path.basename(program))


def _rules(
    entries: Iterable[Entry], table: str, kind: str, variables: Mapping[str, str]
) -> Iterator[tuple[Rule, str, str]]:
    """(rule, text as written, key) of the entries of `kind`; a path over links gives a second rule, as at a start."""
    for index, entry in enumerate(entry for entry in entries if entry.kind == kind):
        written = expand(entry.target, variables)
        texts = {written, _real(kind, written)}
        if kind == "run" and written != "*":
            texts |= {_place(written), *([os.path.realpath(written)] if table == _DENY else [])}
        for text in sorted(texts):
            yield parse_rule(kind, text, private=entry.private), entry.target, f"{table}.{kind}[{index}]"


def _implied(manifest: Manifest, kind: str, target: str, variables: Mapping[str, str]) -> bool:
    """Whether the worker has it without an entry: its code, the interpreter's library, what it writes, /dev/null."""
    if kind == "fs.write":
        return target == os.devnull
    if kind != "fs.read":
        return False
    written = {entry.target for entry in manifest.permissions if entry.kind == "fs.write"}
    packages = interpreters.site_packages() if manifest.environment == "host" else ()
    own = [variables["plugin"], *(variables[name] for name in ("data", "tmp") if f"${{{name}}}" in written), *packages]
    library = interpreters.find()
    return _beneath(target, own) or (
        _beneath(target, (*library.readable, *library.devices)) and not _beneath(target, library.hidden)
    )


def _beneath(target: str, paths: Iterable[str]) -> bool:
    return decide("fs.read", [parse_rule("fs.read", path) for path in paths], (), target).allowed


def _variables(manifest: Manifest) -> dict[str, str]:
    return {
        "plugin": str(manifest.path),
        "data": str(data_home() / manifest.project / manifest.name),
        "tmp": _TEMPORARY,
        "home": os.path.expanduser("~"),
    }
