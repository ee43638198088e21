"""Whose turn it is at a plugin's worker: one caller at a time, and nobody waits for himself.

A function of the application that runs for a plugin may call that very plugin again: its worker waits, and serves. Such
a caller is known by a context variable (PEP 567), so that it may also be a task or a thread that the function started
with `asyncio.to_thread`. All that waits for a turn from inside a function waits no longer than `PATIENCE`: functions
that wait for each other's plugins would do so for ever.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from typing import TYPE_CHECKING, Final

from host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE: Final = 30.0
DEEPEST: Final = 16
"""Functions within functions, over all plugins."""

_running: contextvars.ContextVar[tuple[Service, ...]] = contextvars.ContextVar("plughold_running", default=())


class Service:
    """One function that runs for a plugin: a lock, within which one caller may use the plugin's worker."""

    __slots__ = ("lock", "open")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = True


class Turns:
    """A context manager: within is one thread's turn. Raises HostError to who has it already, or waits too long.

    `before` runs at the end of a turn while it still lasts, `after` when it is over.
    """

    __slots__ = ("_after", "_before", "_lock", "_name", "_owner", "_services")

    def __init__(self, name: str, before: Callable[[], None], after: Callable[[], None]) -> None:
        self._name = name
        self._before = before
        self._after = after
        self.forget()

    def forget(self) -> None:
        """Nobody has the turn: in a forked child the thread that had it does not exist."""
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._services: list[Service] = []

    @property
    def mine(self) -> bool:
        """Whether who asks has the turn, or runs in a function of it: waiting for its end would be for ever."""
        return self._owner == threading.get_ident() or self.nested

    @property
    def nested(self) -> bool:
        """Whether who asks runs in the function that this plugin waits for."""
        return bool(self._services) and self._service() is not None

    def _service(self) -> Service | None:
        """The innermost function of this plugin that who asks runs in."""
        return next((service for service in reversed(_running.get()) if service in self._services), None)

    def __enter__(self) -> None:
        if self.mine:
            text = f"plugin {self._name} is in the middle of a call, and it is this one that would have to end first"
            raise HostError(text, plugin=self._name)
        if not self._lock.acquire(timeout=PATIENCE if _running.get() else -1):
            text = f"plugin {self._name} was not free for {PATIENCE:g} s, which is all that a function may wait for it"
            raise HostError(text, plugin=self._name)
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._before()
        self._owner = None
        self._lock.release()
        self._after()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Within, a function runs for the plugin whose turn it is. Raises HostError where they nest too deeply."""
        running = _running.get()
        if len(running) >= DEEPEST:
            raise HostError(f"{DEEPEST} functions run within each other: that is the most", plugin=self._name)
        service = Service()
        self._services.append(service)
        token = _running.set((*running, service))
        try:
            yield
        finally:
            _running.reset(token)
            with service.lock:  # a call that a task or thread of the function began ends first
                service.open = False
            self._services.remove(service)

    @contextlib.contextmanager
    def nest(self) -> Iterator[None]:
        """Within, who runs in a function may use the worker that waits for it. Raises HostError when that is over."""
        service = self._service()
        if service is None or not service.lock.acquire(timeout=PATIENCE):
            raise HostError(f"plugin {self._name} does not wait for this function any more", plugin=self._name)
        try:
            if not service.open:
                raise HostError(f"plugin {self._name} does not wait for this function any more", plugin=self._name)
            yield
        finally:
            service.lock.release()
