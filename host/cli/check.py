"""`plughold check`: validate manifests, and list what they request."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

import click
from rich.text import Text

from host.cli import failures
from host.cli.command import command
from host.cli.report import Report
from host.cli.shown import one_line, shown, shown_arguments, size
from host.cli.tables import columns
from host.errors import ManifestError
from host.model.manifest import load_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from host.model.manifest import Entry, Limits, Manifest

_TIMES: Final = ("call_timeout", "start_timeout", "cpu_time")
_COUNTS: Final = ("open_files", "write_files", "threads")


@command
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
def check(manifests: tuple[str, ...]) -> Report:
    """Validate manifests and list what they request; nothing is started.

    Reasons in quotation marks are the author's claims. "implied" is what other keys of the manifest ask for: it needs
    the grant like the rest. Exit status: 0 all are valid, 2 one is not.
    """
    entries: list[dict[str, Any]] = []
    body: list[RenderableType] = []
    for path in manifests:
        try:
            found = load_manifest(path)
        except ManifestError as error:
            entries.append({"file": path, "ok": False, "error": failures.record(error)})
            body += [Text(shown(f"bad  {error}"), "red"), ""]
        else:
            entries.append({"file": path, "ok": True, "error": None} | _document(found))
            body += _described(path, found)
    bad = sum(not entry["ok"] for entry in entries)
    body.append(f"{len(entries)} checked, {bad} bad" if bad else f"{len(entries)} checked, all valid")
    return Report({"ok": not bad, "manifests": entries}, body=tuple(body), status=failures.USAGE if bad else 0)


def implied_requests(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """(kind, target, why) of what keys outside `[permissions]` request."""
    if manifest.outside:
        yield "fs.read", str(manifest.path), "plugin.path lies outside the manifest's folder"
    if manifest.environment == "host":
        yield "environment", "host", "plugin.environment asks for the application's packages, to read"


def _document(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "project": manifest.project,
        "description": manifest.description,
        "path": str(manifest.path),
        "environment": manifest.environment,
        "permissions": [dataclasses.asdict(entry) for entry in manifest.permissions],
        "implied": [{"kind": kind, "target": target, "why": why} for kind, target, why in implied_requests(manifest)],
        "deny": [dataclasses.asdict(entry) for entry in manifest.deny],
        "limits": dataclasses.asdict(manifest.limits),
    }


def _described(path: str, manifest: Manifest) -> Iterator[RenderableType]:
    yield Text(shown(f"{manifest.name} {manifest.version}"), "bold", overflow="fold")
    yield columns([("  project", manifest.project), *_facts(path, manifest), ("  limits", _limits(manifest.limits))])
    yield ""


def _facts(path: str, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """(what, text); the author's own words in quotation marks."""
    yield "  manifest", path
    if manifest.description:
        yield "  says", _quoted(manifest.description)
    for entry in manifest.permissions:
        yield "  requests", _entry(entry)
    if not manifest.permissions:
        yield "  requests", "nothing"
    for kind, target, why in implied_requests(manifest):
        yield "  implied", f"{kind} {target}, since {why}"
    for entry in manifest.deny:
        yield "  denies", _entry(entry)


def _entry(entry: Entry) -> str:
    flags = "".join(f", {word}" for word in ("optional", "private") if getattr(entry, word))
    if entry.kind == "run":
        flags = f" {shown_arguments(entry.argv)}{flags}"
    return f"{entry.kind} {one_line(entry.target)}{flags}{f'  {_quoted(entry.reason)}' if entry.reason else ''}"


def _quoted(claim: str) -> str:
    return f"“{one_line(claim)}”"


def _limits(limits: Limits) -> str:
    return ", ".join(f"{name} {_limit(name, value)}" for name, value in dataclasses.asdict(limits).items())


def _limit(name: str, value: Any) -> str:
    if name in _TIMES:
        return f"{value:g} s"
    return str(value) if name in _COUNTS else size(value)
