"""Shared fixtures: plugins in real workers, and the proof at the end of each test that nothing of them is left."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import hypothesis
import psutil
import pytest
from walls_driver import need

import host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# A machine that does other things too may stop any example for long, and give few of them in a second.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

PROJECT: Final = "tests"
START: Final = os.environ.get("PLUGHOLD_START", "exec")
"""How workers start where a test does not say: every promise holds either way."""
UNHURRIED: Final[dict[str, object]] = {"start_timeout": "60 s"}
"""Ten seconds, the default, are few where all cores are busy."""
PRELUDE: Final = f"from sandbox_worker.plugin_api import HookimplMarker; hookimpl = HookimplMarker({PROJECT!r})\n"
"""Stands before every source, on one line: a test's plugin just says `@hookimpl`."""


class Plugins:
    """Makes plugins from source. One per test; everything it made is closed when the test ends."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.hosts: list[host.PluginHost] = []
        self._numbers = itertools.count(1)

    def __call__(
        self,
        source: str,
        *,
        into: host.PluginHost | None = None,
        permissions: Mapping[str, Sequence[object]] | None = None,
        deny: Mapping[str, Sequence[str]] | None = None,
        limits: Mapping[str, object] | None = None,
        plugin: Mapping[str, object] | None = None,
        functions: Mapping[str, str] | None = None,
        **host_options: Any,
    ) -> host.SandboxedPlugin:
        """A loaded plugin, in a new PluginHost with `host_options` or `into` an existing one.

        `permissions` and `deny` are by kind (``{"fs.read": ["/srv"]}``), `limits` as in a manifest, `plugin` further
        keys of its [plugin] table. With `functions` (hook to ``plugin:callable``) it is a [functions] plugin.
        """
        file = self.manifest(
            source, permissions=permissions, deny=deny, limits=limits, plugin=plugin, functions=functions
        )
        owner = into if into is not None else self.host(**host_options)
        return owner.load(file)

    def host(self, project: str = PROJECT, **options: Any) -> host.PluginHost:
        """A PluginHost that grants what is requested and keeps data in the test's folder, unless `options` differ."""
        defaults: dict[str, Any] = {"grants": "requested", "data": self.folder / "data", "start": START}
        made = host.PluginHost(project, **defaults | options)
        self.hosts.append(made)
        return made

    def manifest(
        self,
        source: str,
        *,
        permissions: Mapping[str, Sequence[object]] | None = None,
        deny: Mapping[str, Sequence[str]] | None = None,
        limits: Mapping[str, object] | None = None,
        plugin: Mapping[str, object] | None = None,
        functions: Mapping[str, str] | None = None,
    ) -> Path:
        """Write a plugin (module `plugin`) and its manifest into a folder of their own; the manifest's path."""
        number = next(self._numbers)
        folder = self.folder / f"plugin-{number}"
        folder.mkdir()
        (folder / "plugin.py").write_text(PRELUDE + textwrap.dedent(source))
        table: dict[str, object] = {"name": f"plugin-{number}", "version": "1.0", "project": PROJECT}
        table |= {} if functions is not None else {"entry": "plugin"}
        lines = ["schema = 1", "[plugin]", *_lines(table | dict(plugin or {}))]
        for name, rows in (
            ("permissions", permissions), ("permissions.deny", deny), ("functions", functions),
            ("limits", UNHURRIED | dict(limits or {})),
        ):  # fmt: skip
            if rows is not None:
                lines += [f"[{name}]", *_lines(rows)]
        file = folder / "plughold.toml"
        file.write_text("\n".join(lines) + "\n")
        return file


def _lines(table: Mapping[str, Any]) -> list[str]:
    """TOML of one table; what JSON and TOML write alike is written by json."""
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(_lines(value)) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _descriptors() -> set[str]:
    """This process's open descriptors and where each leads; the folder that lists them closes itself."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
def plugin_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins]:
    """`Plugins`; after the test no process, thread, descriptor or temporary folder of theirs may be left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    descriptors, threads = _descriptors(), set(threading.enumerate())
    ours = set(psutil.Process().children(recursive=True))
    plugins = Plugins(tmp_path)
    try:
        yield plugins
    finally:
        started = set(psutil.Process().children(recursive=True)) - ours
        for made in plugins.hosts:
            made.close()
    assert [process for process in started if process.is_running()] == []
    assert set(psutil.Process().children(recursive=True)) - ours == set()
    assert set(threading.enumerate()) - threads == set()
    assert _descriptors() - descriptors == set()
    assert list(temporary.iterdir()) == []


@pytest.fixture
def must_work() -> Callable[[object, str], None]:
    """``must_work(holds, what)``: skip where a machine lacks `what`, fail there with PLUGHOLD_MUST_WORK=1."""
    return need
