"""Python in other sandboxes: from start to end of a script that does nothing, beside our start and a bare interpreter.

sandlock puts a command behind Landlock and seccomp, PySandboxes a script behind an audit hook and Landlock. Ours goes
on living: what is measured is `load()` to the first reply, as in `start`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import host
from host.run import interpreter
from tests.benchmarks import ratios
from tests.benchmarks.plugin import manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROUNDS, _WARM = 9, 1
_CONFINED = "expose-ro=.\npy-sandbox=true\nos-sandbox=landlock\n"
_READABLE = ("/usr", "/lib", "/lib64", "/etc")


def rows(runs: int) -> Iterator[ratios.Row]:
    """A row for each, or what is missing of it."""
    measured = [measure() for _ in range(runs)]
    for name in ("ours", "sandlock", "PySandboxes"):
        if name not in measured[0]:
            yield f"start in {name} : bare", "-", "", "not installed"
            continue
        what = "worker in tier confined, `load()` to first reply" if name == "ours" else _named(name)
        yield ratios.ratio(f"{what} : bare interpreter", measured, name, "bare", "-")


def _named(name: str) -> str:
    return f"{name} {importlib.metadata.version(name.lower())}, start to end of Python that does nothing"


def measure() -> ratios.Run:
    """Median seconds by way, all in turn."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ways = {"bare": _bare, **_ours(stack, folder), **_sandlock(), **_pysandboxes(folder)}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_ROUNDS + _WARM):
            for name, way in ways.items():
                begin = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found[_WARM:]) for name, found in times.items()}


def _bare() -> None:
    subprocess.run([interpreter.find().executable, "-I", "-S", "-c", "pass"], stdin=subprocess.DEVNULL, check=True)


def _ours(stack: contextlib.ExitStack, folder: Path) -> dict[str, Callable[[], object]]:
    try:
        plugins = stack.enter_context(host.PluginHost("bench", grants="requested", tier="confined"))
    except host.LockdownUnavailable:
        return {}

    def way() -> None:
        with contextlib.closing(plugins.load(manifest(folder))) as plugin:
            plugin.call("echo", value=1)

    return {"ours": way}


def _sandlock() -> dict[str, Callable[[], object]]:
    try:
        from sandlock import Sandbox
    except ImportError:
        return {}
    readable = [*filter(os.path.exists, _READABLE), sys.base_prefix]
    command = [interpreter.find().executable, "-I", "-S", "-c", "pass"]

    def way() -> None:
        done = Sandbox(fs_readable=readable).run(command)
        assert done.success, done

    return {"sandlock": way}


def _pysandboxes(folder: Path) -> dict[str, Callable[[], object]]:
    program = shutil.which("python-sb", path=sysconfig.get_path("scripts"))
    if program is None:
        return {}
    script = folder / "scripts"
    script.mkdir()
    (script / ".py-sandboxes").write_text(_CONFINED)
    (script / "idle.py").write_text("")

    def way() -> None:
        subprocess.run([program, "idle.py"], cwd=script, stdin=subprocess.DEVNULL, capture_output=True, check=True)

    return {"PySandboxes": way}
