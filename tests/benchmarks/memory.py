"""What an idle worker costs: proportional set size (smaps_rollup, proc(5)) after its first reply."""

from __future__ import annotations

import re
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import host
from tests.benchmarks.plugin import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROWS: tuple[tuple[int, Literal["exec", "fork"], str], ...] = (
    (1, "exec", "≤ 9 MiB"),
    (10, "exec", "-"),
    (10, "fork", "-"),
    (100, "fork", "≤ 1.6 MiB"),
)


def rows(_runs: int) -> Iterator[tuple[str, str, str, str]]:
    """One worker alone, and the mean of many, executed and forked."""
    for count, start, wanted in _ROWS:
        sizes = measure(count, start)
        how = " by fork" if start == "fork" else ""
        yield f"PSS of an idle worker{how}, {count} running", f"{statistics.mean(sizes):.1f} MiB", wanted, ""


def measure(count: int, start: Literal["exec", "fork"]) -> list[float]:
    """PSS in MiB of each of `count` workers."""
    with tempfile.TemporaryDirectory() as folder, host.PluginHost("bench", grants="requested", start=start) as plugins:
        loaded = [plugins.load(manifest(Path(folder))) for _ in range(count)]
        for plugin in loaded:
            plugin.call("echo", value=1)
        return [pss(plugin.pid or 0) for plugin in loaded]


def pss(pid: int) -> float:
    """PSS of a process, in MiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
