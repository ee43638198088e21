"""`plughold demo`: the example plugins, good and bad, in one application that stays unharmed."""

from __future__ import annotations

import dataclasses
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import pluggy
import psutil
from rich.text import Text

from host.cli import failures, native
from host.cli.command import command
from host.cli.report import Report
from host.cli.scenarios import Scenario, Stage, scenarios
from host.cli.shown import duration, shown
from host.cli.tables import columns
from host.errors import HostError
from host.model.sanitise import visible
from host.run.tiers import PROOFS
from host.service.plugin_host import PluginHost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

PROJECT: Final = "demo"
_TEXT_MAX: Final = 160  # characters of an outcome that nobody expected

hookspec: Final = pluggy.HookspecMarker(PROJECT)


class Specs:
    """What this application asks of its plugins; the bad ones add hooks of their own."""

    @hookspec(firstresult=True)
    def column_stats(self, path: str) -> dict[str, Any] | None:
        """Statistics of the numeric columns of the CSV file at `path`."""

    @hookspec(firstresult=True)
    def render(self, text: str) -> str | None:
        """HTML of the Markdown `text`."""

    @hookspec(firstresult=True)
    def redact_file(self, source: str, target: str) -> dict[str, int] | None:
        """A log without personal data and secrets."""

    @hookspec(firstresult=True)
    def search(self, folder: str, pattern: str) -> list[dict[str, Any]] | None:
        """The lines below `folder` that match `pattern`."""

    @hookspec(firstresult=True)
    def slugify(self, text: str) -> str | None:
        """A title for a URL."""


@dataclasses.dataclass(frozen=True, slots=True)
class Act:
    """What came of one scenario: `outcome` in words, `ok` whether it had to come so, `error` for JSON."""

    scenario: Scenario
    outcome: str
    ok: bool
    seconds: float
    error: dict[str, Any] | None


@dataclasses.dataclass(frozen=True, slots=True)
class Host:
    """The application's own process: resident memory in bytes, before the first and after the last plugin."""

    pid: int
    memory_before: int
    memory_after: int
    unharmed: bool


@command
def demo() -> Report:
    """Run good, hostile and broken plugins in one unharmed application.

    Exit status: 0 when each came out as it must, 1 when one did not.
    """
    examples = _examples()
    process = psutil.Process()
    before = process.memory_info().rss
    with tempfile.TemporaryDirectory(prefix="plughold-demo-") as folder, _listener() as listener:
        stage = Stage(examples, folder, os.path.join(folder, "data"), listener.getsockname()[1], process.pid)
        tier, acts, last = _play(stage)
        unharmed = last.ok and not os.path.exists(stage.marker) and not _reached(listener)
    unharmed = unharmed and not process.children() and process.pid == os.getpid()
    ours = Host(process.pid, before, process.memory_info().rss, unharmed)
    ok = unharmed and all(act.ok for act in acts)
    document = {
        "ok": ok,
        "tier": tier,
        "proofs": sorted(PROOFS[tier]),
        "scenarios": [_record(act) for act in acts],
        "host": dataclasses.asdict(ours),
        "error": None,
    }
    return Report(document, body=tuple(_told(tier, acts, ours)), status=0 if ok else failures.UNEXPECTED)


def _examples() -> str:
    """The folder with `manifests` and `plugins_example`: within the package where it is installed, else beside it."""
    package = Path(__file__).parent.parent
    for folder in (package / "examples", package.parent):
        if (folder / "manifests").is_dir() and (folder / "plugins_example").is_dir():
            return str(folder)
    raise click.ClickException("the example plugins are not part of this installation")


def _play(stage: Stage) -> tuple[str, list[Act], Act]:
    """(tier, what came of each scenario, what came of the first one when it is played again after all the others)."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(Specs)
    play = scenarios(stage)
    unloaded: dict[str, Exception] = {}
    with PluginHost(PROJECT, grants="requested", on_failure="raise", data=stage.data) as plugins:
        for name in dict.fromkeys(scenario.plugin for scenario in play):
            try:
                manager.register(plugins.load(_manifest(stage, name)))
            except HostError as error:
                unloaded[name] = error
        acts = [_act(manager, scenario, unloaded.get(scenario.plugin)) for scenario in (*play, play[0])]
        return plugins.tier, acts[:-1], acts[-1]


def _manifest(stage: Stage, name: str) -> str:
    if name == native.NAME:
        return native.write(stage.folder, PROJECT)
    return os.path.join(stage.examples, "manifests", f"{name}.toml")


def _act(manager: pluggy.PluginManager, scenario: Scenario, error: Exception | None) -> Act:
    """Call the hook as any application does, through pluggy; `error` is why its plugin could not be loaded."""
    result: Any = error
    started = time.perf_counter()
    if error is None:
        try:
            result = _first(getattr(manager.hook, scenario.hook), scenario.arguments)
        except Exception as raised:  # noqa: BLE001 - what is raised is what the scenario is about
            result = error = raised
    seconds = time.perf_counter() - started
    outcome = scenario.judge(result)
    unexpected = f"UNEXPECTED: {visible(f'{type(result).__name__}: {result}', _TEXT_MAX)}"
    record = None if error is None else failures.record(error)
    return Act(scenario, outcome or unexpected, bool(outcome), seconds, record)


def _first(hook: pluggy.HookCaller, arguments: dict[str, Any]) -> Any:
    """The first result: hooks of `Specs` give it alone, others are lists of all results."""
    result = hook(**arguments)
    return result[0] if hook.spec is None and result else result


def _listener() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0)
    return listener


def _reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def _record(act: Act) -> dict[str, Any]:
    return {
        "plugin": act.scenario.plugin,
        "hook": act.scenario.hook,
        "tries": act.scenario.tries,
        "outcome": act.outcome,
        "layer": act.scenario.layer or None,
        "ok": act.ok,
        "duration_s": round(act.seconds, 6),
        "error": act.error,
    }


def _told(tier: str, acts: Iterable[Act], ours: Host) -> Iterator[RenderableType]:
    yield columns(map(_row, acts), ("plugin", "tries to", "outcome", "stopped by", "time"))
    yield ""
    yield Text(f"Every worker ran at tier {tier}. At its start each proved {', '.join(sorted(PROOFS[tier]))}.")
    memory = f"{ours.memory_before >> 20} MiB before, {ours.memory_after >> 20} MiB after"
    if ours.unharmed:
        text = f"Host {ours.pid}: {memory}, no worker left, the first plugin still answers: unharmed."
    else:
        text = f"Host {ours.pid}: {memory}, NOT unharmed: something got out, was left over, or broke the first plugin."
    yield Text(text, "bold" if ours.unharmed else "bold red")


def _row(act: Act) -> tuple[str | Text, ...]:
    colour = "red" if not act.ok else "yellow" if act.scenario.layer else "green"
    outcome = Text(shown(act.outcome), colour, overflow="fold")
    return act.scenario.plugin, act.scenario.tries, outcome, act.scenario.layer or "-", f"{duration(act.seconds):>8}"
