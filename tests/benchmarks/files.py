"""Opening and reading a small file that is granted, in a worker of each tier, against plain Python."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import host
from host.run import interpreter
from tests.benchmarks.ratios import ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.ratios import Row

_ROUNDS, _OPENS = 15, 1000
_TIERS = ("confined", "walled")
_SOURCE = """\
import time

def measure(path, count):
    begin = time.perf_counter()
    for _ in range(count):
        with open(path, "rb") as file:
            file.read()
    return (time.perf_counter() - begin) / count
"""
_MANIFEST = """\
schema = 1
[plugin]
name = "files"
version = "1"
project = "bench"
[permissions]
fs.read = [{folder}]
[functions]
measure = "files_plugin:measure"
"""


def rows(runs: int) -> Iterator[Row]:
    """A row per tier that is reached."""
    measured = [measure() for _ in range(runs)]
    for tier in _TIERS:
        if tier in measured[0]:
            what = f"`open()` and `read()` of a granted file, in a worker in tier {tier} : in plain Python"
            yield ratio(what, measured, tier, "plain", "≤ 1.8", unit="µs")


def measure() -> dict[str, float]:
    """Median seconds for one file, the sides in turn."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder, granted = Path(name, "plugin"), Path(name, "granted").resolve()
        folder.mkdir()
        granted.mkdir()
        (granted / "file").write_text("x" * 100)
        path = str(granted / "file")
        (folder / "files_plugin.py").write_text(_SOURCE)
        (folder / "plughold.toml").write_text(_MANIFEST.format(folder=json.dumps(str(granted))))
        code = f"{_SOURCE}\nprint(measure({path!r}, {_OPENS}))"
        command = [interpreter.find().executable, "-I", "-S", "-c", code]
        plugins = {}
        for tier in _TIERS:
            with contextlib.suppress(host.LockdownUnavailable):
                plugin_host = stack.enter_context(host.PluginHost("bench", grants="requested", tier=tier))
                plugins[tier] = plugin_host.load(folder / "plughold.toml")
        found: dict[str, list[float]] = {"plain": [], **{tier: [] for tier in plugins}}
        for _ in range(_ROUNDS):
            found["plain"].append(float(subprocess.run(command, capture_output=True, check=True).stdout))
            for tier, plugin in plugins.items():
                found[tier].append(plugin.call("measure", path=path, count=_OPENS))
        return {side: statistics.median(times) for side, times in found.items()}
