"""What a manifest's request, minus its denies, says about one target; grants and ceilings are left out."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Final

from host.model.manifest import expand
from host.run import interpreter as interpreters
from host.service.plugin_host import _data_home
from sandbox_worker.permissions import ENFORCED_KINDS, Rule, decide, hint, parse_rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from host.model.manifest import Entry, Manifest

_FILES: Final = ("fs.read", "fs.write")
_TEMPORARY: Final = "/${tmp}"  # no folder before a start; nothing written as a path begins like it


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """The answer: `rule` is the deciding one as the manifest writes it and `key` where, both "" where none decided.

    `reason` is a `sandbox_worker.permissions.Decision`'s, `hint` what would allow the target, "" where it is allowed.
    """

    allowed: bool
    reason: str
    rule: str = ""
    key: str = ""
    hint: str = ""


def judge(manifest: Manifest, kind: str, target: str) -> Judgement:
    """Judge `target`, an absolute path, a path behind one of the manifest's variables, or a name, as `kind` needs it.

    A path is judged as it is given and, where it leads over symbolic links, as what they lead to. Raises RuleError
    (an unknown variable) and RequestError (no target of that kind).
    """
    variables = _variables(manifest)
    if kind not in _FILES:
        return _decide(manifest, kind, target, variables)
    path = expand(target, variables)
    found = _decide(manifest, kind, path, variables)
    real = os.path.realpath(path) if os.path.isabs(path) else path
    return _decide(manifest, kind, real, variables) if found.allowed and real != path else found


def _decide(manifest: Manifest, kind: str, target: str, variables: Mapping[str, str]) -> Judgement:
    allow = list(_rules(manifest.permissions, "permissions", kind, variables))
    deny = list(_rules(manifest.deny, "permissions.deny", kind, variables))
    decision = decide(kind, [rule for rule, _, _ in allow], [rule for rule, _, _ in deny], target)
    if decision.rule is not None:
        written, key = next((text, key) for rule, text, key in (*deny, *allow) if rule is decision.rule)
        advice = "" if decision.allowed else "a deny rule always wins: only removing it could allow this"
        return Judgement(decision.allowed, decision.reason, written, key, advice)
    if decision.allowed or _implied(manifest, kind, target, variables):
        return Judgement(True, "implied")
    return Judgement(False, decision.reason, hint=hint(kind, target, ENFORCED_KINDS))


def _rules(
    entries: Iterable[Entry], table: str, kind: str, variables: Mapping[str, str]
) -> Iterator[tuple[Rule, str, str]]:
    """(rule, text as written, key) of the entries of `kind`; a path over links gives a second rule, as at a start."""
    for index, entry in enumerate(entry for entry in entries if entry.kind == kind):
        written = expand(entry.target, variables)
        texts = {written, os.path.realpath(written)} if kind in _FILES and written != "*" else {written}
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
        "data": str(_data_home() / "plughold" / manifest.project / manifest.name),
        "tmp": _TEMPORARY,
        "home": os.path.expanduser("~"),
    }
