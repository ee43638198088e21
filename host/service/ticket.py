"""A call that somebody may want no more before it has ended, from another thread than the one that makes it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable


class Ticket:
    """One call's. Whoever makes the call says `begin` and `end`; `cancel` works at any time and from any thread."""

    __slots__ = ("_cancel", "_cancelled", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._cancel: Callable[[], None] | None = None

    def begin(self, cancel: Callable[[], None]) -> None:
        """It runs, and `cancel` stops it. Raises HostError where it is wanted no more already."""
        with self._lock:
            if self._cancelled:
                raise HostError("the call was cancelled before it began")
            self._cancel = cancel

    def end(self) -> None:
        """It runs no more."""
        with self._lock:
            self._cancel = None

    def cancel(self) -> bool:
        """Want it no more; whether it runs, and so is about to end."""
        with self._lock:
            self._cancelled, cancel = True, self._cancel
        if cancel is not None:
            cancel()
        return cancel is not None
