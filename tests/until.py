"""Waiting for what another thread or process does, without a fixed time."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 20.0
"""Seconds after which something that should have happened never will."""


def stop(pid: int) -> None:
    """SIGSTOP, and wait until every thread is stopped: one that was woken before may still read what it waited for."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: all(_state(pid, int(thread)) == "T" for thread in os.listdir(f"/proc/{pid}/task")))


def sleeping(pid: int) -> bool:
    """Whether a process of one thread waits in the kernel, as in a read."""
    return _state(pid, pid) == "S"


def _state(pid: int, thread: int) -> str:
    with open(f"/proc/{pid}/task/{thread}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def until(holds: Callable[[], object]) -> None:
    """Return as soon as `holds()` is true; fail the test when it never is."""
    give_up = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > give_up:
            pytest.fail("what was waited for did not happen")
        os.sched_yield()
