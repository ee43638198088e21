"""One call there and back with 100 bytes each way, against the floor and against what people use instead.

The floor is two bare Python processes that exchange the same msgpack over two pipes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import pluggy

import host
from tests.benchmarks.plugin import manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROUNDS, _CALLS, _SLOW_CALLS = 15, 400, 40
_VALUE = "x" * 100

_FLOOR = """
import os, msgpack
pack = msgpack.Packer().pack
while True:
    data = os.read(0, 65536)
    if not data:
        break
    _, number, _, arguments = msgpack.unpackb(data[4:])
    body = pack([19, number, arguments["value"], 0])
    os.write(1, len(body).to_bytes(4, "big") + body)
"""


def echo(value: str) -> str:
    """What the pool's workers run."""
    return value


def rows(runs: int) -> Iterator[tuple[str, str, str, str]]:
    """A row per way, as a ratio to the floor of the same run."""
    results = [measure() for _ in range(runs)]
    wanted = {"plugin.call": "≤ 1.6", "pm.hook": "≤ 2.2"}
    for name in results[0]:
        if name == "floor":
            continue
        best = min(results, key=lambda result, name=name: result[name] / result["floor"])
        ratio = best[name] / best["floor"]
        medians = f"{best[name] * 1e6:.1f} : {best['floor'] * 1e6:.1f} µs"
        yield (
            f"{name}, 100 B each way : two bare processes, same msgpack",
            f"{ratio:.2f}",
            wanted.get(name, "slower than ours"),
            medians,
        )


def measure() -> dict[str, float]:
    """Median seconds per call by way, the ways interleaved."""
    with ExitStack() as stack:
        ways = {"floor": _floor(stack), **_ours(stack), "multiprocessing.Pipe": _pipe(stack), **_slow(stack)}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_ROUNDS):
            for name, call in ways.items():
                count = _SLOW_CALLS if name in ("ProcessPoolExecutor", "execnet", "rpyc") else _CALLS
                begin = time.perf_counter()
                for _ in range(count):
                    call()
                times[name].append((time.perf_counter() - begin) / count)
        return {name: statistics.median(found) for name, found in times.items()}


def _ours(stack: ExitStack) -> dict[str, Callable[[], object]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    plugins = stack.enter_context(host.PluginHost("bench", grants="requested"))
    plugin = plugins.load(manifest(folder))
    manager = pluggy.PluginManager("bench")
    manager.register(plugin)
    return {
        "plugin.call": lambda: plugin.call("echo", value=_VALUE),
        "pm.hook": lambda: manager.hook.echo(value=_VALUE),
    }


def _floor(stack: ExitStack) -> Callable[[], object]:
    process = stack.enter_context(
        subprocess.Popen([sys.executable, "-c", _FLOOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    )
    assert process.stdin is not None
    assert process.stdout is not None
    write, read = process.stdin.fileno(), process.stdout.fileno()
    stack.callback(process.stdin.close)
    pack = msgpack.Packer().pack
    number = 0

    def call() -> object:
        nonlocal number
        number += 1
        body = pack([1, number, "echo", {"value": _VALUE}])
        os.write(write, len(body).to_bytes(4, "big") + body)
        return msgpack.unpackb(os.read(read, 65536)[4:])[2]

    return call


def _pipe(stack: ExitStack) -> Callable[[], object]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_serve_pipe, args=(theirs,), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(ours.send, None)

    def call() -> object:
        ours.send(("echo", {"value": _VALUE}))
        return ours.recv()

    return call


def _serve_pipe(connection: multiprocessing.connection.Connection) -> None:
    while (message := connection.recv()) is not None:
        connection.send(message[1]["value"])


def _slow(stack: ExitStack) -> dict[str, Callable[[], object]]:
    pool = stack.enter_context(concurrent.futures.ProcessPoolExecutor(1))
    pool.submit(echo, _VALUE).result()
    ways: dict[str, Callable[[], object]] = {"ProcessPoolExecutor": lambda: pool.submit(echo, _VALUE).result()}
    for name, peer in (("execnet", _execnet), ("rpyc", _rpyc)):
        with contextlib.suppress(ImportError):
            ways[name] = peer(stack)
    return ways


def _rpyc(stack: ExitStack) -> Callable[[], object]:
    """A service of its own over two pipes; a text goes by value there."""
    import rpyc
    from rpyc.core.stream import PipeStream
    from rpyc.utils.factory import connect_stream

    class Service(rpyc.Service):
        exposed_echo = staticmethod(echo)

    ours, theirs = PipeStream.create_pair()
    process = multiprocessing.get_context("fork").Process(
        target=lambda: connect_stream(theirs, service=Service).serve_all(), daemon=True
    )
    process.start()
    theirs.close()
    stack.callback(process.join)
    connection = connect_stream(ours)
    stack.callback(connection.close)
    remote = connection.root.echo
    return lambda: remote(_VALUE)


def _execnet(stack: ExitStack) -> Callable[[], object]:
    import execnet

    group = execnet.Group()
    stack.callback(group.terminate, 1)
    channel = group.makegateway("popen").remote_exec("while 1:\n    channel.send(channel.receive()['value'])")

    def call() -> object:
        channel.send({"value": _VALUE})
        return channel.receive()

    return call
