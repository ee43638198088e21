"""`plughold clear`: let a plugin that failed too often start again."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import click

from host.cli.command import command
from host.cli.report import Report
from host.cli.shown import shown
from host.service.options import data_home
from host.store.quarantine import FOLDER, Quarantines, file_name

if TYPE_CHECKING:
    from host.model.supervision import Quarantine


@command
@click.argument("name")
@click.option("--project", metavar="NAME", help="Only of this project; else of all.")
@click.option("--data", metavar="FOLDER", help="Where the application keeps its plugins' data, if it says so itself.")
def clear(name: str, project: str | None, data: str | None) -> Report:
    """Let the plugin NAME start again, which was quarantined for failing too often.

    An application that runs notices at the plugin's next call. Clearing what is not quarantined does nothing.
    """
    if data is not None and project is not None:
        raise click.UsageError("--data is one project's folder: it takes no --project")
    folders = [Path(data)] if data is not None else _folders(project)
    try:
        file_name(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    cleared = []
    for folder in folders:
        kept = Quarantines(folder)
        quarantine = kept.get(name)
        try:
            removed = kept.remove(name)
        except OSError as error:
            text = f"{shown(str(folder))}: what lies in {FOLDER} is not to be removed ({error.strerror}); look by hand"
            raise click.UsageError(text) from None
        if removed:
            cleared.append((folder, quarantine))
    notes = () if cleared else (f"note: no plugin {name} is quarantined in {_places(folders)}",)
    return Report(
        document={"cleared": [_record(folder, quarantine) for folder, quarantine in cleared], "error": None},
        body=tuple(_line(name, folder, quarantine) for folder, quarantine in cleared),
        notes=notes,
    )


def _folders(project: str | None) -> list[Path]:
    """The data folders of all projects, or of one."""
    home = data_home()
    if project is not None:
        if project in ("", ".", "..") or "/" in project or "\0" in project:
            raise click.UsageError(f"{project!r} is no name of a project")
        return [home / project]
    try:
        return sorted(path for path in home.iterdir() if path.is_dir() and not path.is_symlink())
    except FileNotFoundError:
        return []


def _places(folders: list[Path]) -> str:
    return str(folders[0]) if len(folders) == 1 else str(data_home())


def _record(folder: Path, quarantine: Quarantine | None) -> dict[str, object]:
    """One line of the document; what can't be made sense of is cleared too."""
    return {"data": str(folder)} | ({} if quarantine is None else dataclasses.asdict(quarantine))


def _line(name: str, folder: Path, quarantine: Quarantine | None) -> str:
    if quarantine is None:
        return f"cleared {name} in {shown(str(folder))}"
    since = dt.datetime.fromtimestamp(quarantine.since, dt.UTC)
    return (
        f"cleared {name} {quarantine.version} in {shown(str(folder))}\n"
        f"  quarantined since {since:%Y-%m-%d %H:%M:%S} UTC, after {quarantine.failures} failures\n"
        f"  the last: {quarantine.reason}"
    )
