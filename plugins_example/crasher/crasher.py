"""Broken: dies in the middle of a call, as native code with a bug does."""

from __future__ import annotations

import os
import signal
from typing import Final

from sandbox_worker.plugin_api import HookimplMarker

hookimpl: Final = HookimplMarker("demo")

EXIT_STATUS: Final = 3


@hookimpl
def crash(how: str) -> None:
    """Die by `abort` (SIGABRT), `segfault` (SIGSEGV), `kill` (SIGKILL) or `exit` (status 3).

    Raises ValueError for another way.
    """
    if how == "abort":
        os.abort()
    elif how == "segfault":
        signal.raise_signal(signal.SIGSEGV)
    elif how == "kill":
        signal.raise_signal(signal.SIGKILL)
    elif how == "exit":
        os._exit(EXIT_STATUS)
    else:
        raise ValueError(how)
