"""Whose turn it is at a plugin's workers: one caller at a time for each, and nobody waits for himself.

A function of the application that runs for a plugin may call that very plugin again: its worker waits, and serves. Such
a caller is known by a context variable (PEP 567), so that it may also be a task or a thread that the function started
with `asyncio.to_thread`. All that waits for a turn from inside a function waits no longer than `PATIENCE`: functions
that wait for each other's plugins would do so for ever.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE: Final = 30.0
DEEPEST: Final = 16
"""Functions within functions, over all plugins."""

_running: contextvars.ContextVar[tuple[Service, ...]] = contextvars.ContextVar("plughold_running", default=())


class Place(Protocol):
    """Where one caller at a time may be."""

    def wait(self, now: float) -> float:
        """Seconds until a caller has any use of it; below zero where it is better than others."""


_P = TypeVar("_P", bound=Place)


class Service:
    """One function that runs for a plugin: a lock, within which one caller may use the worker at `place`."""

    __slots__ = ("lock", "open", "place")

    def __init__(self, place: object) -> None:
        self.lock = threading.Lock()
        self.open = True
        self.place = place


class _Waiter:
    """One thread that waits for a place: any, or `wanted`."""

    __slots__ = ("bell", "wanted")

    def __init__(self, wanted: object) -> None:
        self.wanted = wanted
        self.bell = threading.Lock()
        self.bell.acquire()


class Turns(Generic[_P]):
    """The turns at a plugin's places. `before` runs at the end of a turn while it still lasts, `after` when it is over.

    Not a fair queue: who has ended a turn and begins the next need not let another thread go first.
    """

    __slots__ = ("_after", "_before", "_free", "_lock", "_name", "_owners", "_places", "_services", "_waiting")

    def __init__(
        self, name: str, places: Sequence[_P], before: Callable[[_P], None], after: Callable[[], None]
    ) -> None:
        self._name = name
        self._places = places
        self._before = before
        self._after = after
        self.forget()

    def forget(self) -> None:
        """Nobody has a turn: in a forked child the threads that had one do not exist."""
        self._lock = threading.RLock()  # a signal handler may close the plugin in the middle of what it guards
        self._free = list(self._places)
        self._owners: set[int] = set()
        self._waiting: list[_Waiter] = []
        self._services: list[Service] = []

    @property
    def mine(self) -> bool:
        """Whether who asks has a turn, or runs in a function of one: waiting for its end would be for ever."""
        return threading.get_ident() in self._owners or self.nested

    @property
    def nested(self) -> bool:
        """Whether who asks runs in a function that this plugin waits for."""
        return bool(self._services) and self._service() is not None

    def _service(self) -> Service | None:
        """The innermost function of this plugin that who asks runs in."""
        return next((service for service in reversed(_running.get()) if service in self._services), None)

    # --- a turn

    def begin(self, wanted: _P | None = None) -> _P:
        """Begin a turn at the best place that is free, or at `wanted` as soon as that is; end it with `end`.

        Raises HostError to who has a turn already, or waits too long.
        """
        me = threading.get_ident()
        if me in self._owners or (self._services and self.nested):
            text = f"plugin {self._name} is in the middle of a call, and it is this one that would have to end first"
            raise HostError(text, plugin=self._name)
        now = time.monotonic()
        give_up = now + PATIENCE if _running.get() else math.inf
        while True:
            with self._lock:
                place, seconds = self._best(wanted, now)
                if place is not None and seconds <= 0:
                    self._owners.add(me)  # first: between the two, `mine` must not say no
                    self._free.remove(place)
                    return place
            if now >= give_up:
                text = f"plugin {self._name} was not free for {PATIENCE:g} s, which is all that a function may wait"
                raise HostError(text, plugin=self._name)
            self._wait(wanted, now, give_up)
            now = time.monotonic()

    def try_begin(self, place: _P) -> bool:
        """Begin a turn at `place`, unless that is taken or this thread has a turn."""
        with self._lock:
            if self.mine or place not in self._free:
                return False
            self._owners.add(threading.get_ident())
            self._free.remove(place)
            return True

    def _wait(self, wanted: _P | None, now: float, give_up: float) -> None:
        """Return when there may be a place, or it is time to look again."""
        waiter = _Waiter(wanted)
        try:
            with self._lock:
                _, seconds = self._best(wanted, now)
                if seconds <= 0:
                    return
                self._waiting.append(waiter)
            seconds = min(seconds, give_up - now)
            waiter.bell.acquire(timeout=-1 if seconds == math.inf else seconds)
        except BaseException:  # KeyboardInterrupt: who was rung for passes it on, or nobody hears of the free place
            with self._lock:
                if waiter not in self._waiting:
                    self._ring()
            raise
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._waiting.remove(waiter)

    def _best(self, wanted: _P | None, now: float) -> tuple[_P | None, float]:
        """The best place that is free and the seconds until it is of use; None and infinity where there is none."""
        best, least = None, math.inf
        for place in self._free:
            if wanted is not None:
                if place is wanted:
                    return place, 0.0
            elif (seconds := place.wait(now)) < least:
                best, least = place, seconds
                if seconds < 0:
                    break
        return best, least

    def _ring(self) -> None:
        """Wake one that waits for a place that is free now."""
        for waiter in self._waiting:
            if self._free if waiter.wanted is None else waiter.wanted in self._free:
                self._waiting.remove(waiter)
                waiter.bell.release()
                return

    def end(self, place: _P, owner: int | None = None) -> None:
        """End the turn at `place`, which this thread has, or the thread `owner`."""
        try:
            self._before(place)
        finally:
            with self._lock:
                self._free.append(place)
                self._owners.discard(owner or threading.get_ident())
                if self._waiting:
                    self._ring()
        self._after()

    def hurry(self) -> None:
        """Let all that wait look again: the plugin was closed, or cleared."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.bell.release()

    # --- a function within a turn

    @contextlib.contextmanager
    def serving(self, place: _P) -> Iterator[None]:
        """Within, a function runs for the worker at `place`. Raises HostError where they nest too deeply."""
        running = _running.get()
        if len(running) >= DEEPEST:
            raise HostError(f"{DEEPEST} functions run within each other: that is the most", plugin=self._name)
        service = Service(place)
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
    def nest(self) -> Iterator[_P]:
        """Within, who runs in a function may use the place of the worker that waits for it.

        Raises HostError when that is over.
        """
        service = self._service()
        text = f"plugin {self._name} does not wait for this function any more"
        if service is None or not service.lock.acquire(timeout=PATIENCE):
            raise HostError(text, plugin=self._name)
        try:
            if not service.open:
                raise HostError(text, plugin=self._name)
            yield next(place for place in self._places if place is service.place)
        finally:
            service.lock.release()
