"""A TCP connection to a listener on this machine, from a worker with a grant of it, against plain Python."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import host
from host.run import interpreter

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROUNDS, _CONNECTS = 5, 300
_numbers = itertools.count()
_SOURCE = """\
import socket, statistics, time

def measure(port, count, timeout):
    taken = []
    for _ in range(count):
        connection = socket.socket()
        connection.settimeout(timeout)
        begin = time.perf_counter()
        connection.connect(("127.0.0.1", port))
        taken.append(time.perf_counter() - begin)
        connection.close()
    return statistics.median(taken)
"""
_MANIFEST = """\
schema = 1
[plugin]
name = "connect"
version = "1"
project = "bench"
[permissions]
net.connect = ["127.0.0.1:{port}"]
[functions]
measure = "connect_plugin:measure"
"""


def rows(runs: int) -> Iterator[tuple[str, str, str, str]]:
    """Two rows: sockets that block, and sockets with a timeout, which Python makes non-blocking."""
    with tempfile.TemporaryDirectory() as folder, listener() as port:
        Path(folder, "connect_plugin.py").write_text(_SOURCE)
        Path(folder, "plughold.toml").write_text(_MANIFEST.format(port=port))
        for what, timeout in (("blocking", None), ("with a timeout", 5.0)):
            pairs = [measure(folder, port, timeout) for _ in range(runs)]
            plain, ours = (min(side) for side in zip(*pairs, strict=True))  # each side at its quietest
            yield (
                f"`socket.connect()`, {what}, in a worker : in plain Python",
                f"{ours / plain:.2f}",
                "≤ 12",
                f"{ours * 1e6:.0f} : {plain * 1e6:.0f} µs",
            )


def measure(folder: str, port: int, timeout: float | None) -> tuple[float, float]:
    """The best medians of some rounds, in seconds: (plain Python, a worker)."""
    code = f"{_SOURCE}\nimport sys\nprint(measure({port}, {_CONNECTS}, {timeout}))"
    command = [interpreter.find().executable, "-I", "-S", "-c", code]
    plain, ours = [], []
    with host.PluginHost("bench", grants="requested") as plugins:
        plugin = plugins.load(Path(folder, "plughold.toml"))
        for _ in range(_ROUNDS):
            plain.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
            ours.append(plugin.call("measure", port=port, count=_CONNECTS, timeout=timeout))
    return min(plain), min(ours)


@contextlib.contextmanager
def listener() -> Iterator[int]:
    """A listener that takes every connection and closes it; gives its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=take, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
