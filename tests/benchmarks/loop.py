"""Calls from coroutines: one at a time against `plugin.call`, and of many workers at once against in turn."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import host
from tests.benchmarks import ratios
from tests.benchmarks.plugin import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS, _CALLS, _SOME = 15, 200, 200
_VALUE = "x" * 100


def rows(runs: int) -> Iterator[tuple[str, str, str, str]]:
    """A row each."""
    with tempfile.TemporaryDirectory() as folder, host.PluginHost("bench", grants="requested") as plugins:
        loaded = [plugins.load(manifest(Path(folder))) for _ in range(_SOME)]
        results = [asyncio.run(_measure(loaded)) for _ in range(runs)]
    yield ratios.ratio("plugin.acall, 100 B each way : plugin.call", results, "acall", "call", "-", unit="µs")
    what = f"a call of each of {_SOME} workers, gathered on one loop : with plugin.call in turn"
    yield ratios.ratio(what, results, "gathered", "in turn", "-")


async def _measure(loaded: list[host.SandboxedPlugin]) -> ratios.Run:
    """Median seconds of each, in turn."""
    one = loaded[0]
    times: dict[str, list[float]] = {"acall": [], "call": [], "gathered": [], "in turn": []}

    def note(name: str, begin: float, count: int = 1) -> None:
        times[name].append((time.perf_counter() - begin) / count)

    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        for _ in range(_CALLS):
            await one.acall("echo", value=_VALUE)
        note("acall", begin, _CALLS)
        begin = time.perf_counter()
        for _ in range(_CALLS):
            one.call("echo", value=_VALUE)
        note("call", begin, _CALLS)
        begin = time.perf_counter()
        await asyncio.gather(*(plugin.acall("echo", value=_VALUE) for plugin in loaded))
        note("gathered", begin)
        begin = time.perf_counter()
        for plugin in loaded:
            plugin.call("echo", value=_VALUE)
        note("in turn", begin)
    return {name: statistics.median(found) for name, found in times.items()}
