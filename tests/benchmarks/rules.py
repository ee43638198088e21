"""What a hundred granted folders cost at the start of a worker, against one, tier by tier."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import host
from tests.benchmarks.ratios import difference, medians

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.ratios import Row

_ROUNDS, _WARM, _RULES = 30, 3, 100
_TIERS = ("confined", "walled")
_MANIFEST = """\
schema = 1
[plugin]
name = "rules{number}"
version = "1"
project = "bench"
[permissions]
fs.read = {folders}
[functions]
echo = "rules_plugin:echo"
"""
_numbers = itertools.count()


def rows(runs: int) -> Iterator[Row]:
    """Two rows per tier that is reached: with the manifest's reading and the first decision, and without."""
    measured = [measure() for _ in range(runs)]
    for tier in _TIERS:
        for way, shown in (("load", "`load()`"), ("restart", "`restart()`")):
            if f"{tier} {way} 1" in measured[0]:
                what = f"{_RULES} granted folders, {shown} to first reply in tier {tier} : one"
                yield difference(what, measured, f"{tier} {way} {_RULES}", f"{tier} {way} 1", "≤ 1.5 ms")


def measure() -> dict[str, float]:
    """Median seconds from `load()` and from `restart()` to the first reply, by tier and number of folders, in turn."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        own = Path(name, "plugin")  # beside them, for what lies in the plugin's own folder needs no rule
        own.mkdir()
        hosts = {}
        for tier in _TIERS:
            with contextlib.suppress(host.LockdownUnavailable):
                hosts[tier] = stack.enter_context(host.PluginHost("bench", grants="requested", tier=tier))
        for _ in range(_ROUNDS + _WARM):
            for (tier, plugins), count in itertools.product(hosts.items(), (1, _RULES)):
                loaded, restarted = _start_twice(plugins, _manifest(own, _folders(Path(name).resolve(), count)))
                found.setdefault(f"{tier} load {count}", []).append(loaded)
                found.setdefault(f"{tier} restart {count}", []).append(restarted)
    warm = {side: times[_WARM:] for side, times in found.items()}
    ways = [f"{tier} {way}" for tier in hosts for way in ("load", "restart")]
    return medians(warm, [(f"{way} {_RULES}", f"{way} 1") for way in ways])


def _folders(root: Path, count: int) -> list[str]:
    """New ones in one folder: nothing remembers a rule about them."""
    around = root / f"granted{next(_numbers)}"
    folders = [around / str(number) for number in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
    return [str(folder) for folder in folders]


def _manifest(folder: Path, granted: list[str]) -> Path:
    (folder / "rules_plugin.py").write_text("def echo(value):\n    return value\n")
    number = next(_numbers)
    path = folder / f"rules{number}.toml"
    path.write_text(_MANIFEST.format(number=number, folders=json.dumps(granted)))
    return path


def _start_twice(plugins: host.PluginHost, path: Path) -> tuple[float, float]:
    begin = time.perf_counter()
    plugin = plugins.load(path)
    plugin.call("echo", value=1)
    loaded = time.perf_counter() - begin
    begin = time.perf_counter()
    plugin.restart()
    plugin.call("echo", value=1)
    restarted = time.perf_counter() - begin
    plugin.close()
    return loaded, restarted
