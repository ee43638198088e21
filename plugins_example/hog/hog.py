"""Broken: uses up what it shares with others: memory, processor, threads, disk."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from typing import Final

from sandbox_worker.plugin_api import HookimplMarker

hookimpl: Final = HookimplMarker("demo")

MEBIBYTE: Final = 1 << 20


@hookimpl
def eat(mebibytes: int) -> int:
    """Hold as many mebibytes of memory at once, and return how many that was."""
    # Bytes that are written to, since pages that nobody touches take no memory.
    held = [b"\xff" * MEBIBYTE for _ in range(mebibytes)]
    return len(held)


@hookimpl
def burn(seconds: float) -> int:
    """Keep a processor busy for so many seconds of its time, and return how often it counted."""
    end = time.thread_time() + seconds
    return next(count for count in itertools.count() if time.thread_time() > end)


@hookimpl
def swarm(threads: int) -> int:
    """Run as many threads at once, for half a second when all have started, and return their number."""
    done = threading.Event()
    started = [threading.Thread(target=done.wait, daemon=True) for _ in range(threads)]
    for thread in started:
        thread.start()
    time.sleep(0.5)
    done.set()
    return len(started)


@hookimpl
def fill(mebibytes: int) -> int:
    """Write a file of as many mebibytes and return its size in bytes."""
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(mebibytes):
            file.write(b"\xff" * MEBIBYTE)
        file.flush()
        return os.stat(file.name).st_size
