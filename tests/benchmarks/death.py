"""The call after a worker was killed, which starts the next one, against a restart on purpose and a call."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import host
from host.run.pidfd import ended
from tests.benchmarks import ratios
from tests.benchmarks.plugin import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS = 30


def rows(runs: int) -> Iterator[ratios.Row]:
    """One row: how much longer the one takes than the other."""
    measured = [measure() for _ in range(runs)]
    text = "a call after its worker was killed : `restart()` and a call"
    yield ratios.difference(text, measured, "killed", "restarted", "≤ 5 ms")


def measure() -> ratios.Run:
    """Median seconds, both in turn."""
    times: dict[str, list[float]] = {"killed": [], "restarted": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        host.PluginHost("bench", grants="requested") as plugins,
    ):
        plugin = plugins.load(manifest(Path(folder)))
        for _ in range(_ROUNDS):
            times["killed"].append(_killed(plugin))
            begin = time.perf_counter()
            plugin.restart()
            plugin.call("echo", value="x")
            times["restarted"].append(time.perf_counter() - begin)
    return ratios.medians(times, [("killed", "restarted")])


def _killed(plugin: Any) -> float:
    handle = os.pidfd_open(plugin.pid)
    os.kill(plugin.pid, signal.SIGKILL)
    ended(handle, 10)
    os.close(handle)
    begin = time.perf_counter()
    plugin.call("echo", value="x")
    return time.perf_counter() - begin
