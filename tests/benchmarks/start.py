"""From `load()` to the first reply of a locked worker, against a bare interpreter that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import host
from host.run import interpreter
from tests.benchmarks.plugin import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS, _WARM = 30, 3


def rows(runs: int) -> Iterator[tuple[str, str, str, str]]:
    """One row: the ratio of the medians, bare and ours in turn."""
    bare, ours = min((measure() for _ in range(runs)), key=lambda pair: pair[1] / pair[0])
    yield (
        "locked worker, `load()` to first reply : `python -I -S -c pass`",
        f"{ours / bare:.2f}",
        "≤ 2.4",
        f"{ours * 1e3:.1f} : {bare * 1e3:.1f} ms",
    )


def measure() -> tuple[float, float]:
    """Medians in seconds: (bare interpreter, locked worker to first reply)."""
    bare, ours = [], []
    command = [interpreter.find().executable, "-I", "-S", "-c", "pass"]
    with tempfile.TemporaryDirectory() as folder, host.PluginHost("bench", grants="requested") as plugins:
        for number in range(_ROUNDS + _WARM):
            path = manifest(Path(folder))
            begin = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
            middle = time.perf_counter()
            plugin = plugins.load(path)
            plugin.call("echo", value=1)
            end = time.perf_counter()
            plugin.close()
            if number >= _WARM:
                bare.append(middle - begin)
                ours.append(end - middle)
    return statistics.median(bare), statistics.median(ours)
