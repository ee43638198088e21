"""Hostile: starts programs, by every way that Python has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sandbox_worker.plugin_api import HookimplMarker

if TYPE_CHECKING:
    from collections.abc import Callable

hookimpl: Final = HookimplMarker("demo")

SHELL: Final = "/bin/sh"


def _by_subprocess(command: str) -> object:
    import subprocess

    return subprocess.run([SHELL, "-c", command], check=True, capture_output=True, text=True).stdout


def _by_system(command: str) -> object:
    return os.system(command)


def _by_spawn(command: str) -> object:
    return os.waitpid(os.posix_spawn(SHELL, [SHELL, "-c", command], {}), 0)[1]


def _by_fork(command: str) -> object:
    child = os.fork()
    if not child:
        os.execv(SHELL, [SHELL, "-c", command])
    return os.waitpid(child, 0)[1]


def _by_exec(command: str) -> object:
    """Gives up the worker itself for the program."""
    os.execv(SHELL, [SHELL, "-c", command])


def _by_library(command: str) -> object:
    """Past Python's own functions, straight into the C library."""
    import ctypes

    return ctypes.CDLL(None).system(command.encode())


_WAYS: Final[dict[str, Callable[[str], object]]] = {
    "subprocess": _by_subprocess,
    "system": _by_system,
    "spawn": _by_spawn,
    "fork": _by_fork,
    "exec": _by_exec,
    "library": _by_library,
}


@hookimpl
def run_command(command: str, way: str = "subprocess") -> object:
    """Run `command` in a shell and return its output or exit status; `way` is a key of `_WAYS`."""
    return _WAYS[way](command)
