"""Large values there and back: a call that returns the bytes it got, against two bare processes and their pipes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import host
from tests.benchmarks import ratios

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIZES = ((1, 40, "≤ 2"), (64, 3, "-"))
"""MiB, rounds, and what is wanted."""
_PIECE = 1 << 20
_MANIFEST = """\
schema = 1
[plugin]
name = "large"
version = "1"
project = "bench"
[functions]
echo = "echo_plugin:echo"
[limits]
result_size = "100 MiB"
memory = "2 GiB"
call_timeout = "60 s"
cpu_time = "60 s"
"""
_BARE = """\
import os
def read(size):
    found = bytearray()
    while len(found) < size:
        found += os.read(0, min(size - len(found), 1 << 20))
    return found
while header := os.read(0, 4):
    rest = memoryview(header + read(int.from_bytes(header, "big")))
    while rest:
        rest = rest[os.write(1, rest[: 1 << 20]) :]
"""


def rows(runs: int) -> Iterator[ratios.Row]:
    """A row per size."""
    for size, rounds, wanted in _SIZES:
        measured = [measure(size << 20, rounds) for _ in range(runs)]
        yield ratios.ratio(f"a call with {size} MiB each way : two bare processes", measured, "call", "pipe", wanted)


def measure(size: int, rounds: int) -> ratios.Run:
    """Medians in seconds of both ways, in turn, for `size` bytes."""
    value = b"x" * size
    times: dict[str, list[float]] = {"call": [], "pipe": []}
    with tempfile.TemporaryDirectory() as folder, host.PluginHost("bench", grants="requested") as plugins:
        Path(folder, "echo_plugin.py").write_text("def echo(value):\n    return value\n")
        manifest = Path(folder, "plughold.toml")
        manifest.write_text(_MANIFEST)
        plugin = plugins.load(manifest)
        bare = subprocess.Popen([sys.executable, "-c", _BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        with bare:
            for _ in range(rounds + 1):
                begin = time.perf_counter()
                assert len(plugin.call("echo", value=value)) == size
                between = time.perf_counter()
                assert len(_through(bare, value)) == size
                times["call"].append(between - begin)
                times["pipe"].append(time.perf_counter() - between)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def _through(bare: subprocess.Popen[bytes], value: bytes) -> bytearray:
    assert bare.stdin is not None
    assert bare.stdout is not None
    rest = memoryview(len(value).to_bytes(4, "big") + value)
    while rest:
        rest = rest[os.write(bare.stdin.fileno(), rest[:_PIECE]) :]
    size, found = int.from_bytes(os.read(bare.stdout.fileno(), 4), "big"), bytearray()
    while len(found) < size:
        found += os.read(bare.stdout.fileno(), min(size - len(found), _PIECE))
    return found
