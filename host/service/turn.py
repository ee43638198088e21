"""Whose turn it is at a plugin's worker: one caller at a time, and nobody waits for himself."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable


class Turns:
    """A context manager: within is one thread's turn. A thread that already has it gets a HostError.

    `before` runs at the end of a turn while it still lasts, `after` when it is over.
    """

    __slots__ = ("_after", "_before", "_lock", "_name", "_owner")

    def __init__(self, name: str, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._name = name
        self._before = before
        self._after = after
        self.forget()

    def forget(self) -> None:
        """Nobody has the turn: in a forked child the thread that had it does not exist."""
        self._lock = threading.Lock()
        self._owner: int | None = None

    @property
    def mine(self) -> bool:
        """Whether this thread has the turn."""
        return self._owner == threading.get_ident()

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner == me:
            text = f"plugin {self._name} is already in a call of this thread: calls can't nest yet"
            raise HostError(text, plugin=self._name)
        self._lock.acquire()
        self._owner = me

    def __exit__(self, *_: object) -> None:
        self._before()
        self._owner = None
        self._lock.release()
        self._after()
