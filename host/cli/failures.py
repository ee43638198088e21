"""Failures as the command line tells them: an exit status, a record for JSON, an explanation for a person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from host.errors import HostError, LockdownUnavailable, PermissionDenied, PluginError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Mapping

UNEXPECTED: Final = 1
USAGE: Final = 2
REFUSED: Final = PermissionDenied.status
AUDIT_BROKEN: Final = 10
PLUGIN_RAISED: Final = PluginError.status
INTERRUPTED: Final = 130
"""128 and SIGINT, as a shell reports it."""

NO_RULE: Final = "no rule of the manifest allows it"
RULES: Final[Mapping[str, str]] = {
    "no-rule": NO_RULE,
    "deny-rule": "a deny rule covers it",
    "special-path": "a rule for a folder above does not reach into /proc, /sys and /dev",
}
"""What a decision's reason means, in words."""

_TAIL_LINES: Final = 10
_MORE: Final = ("remote_type", "path", "key", "limit", "missing", "hint")


class PluginRaised(Exception):
    """Carries a builtin exception that the plugin's own code raised, to tell it from one of the host's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class AuditBroken(Exception):
    """The audit log can't be written; an audit is never optional."""


def status_of(error: BaseException) -> int:
    """The exit status for `error`."""
    match error:
        case HostError():
            return type(error).status
        case PluginRaised():
            return PLUGIN_RAISED
        case AuditBroken():
            return AUDIT_BROKEN
        case click.ClickException():
            return error.exit_code
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
    return UNEXPECTED


def record(error: BaseException) -> dict[str, Any]:
    """`error` for a JSON document: five keys always, more where the error has more to say."""
    error = error.error if isinstance(error, PluginRaised) else error
    found = {
        "type": type(error).__name__,
        "message": error.format_message() if isinstance(error, click.ClickException) else str(error),
        "permission": getattr(error, "permission", None),
        "target": getattr(error, "target", None),
        "layer": getattr(error, "layer", None),
    }
    if isinstance(error, HostError):
        found |= {name: getattr(error, name) for name in _MORE if getattr(error, name, None)}
    return found


def explain(error: BaseException, rule: str = "") -> str:
    """What went wrong and what to do next, in lines; foreign text in it is not yet made visible.

    `rule` says which rule decided, where `error` is a refusal.
    """
    match error:
        case PermissionDenied():
            text = _refusal(error, rule or NO_RULE)
        case LockdownUnavailable():
            text = f"{error}\n  next   plughold doctor   shows what is missing, and how to get it"
        case WorkerError() if error.stderr_tail:
            tail = "\n".join(f"  | {line}" for line in error.stderr_tail.splitlines()[-_TAIL_LINES:])
            text = f"{error}\n  it last printed:\n{tail}"
        case PluginRaised(error=inner):
            text = f"the plugin raised {_named(inner)}{_notes(inner)}"
        case HostError() | AuditBroken():
            text = f"{error}{_notes(error)}"
        case click.ClickException():
            text = error.format_message() + _help(error)
        case KeyboardInterrupt() | click.Abort():
            text = "interrupted"
        case _:
            text = f"unexpected {' '.join(_named(error).split())}; --debug shows where"
    return f"plughold: {text}"


def next_step(kind: str, hint: str) -> str:
    """`hint`, a line of a manifest or a sentence, as what to do next."""
    if hint.startswith(f"{kind} = ["):
        return f"to allow it, add under [permissions] of the manifest:  {hint}"
    return hint


def _refusal(error: PermissionDenied, rule: str) -> str:
    kind = error.permission or "access"
    return (
        f"refused {kind} of {error.target}\n"
        f"  plugin {error.plugin}, hook {error.hook}\n"
        f"  layer  {error.layer}\n"
        f"  rule   {rule}\n"
        f"  next   {next_step(kind, error.hint or 'nothing in a manifest can allow this')}"
    )


def _help(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"\n  help   {context.command_path} --help" if context is not None else ""


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _notes(error: BaseException) -> str:
    """The exception's notes, which hold the traceback in the worker."""
    return "".join(f"\n{note}".rstrip().replace("\n", "\n  ") for note in getattr(error, "__notes__", ()))
