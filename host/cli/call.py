"""`plughold call`: one call of one hook."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from host.cli import failures
from host.cli.command import command
from host.cli.report import Report
from host.cli.shown import plain, shown_value
from host.errors import HostError, PermissionDenied
from host.model.manifest import load_manifest
from host.service.plugin_host import PluginHost

if TYPE_CHECKING:
    from collections.abc import Iterable

    from host.model.events import PermissionDecision
    from host.service.plugin import SandboxedPlugin

TIERS: Final = ("walled", "confined", "filtered", "hooked")


@command
@click.argument("manifest")
@click.argument("hook")
@click.argument("values", nargs=-1, metavar="[NAME=JSON]...")
@click.option("--args", "arguments", metavar="JSON|-", help="All arguments as one JSON object; - reads it from stdin.")
@click.option(
    "--grants", type=click.Choice(["requested"]), help="Grant what the manifest requests: for development and tests."
)
@click.option("--tier", type=click.Choice(TIERS), metavar="NAME", help="Run at this tier, not at the strongest one.")
@click.option("--minimum-tier", type=click.Choice(TIERS), metavar="NAME", help="Start nothing below it; else confined.")
@click.option("--data", metavar="FOLDER", help="Where plugins keep their private data.")
@click.option("--audit", metavar="PATH", help="Append what happens to this file, as JSON Lines.")
def call(manifest: str, hook: str, values: tuple[str, ...], arguments: str | None, **options: Any) -> Report:
    """Call one hook of one plugin, in a worker of its own.

    The plugin is the one that MANIFEST describes. What HOOK returns is printed; refusals are noted on stderr.

    An argument is NAME=JSON (path='"/srv/in"', limit=3). What is no JSON is taken as a text, so path=/srv/in is the
    same as path='"/srv/in"'. A tier is walled, confined, filtered or hooked.
    """
    outcome = _Outcome()
    try:
        found = _arguments(values, arguments)
        with _host(load_manifest(manifest).project, options) as plugins:
            outcome.tier = plugins.tier
            outcome.call(plugins.load(manifest), hook, found)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the report has its five keys whatever happens
        outcome.error = error
    return outcome.report()


class _Outcome:
    """What came of the call so far; whatever fails, the rest is told."""

    def __init__(self) -> None:
        self.result: Any = None
        self.denials: tuple[PermissionDecision, ...] = ()
        self.seconds: float | None = None
        self.tier: str | None = None
        self.error: BaseException | None = None

    def call(self, plugin: SandboxedPlugin, hook: str, arguments: dict[str, Any]) -> None:
        """The one call. Raises what it raises; a builtin exception comes as PluginRaised."""
        hooks = sorted(name for name, value in vars(plugin).items() if callable(value) and not name.startswith("_"))
        if hook not in hooks:
            raise click.UsageError(f"plugin {plugin.__name__} has no hook {hook!r}; it has {', '.join(hooks)}")
        started = time.perf_counter()
        try:
            self.result = plugin.call(hook, **arguments)
        except HostError:
            raise
        except Exception as error:
            raise failures.PluginRaised(error) from error
        finally:
            self.seconds = time.perf_counter() - started
            self.denials = plugin.denials()

    def report(self) -> Report:
        error = self.error
        return Report(
            document={
                "result": plain(self.result),
                "denials": [denial.line() for denial in self.denials],
                "duration_s": None if self.seconds is None else round(self.seconds, 6),
                "tier": self.tier,
                "error": None if error is None else failures.record(error),
            },
            body=(shown_value(self.result),) if error is None else (),
            notes=tuple(_note(denial) for denial in self.denials if not _same(denial, error)),
            status=0 if error is None else failures.status_of(error),
            error=error,
            rule=next((failures.RULES.get(d.reason, "") for d in self.denials if _same(d, error)), ""),
        )


def _host(project: str, options: dict[str, Any]) -> PluginHost:
    """The host for one call; what is not given is left to the host."""
    audit = options["audit"]
    try:
        return PluginHost(project, **{name: value for name, value in options.items() if value is not None})
    except HostError:
        raise
    except OSError as error:
        if audit is None or error.filename != audit:
            raise
        raise failures.AuditBroken(f"the audit log can't be opened: {error.strerror}: {audit}") from error


def _arguments(values: Iterable[str], given: str | None) -> dict[str, Any]:
    """The hook's arguments by name, from ``--args`` and the NAME=JSON words. Raises click.UsageError."""
    text = sys.stdin.read() if given == "-" else given
    found = {} if text is None else _json_object(text)
    for word in values:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise click.UsageError(f"{word!r} is no NAME=JSON")
        if name in found:
            raise click.UsageError(f"argument {name} is given twice")
        found[name] = _json_or_text(value)
    return found


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--args is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.UsageError(f"--args is no JSON object but of type {type(found).__name__}")
    return found


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")  # RFC 8259, section 6


def _same(denial: PermissionDecision, error: BaseException | None) -> bool:
    """Whether `denial` is the refusal that `error` already tells."""
    if not isinstance(error, PermissionDenied):
        return False
    return (denial.permission.kind, denial.permission.target) == (error.permission, error.target)


def _note(denial: PermissionDecision) -> str:
    kind, target = denial.permission.kind, denial.permission.target
    times = f" {denial.count} times" if denial.count > 1 else ""
    rule = failures.RULES.get(denial.reason, denial.reason)
    return (
        f"note: refused {kind} of {target}{times}\n"
        f"  layer  {denial.layer}\n"
        f"  rule   {rule}\n"
        f"  next   {failures.next_step(kind, denial.hint)}"
    )
