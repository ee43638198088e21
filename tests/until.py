"""Waiting for what another thread or process does, without a fixed time."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE: Final = 20.0
"""Seconds after which something that should have happened never will."""


def until(holds: Callable[[], object]) -> None:
    """Return as soon as `holds()` is true; fail the test when it never is."""
    give_up = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > give_up:
            pytest.fail("what was waited for did not happen")
        os.sched_yield()
