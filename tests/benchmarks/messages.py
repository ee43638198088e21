"""A message of 100 B to a worker of Deno's and Node's and back, with permissions on, beside a call of ours.

Their workers are threads of the process that asks: no other process is woken, and no wall is between.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import host
from tests.benchmarks.peers import PROGRAMS, Peer
from tests.benchmarks.plugin import manifest
from tests.benchmarks.ratios import medians, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.ratios import Row, Run

_ROUNDS, _WARM, _CALLS = 15, 2, 2000
_VALUE = "x" * 100
_NODE = """\
const { Worker, isMainThread, parentPort } = require("worker_threads");
if (!isMainThread) parentPort.on("message", (value) => parentPort.postMessage(value));
const begin = () => {
  const worker = new Worker(__filename);
  return [worker, (value) => new Promise((done) => { worker.once("message", done); worker.postMessage(value); })];
};
const main = isMainThread, count = Number(process.argv.at(-1));
"""
_DENO = """\
const main = self.constructor.name !== "DedicatedWorkerGlobalScope";
if (!main) self.onmessage = (event) => self.postMessage(event.data);
const begin = () => {
  const worker = new Worker(import.meta.url, { type: "module", deno: { permissions: "none" } });
  const ask = (value) => new Promise((done) => { worker.onmessage = () => done(); worker.postMessage(value); });
  return [worker, ask];
};
const count = main ? Number(Deno.args.at(-1)) : 0;
"""
_MEASURE = """\
const measure = async () => {
  const [worker, ask] = begin(), value = "x".repeat(100);
  for (let i = 0; i < count / 10 + 1; i++) await ask(value);
  const started = performance.now();
  for (let i = 0; i < count; i++) await ask(value);
  console.log((performance.now() - started) / 1000 / count);
  worker.terminate();
};
if (main) measure();
"""
_FLAGS = {True: ("run", "--unstable-worker-options"), False: ("--allow-worker",)}


def rows(runs: int) -> Iterator[Row]:
    """A row for each program."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: Peer(program, Path(folder).resolve()) for name in PROGRAMS if (program := shutil.which(name))}
        peers = {name: peer for name, peer in found.items() if peer.knows}
        measured = [measure(peers, Path(folder).resolve()) for _ in range(runs)]
    for name in PROGRAMS:
        if name in peers:
            what = f"{peers[name].name}, 100 B to a worker and back, permissions on : plugin.call, 100 B each way"
            yield ratio(what, measured, name, "ours", "-", unit="µs")
        else:
            yield (
                f"{name.title()}, 100 B to a worker and back : plugin.call",
                "-",
                "",
                "not there, or without permissions",
            )


def measure(peers: dict[str, Peer], folder: Path) -> Run:
    """Median seconds of one message or call by way, all in turn."""
    times: dict[str, list[float]] = {}
    with ExitStack() as stack:
        plugins = stack.enter_context(host.PluginHost("bench", grants="requested"))
        plugin = plugins.load(manifest(folder))
        ways: dict[str, Callable[[], float]] = {"ours": functools.partial(_ours, plugin)}
        for name, peer in peers.items():
            file = folder / ("echo.js" if peer.is_deno else "echo.cjs")
            file.write_text((_DENO if peer.is_deno else _NODE) + _MEASURE)
            first, *rest = peer.script(file, str(_CALLS), read=(str(folder),))
            flags = _FLAGS[peer.is_deno]
            command = [*flags, *rest] if peer.is_deno else [first, *flags, *rest]
            ways[name] = functools.partial(_theirs, peer, command)
        for _, (name, way) in itertools.product(range(_ROUNDS + _WARM), ways.items()):
            times.setdefault(name, []).append(way())
    return medians({name: found[_WARM:] for name, found in times.items()})


def _ours(plugin: host.SandboxedPlugin) -> float:
    begin = time.perf_counter()
    for _ in range(_CALLS):
        plugin.call("echo", value=_VALUE)
    return (time.perf_counter() - begin) / _CALLS


def _theirs(peer: Peer, command: list[str]) -> float:
    return float(json.loads(peer.run(*command)))
