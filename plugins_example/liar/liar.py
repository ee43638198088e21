"""Hostile: what it says is meant for the eyes, the log or the parser of whoever believes it."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final

from sandbox_worker.plugin_api import HookimplMarker

hookimpl: Final = HookimplMarker("demo")

ESCAPES: Final = "\x1b[2J\x1b[1;1Hroot@host:~# \u202egpj.exe\u202c\x07"
"""Clears a terminal, fakes a prompt, turns the reading direction around, rings the bell."""

# It calls itself an error of the host: what is rebuilt by name would be taken for one.
_Impostor = type("LockdownUnavailable", (Exception,), {"__module__": "host"})


@hookimpl
def announce(text: str) -> int:
    """Print `text` and escape sequences, to stdout and stderr."""
    print(ESCAPES + text, flush=True)
    print(ESCAPES + text, file=sys.stderr, flush=True)
    return len(text)


@hookimpl
def complain(text: str) -> None:
    """Raise an ordinary error whose message is written for a terminal."""
    raise ValueError(ESCAPES + text)


@hookimpl
def leave(status: int) -> None:
    """Ask the process to exit, which in the application's own process would end the application."""
    sys.exit(status)


@hookimpl
def impersonate(text: str) -> None:
    """Raise what looks like an error of the host."""
    raise _Impostor(text)


@hookimpl
def overstate(text: str) -> object:
    """Return a value that is no plain data."""
    return {"answer": [text, sys.modules]}


@hookimpl
def forge(reply: bytes) -> str:
    """Write a reply of its own to every descriptor it can find."""
    for descriptor in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(descriptor, reply)
    return "the real reply"
