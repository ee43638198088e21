"""`plughold can`: would it be allowed, and by which rule."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

import click

from host.cli import failures
from host.cli.cases import judged
from host.cli.command import command
from host.cli.judge import judge
from host.cli.report import Report
from host.cli.shown import shown, shown_arguments
from host.model.manifest import load_manifest
from sandbox_worker.permissions import KINDS, RequestError, RuleError

if TYPE_CHECKING:
    from host.cli.judge import Judgement


@command
@click.argument("manifest", required=False)
@click.argument("kind", required=False, type=click.Choice(KINDS), metavar="[KIND]")
@click.argument("target", required=False)
@click.option("--cases", metavar="FILE|-", help="Judge rows of JSON Lines; the output is JSON Lines, with --json too.")
def can(manifest: str | None, kind: str | None, target: str | None, cases: str | None) -> Report:
    """Say whether a manifest allows a target, and by which rule.

    Judged is what MANIFEST requests minus what it denies; grants and ceilings are left out, nothing is started. KIND is
    one of fs.read, fs.write, net.connect, net.listen, env, run, sys, native, host. TARGET is an absolute path for fs
    and run, host:port for net, else a name. Exit status: 0 allowed, 9 refused, 2 no such target.

    A row for --cases is {"id", "kind", "allow": [...], "deny": [...], "request"}; its answer is {"id", "verdict",
    "rule"} with the verdict allow, deny or error.
    """
    if cases is not None:
        if manifest is not None:
            raise click.UsageError("--cases stands alone, without MANIFEST KIND TARGET")
        return Report(stream=judged(_opened(cases)))
    if manifest is None or kind is None or target is None:
        raise click.UsageError("MANIFEST KIND TARGET, or --cases FILE")
    try:
        found = judge(load_manifest(manifest), kind, target)
    except (RuleError, RequestError) as error:
        return _error(kind, target, error)
    return Report(
        _document(kind, target, "allow" if found.allowed else "deny", found),
        body=(_answer(kind, target, found),),
        status=0 if found.allowed else failures.REFUSED,
    )


def _error(kind: str, target: str, error: ValueError) -> Report:
    failure = click.UsageError(str(error))
    document = _document(kind, target, "error", None) | {"error": failures.record(failure)}
    return Report(document, status=failures.USAGE, error=failure)


def _document(kind: str, target: str, verdict: str, found: Judgement | None) -> dict[str, object]:
    return {
        "kind": kind,
        "target": target,
        "verdict": verdict,
        "rule": (found and found.rule) or None,
        "key": (found and found.key) or None,
        "reason": (found and found.reason) or None,
        "hint": (found and found.hint) or None,
        "argv": [items and list(items) for items in found.argv] if found and found.argv else None,
        "error": None,
    }


def _answer(kind: str, target: str, found: Judgement) -> str:
    lines = [f"{'allowed' if found.allowed else 'refused'}  {kind} {target}"]
    if found.key:
        lines.append(f'  rule   {found.key} = "{found.rule}"')
        lines += [f"  with   {shown_arguments(items)}" for items in found.argv if items is not None]
    elif found.allowed:
        lines.append("  rule   none needed: every worker of this plugin has it")
    else:
        lines.append(f"  rule   {failures.RULES[found.reason]}")
    if found.hint:
        lines.append(f"  next   {failures.next_step(kind, found.hint)}")
    return shown("\n".join(lines))


def _opened(name: str) -> IO[bytes]:
    if name == "-":
        if sys.stdin is None:
            raise click.UsageError("--cases - reads stdin, which is closed")
        return sys.stdin.buffer
    try:
        return open(name, "rb")
    except OSError as error:
        raise click.UsageError(f"--cases {name}: {error.strerror}") from None
