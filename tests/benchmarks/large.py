"""Large values there and back: a call that returns the bytes it got, against two bare processes.

These have pipes, or hand each other memory files (memfd_create(2), sent as SCM_RIGHTS): once they only map what comes,
and once they make bytes of it, as a call does.
"""

from __future__ import annotations

import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import host
from tests.benchmarks import ratios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sized

_SIZES = ((1, 40, "≤ 2", "-"), (64, 7, "-", "≤ 1.2"))
"""MiB, rounds, and what is wanted against pipes and against mapped memory files."""
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
_MEMORY_FILE = """\
import mmap, os, socket, sys
def send(way, data):
    file, rest = os.memfd_create("value", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
    socket.send_fds(way, [len(data).to_bytes(4, "big")], [file])
    os.close(file)
def receive(way, what):
    header, files, _, _ = socket.recv_fds(way, 4, 1)
    if not header:
        sys.exit()
    found = mmap.mmap(files[0], int.from_bytes(header, "big"), prot=mmap.PROT_READ)
    os.close(files[0])
    return found if what == "map" else found[:]
"""
_SERVE = """\
way, what = socket.socket(fileno=int(sys.argv[1])), sys.argv[2]
while True:
    send(way, receive(way, what))
"""


def rows(runs: int) -> Iterator[ratios.Row]:
    """A row per size."""
    for size, rounds, pipe, mapped in _SIZES:
        measured = [measure(size << 20, rounds) for _ in range(runs)]
        what = f"a call with {size} MiB each way : two bare processes"
        yield ratios.ratio(what, measured, "call", "pipe", pipe)
        yield ratios.ratio(f"{what} that map memory files", measured, "call", "map", mapped)
        yield ratios.ratio(f"{what} that make bytes of memory files", measured, "call", "bytes", "-")


def measure(size: int, rounds: int) -> ratios.Run:
    """Medians in seconds of all ways, in turn, for `size` bytes."""
    value = b"x" * size
    times: dict[str, list[float]] = {"call": [], "pipe": [], "map": [], "bytes": []}
    with (
        ExitStack() as stack,
        tempfile.TemporaryDirectory() as folder,
        host.PluginHost("bench", grants="requested") as plugins,
    ):
        Path(folder, "echo_plugin.py").write_text("def echo(value):\n    return value\n")
        manifest = Path(folder, "plughold.toml")
        manifest.write_text(_MANIFEST)
        plugin = plugins.load(manifest)
        bare = subprocess.Popen([sys.executable, "-c", _BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        ways: dict[str, Callable[[], Sized]] = {
            "call": lambda: plugin.call("echo", value=value),
            "pipe": lambda: _through(bare, value),
            "map": _by_memory_file(stack, value, "map"),
            "bytes": _by_memory_file(stack, value, "bytes"),
        }
        with bare:
            for _, (name, way) in itertools.product(range(rounds + 1), ways.items()):
                begin = time.perf_counter()
                found = way()
                times[name].append(time.perf_counter() - begin)
                assert len(found) == size
                del found
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


def _by_memory_file(stack: ExitStack, value: bytes, what: str) -> Callable[[], Sized]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", _MEMORY_FILE + _SERVE, str(theirs.fileno()), what]
    process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    theirs.close()
    stack.callback(process.wait)
    stack.enter_context(ours)
    scope: dict[str, Any] = {}
    exec(_MEMORY_FILE, scope)

    def way() -> Sized:
        scope["send"](ours, value)
        found: Sized = scope["receive"](ours, what)
        return found

    return way
