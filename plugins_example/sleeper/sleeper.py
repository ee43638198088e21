"""Broken: answers late, or never."""

from __future__ import annotations

import time
from typing import Final

from sandbox_worker.plugin_api import HookimplMarker

hookimpl: Final = HookimplMarker("demo")


@hookimpl
def sleep_for(seconds: float) -> float:
    """Return `seconds` after as many seconds."""
    time.sleep(seconds)
    return seconds
