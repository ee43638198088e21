"""From `load()` to the first reply of a locked worker, tier by tier, against a bare interpreter that does nothing."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import host
from host.run import interpreter
from tests.benchmarks.plugin import manifest
from tests.benchmarks.ratios import ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS, _WARM = 15, 3
_PAUSE = 0.3
"""Seconds before each start, so that what one side does in its idle moments is no burden of the next one. With
0.03 what spawners prepare made a bare interpreter take half as long again."""
_TIERS = ("confined", "walled")
_STARTS: dict[str, Literal["exec", "fork"]] = {"": "exec", " by fork": "fork"}


def rows(runs: int) -> Iterator[tuple[str, str, str, str]]:
    """The ratios of the medians, all sides in turn: each tier to the bare interpreter, `walled` to `confined`."""
    measured = [measure() for _ in range(runs)]
    for side, wanted in (
        ("confined", "≤ 2.0"),
        ("walled", "-"),
        ("confined by fork", "≤ 0.5"),
        ("walled by fork", "-"),
    ):
        if side in measured[0]:
            what = f"worker in tier {side}, `load()` to first reply : `python -I -S -c pass`"
            yield ratio(what, measured, side, "bare", wanted)
    if "walled" in measured[0]:
        yield ratio("the same, tier walled : tier confined", measured, "walled", "confined", "≤ 1.3")


def measure() -> dict[str, float]:
    """Medians in seconds: of a bare interpreter, and of a worker to its first reply in each tier that is reached."""
    found: dict[str, list[float]] = {"bare": []}
    command = [interpreter.find().executable, "-I", "-S", "-c", "pass"]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        hosts = {}
        for tier, (how, start) in itertools.product(_TIERS, _STARTS.items()):
            with contextlib.suppress(host.LockdownUnavailable):
                made = host.PluginHost("bench", grants="requested", tier=tier, start=start)
                hosts[tier + how] = stack.enter_context(made)
        for _ in range(_ROUNDS + _WARM):
            time.sleep(_PAUSE)
            begin = time.perf_counter()
            subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
            found["bare"].append(time.perf_counter() - begin)
            for side, plugins in hosts.items():
                time.sleep(_PAUSE)
                path = manifest(Path(folder))
                begin = time.perf_counter()
                plugin = plugins.load(path)
                plugin.call("echo", value=1)
                found.setdefault(side, []).append(time.perf_counter() - begin)
                plugin.close()
    return {name: statistics.median(times[_WARM:]) for name, times in found.items()}
