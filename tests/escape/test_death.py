"""A worker never outlives its host: not when the host is killed without a chance to clean up."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from until import PATIENCE

if TYPE_CHECKING:
    from conftest import Plugins

ROUNDS: Final = 50
SOON: Final = 1.0
"""Seconds after the host's SIGKILL, in more than half of ROUNDS; a machine with much to do is late in some."""

HOST: Final = """
import sys
import host
with host.PluginHost("tests", grants="requested", start=sys.argv[2]) as plugins:
    plugin = plugins.load(sys.argv[1])
    print(plugin.pid, plugin._owner._workers._spawner.pid, flush=True)
    plugin.call("work")
"""

WAITING: Final = """
import threading
@hookimpl
def work():
    threading.Event().wait()
"""


class Doomed:
    """A host process whose worker is in the middle of a call."""

    def __init__(self, manifest: Path) -> None:
        root = Path(__file__).parent.parent.parent
        command = [sys.executable, "-c", HOST, str(manifest), os.environ.get("PLUGHOLD_START", "exec")]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root)
        self._ends: list[int] = []

    def find(self) -> None:
        """Wait until its worker is there."""
        assert self._process.stdout is not None
        self._ends = [os.pidfd_open(int(pid)) for pid in self._process.stdout.readline().split()]

    def kill(self) -> float:
        """Seconds from the SIGKILL to the end of the worker; the spawner ends too."""
        started = time.monotonic()
        self._process.kill()
        assert select.select([self._ends[0]], [], [], PATIENCE)[0], "the worker outlived its host"
        took = time.monotonic() - started
        assert select.select([self._ends[1]], [], [], PATIENCE)[0], "the spawner outlived its host"
        return took

    def close(self) -> None:
        """Whatever happened, nothing is left."""
        self._process.kill()
        self._process.communicate()
        for pidfd in self._ends:
            os.close(pidfd)


def test_fifty_killed_hosts_leave_no_worker_behind(plugin_from: Plugins, must_work: Any) -> None:
    """The end is seen by pidfd, the moment it comes. Hosts start ten at a time and die one at a time."""
    must_work(plugin_from.host().tier in ("walled", "confined"), "Landlock and seccomp")
    manifest = plugin_from.manifest(WAITING)
    times: list[float] = []
    with contextlib.ExitStack() as stack:
        for _ in range(ROUNDS // 10):
            doomed = [Doomed(manifest) for _ in range(10)]
            for one in doomed:
                stack.callback(one.close)
            for one in doomed:
                one.find()
            times += [one.kill() for one in doomed]
    assert statistics.median(times) < SOON


def test_a_killed_spawner_takes_its_workers_with_it(attacker: Any) -> None:
    worker = attacker()
    pidfd = os.pidfd_open(worker.plugin.pid)
    try:
        os.kill(worker.plugin._owner._workers._spawner.pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], PATIENCE)[0]
    finally:
        os.close(pidfd)
    assert worker.run("result = 1") == 1, "the next call has a new one"
