"""Many workers at once: 500 alive and answering, what starting them takes, and what a call costs among them."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

import host
from tests.benchmarks.memory import pss
from tests.benchmarks.plugin import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

_MANY, _FEW = 500, 100
_CALLS = 2000
_PER_WORKER = 8
"""Descriptors of the host per worker, and some to spare."""


def rows(_runs: int) -> Iterator[tuple[str, str, str, str]]:
    """How fast they start, their memory at 100, the host's at 500, and a call at 500 against a call at 1."""
    if not _raise_descriptors(_MANY * _PER_WORKER):
        yield f"{_MANY} workers", "-", "-", "the hard limit of descriptors is too low"
        return
    with tempfile.TemporaryDirectory() as folder, host.PluginHost("bench", grants="requested") as plugins:
        loaded = [plugins.load(manifest(Path(folder)))]
        alone = _call(loaded[0])
        begin, before = time.perf_counter(), psutil.Process().memory_info().rss
        while len(loaded) < _MANY:
            loaded.append(plugins.load(manifest(Path(folder))))
            if len(loaded) == _FEW:
                for plugin in loaded:
                    plugin.call("echo", value=1)
                sizes = [pss(plugin.pid or 0) for plugin in loaded]
        rate = (_MANY - 1) / (time.perf_counter() - begin)
        grown = (psutil.Process().memory_info().rss - before) / _MANY / 1024
        assert [plugin.call("echo", value=number) for number, plugin in enumerate(loaded)] == list(range(_MANY))
        among = _call(loaded[0])
    yield f"PSS of an idle worker, {_FEW} running", f"{statistics.mean(sizes):.1f} MiB", "≤ 4.5 MiB", ""
    yield f"{_MANY} workers alive and answering", f"{rate:.0f} started per s", "yes", f"host: {grown:.0f} KiB each"
    medians = f"{among * 1e6:.1f} : {alone * 1e6:.1f} µs"
    yield f"a call among {_MANY} workers : alone", f"{among / alone:.2f}", "≤ 1.3", medians


def _raise_descriptors(wanted: int) -> bool:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True


def _call(plugin: host.SandboxedPlugin) -> float:
    """The median of a call, in seconds."""
    times = []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        plugin.call("echo", value="x" * 100)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
