"""Threads of a plugin host's own, for what an event loop must not wait for."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST: Final = 1 << 15
"""As many as run at once, for they may wait for each other; each runs for a worker, or for a function that it asked."""


class Threads:
    """Started as they are needed, kept for the next, ended by `close`."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child: none of them exists."""
        self._lock = threading.Lock()
        self._pools: list[ThreadPoolExecutor] = []
        self._inside = threading.local()
        self._open = False

    def submit(self, run: Callable[[], Any]) -> Future[Any]:
        """Run it in one of them."""
        with self._lock:
            if not self._open:
                self._pools.append(ThreadPoolExecutor(_MOST, "plughold-call", self._mark))
                self._open = True
            return self._pools[-1].submit(run)

    def _mark(self) -> None:
        self._inside.yes = True

    def close(self) -> None:
        """End them, and wait for that, but for one that closes itself. Idempotent; what comes later has new ones."""
        with self._lock:
            pools, self._open = self._pools[:], False
        inside = getattr(self._inside, "yes", False)
        for pool in pools:
            pool.shutdown(wait=not inside)
        if not inside:
            with self._lock:
                self._pools = [pool for pool in self._pools if pool not in pools]
