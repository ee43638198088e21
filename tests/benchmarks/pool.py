"""Eight threads that call one plugin with two workers, against eight that share two bare processes, each with a lock.

Not pinned: two workers are for two CPUs. Calls that do nothing, and calls that use a CPU for 1 ms.
"""

from __future__ import annotations

import itertools
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack

import host
from tests.benchmarks import ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROUNDS, _CALLS = 5, 200
_THREADS, _WORKERS = 8, 2
_VALUE = "x" * 100
_numbers = itertools.count()

_WORK = """\
import time

def work(value, seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return value
"""
_FLOOR = (
    _WORK
    + """
import os, msgpack
pack = msgpack.Packer().pack
while True:
    data = os.read(0, 65536)
    if not data:
        break
    _, number, _, arguments = msgpack.unpackb(data[4:])
    body = pack([19, number, work(**arguments), 0])
    os.write(1, len(body).to_bytes(4, "big") + body)
"""
)
_MANIFEST = """\
schema = 1
[plugin]
name = "pool{number}"
version = "1"
project = "bench"
instances = {workers}
[functions]
work = "pool_plugin:work"
"""


def rows(runs: int) -> Iterator[ratios.Row]:
    """Two rows: the time per call, so the floor's calls per second are its inverse."""
    affinity = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        for what, seconds in (("do nothing", 0.0), ("work for 1 ms", 0.001)):
            text = f"{_THREADS} threads on {_WORKERS} workers, calls that {what} : on {_WORKERS} bare processes"
            measured = [measure(seconds) for _ in range(runs)]
            yield ratios.ratio(text, measured, "pool", "floor", "≤ 1.25", unit="µs")
    finally:
        os.sched_setaffinity(0, affinity)


def measure(seconds: float) -> ratios.Run:
    """Median seconds per call of all threads together, both sides in turn."""
    times: dict[str, list[float]] = {"pool": [], "floor": []}
    with ExitStack() as stack:
        ways = {"pool": _pool(stack), "floor": _floor(stack)}
        for _ in range(_ROUNDS):
            for name, call in ways.items():
                times[name].append(_timed(call, seconds))
    return {name: sorted(found)[len(found) // 2] for name, found in times.items()}


def _timed(call: Callable[[float], object], seconds: float) -> float:
    def calls() -> None:
        for _ in range(_CALLS):
            call(seconds)

    threads = [threading.Thread(target=calls) for _ in range(_THREADS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - begin) / (_THREADS * _CALLS)


def _pool(stack: ExitStack) -> Callable[[float], object]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / "pool_plugin.py").write_text(_WORK)
    file = folder / "plughold.toml"
    file.write_text(_MANIFEST.format(number=next(_numbers), workers=_WORKERS))
    plugin = stack.enter_context(host.PluginHost("bench", grants="requested")).load(file)
    return lambda seconds: plugin.call("work", value=_VALUE, seconds=seconds)


def _floor(stack: ExitStack) -> Callable[[float], object]:
    free: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for _ in range(_WORKERS):
        command = [sys.executable, "-c", _FLOOR]
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        stack.callback(process.stdin.close)
        free.put((process.stdin.fileno(), process.stdout.fileno()))
    packers = threading.local()

    def call(seconds: float) -> object:
        if not hasattr(packers, "pack"):
            packers.pack = msgpack.Packer().pack
        body = packers.pack([1, 1, "work", {"value": _VALUE, "seconds": seconds}])
        write, read = ends = free.get()
        try:
            os.write(write, len(body).to_bytes(4, "big") + body)
            return msgpack.unpackb(os.read(read, 65536)[4:])[2]
        finally:
            free.put(ends)

    return call
