"""Whose turn it is at a plugin's workers: one caller at a time for each, and nobody waits for himself.

A function of the application that runs for a plugin may call that very plugin again: its worker waits, and serves.
Such a caller is known by a context variable (PEP 567), so that it may also be a task or a thread that the function
started with `asyncio.to_thread`. Tasks of an event loop wait for their turns without holding up its thread. All that
waits for a turn from inside a function waits no longer than `PATIENCE`: functions that wait for each other's plugins
would do so for ever.
"""

from __future__ import annotations

import bisect
import contextlib
import contextvars
import itertools
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
_LOOK: Final = 0.5
"""Seconds between two looks whether the event loop that is waited for stands still."""

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


class Course(Protocol):
    """A call as far as its event loop has taken it."""

    def overdue(self, now: float) -> bool:
        """Whether what it waits for has been there for long, and nobody came for it."""

    def give_up(self) -> None:
        """End it, and its turn: whoever would go on with it is told so."""


class Task:
    """Who has a turn without being a thread: a call of an event loop's, which runs in `thread` while `runs` says so.

    `home` is as a waiter's; `course` is there once the call has begun.
    """

    __slots__ = ("course", "home", "runs", "thread")

    def __init__(self, runs: Callable[[], bool] = lambda: True, home: object = None) -> None:
        self.thread = threading.get_ident()
        self.runs = runs
        self.home = home
        self.course: Course | None = None

    def stands_still(self, thread: int, now: float) -> bool:
        """Whether nobody goes on with its call: its loop was left (Ctrl-C), and can't run while its own `thread` asks,
        or has not come for long."""
        return not self.runs() and self.course is not None and (self.thread == thread or self.course.overdue(now))


class Waiter:
    """Somebody who waits for a place: any, or `wanted`. `ring` wakes them, from any thread, and may do so in vain.

    `home` is what has to run for them to wake: an event loop, or None for a thread that does nothing else.
    """

    __slots__ = ("give_up", "home", "look_again", "number", "ring", "wanted")

    def __init__(self, wanted: object, give_up: float, ring: Callable[[], None], home: object = None) -> None:
        self.wanted = wanted
        self.give_up = give_up
        self.ring = ring
        self.home = home
        self.look_again = math.inf
        self.number = 0


class Turns(Generic[_P]):
    """The turns at a plugin's places. `before` runs at the end of a turn while it still lasts, `after` when it is over.

    Not a fair queue: who has ended a turn and begins the next need not let another thread go first.
    """

    __slots__ = (
        "_after", "_before", "_free", "_lock", "_name", "_numbers", "_owners", "_places", "_rung", "_services",
        "_waiting",
    )  # fmt: skip

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
        self._free = list(reversed(self._places))  # the next one last
        self._owners: dict[int | Task, _P] = {}
        self._waiting: list[Waiter] = []  # in the order in which they came
        self._rung = False  # some of them heard that a place is free, and have not looked since
        self._numbers = itertools.count(1)
        self._services: list[Service] = []

    @property
    def mine(self) -> bool:
        """Whether waiting for all turns to end would be for ever: who asks has one, or runs in a function of one, or a
        task has one whose loop runs in this thread, or does not run.
        """
        me = threading.get_ident()
        stuck = any(isinstance(owner, Task) and not owner.runs() for owner in list(self._owners))
        return me in self._owners or self._of_a_task_here(me) or stuck or self.nested

    def _of_a_task_here(self, thread: int) -> bool:
        return any(isinstance(owner, Task) and owner.thread == thread for owner in list(self._owners))

    @property
    def nested(self) -> bool:
        """Whether who asks runs in a function that this plugin waits for."""
        return bool(self._services) and self._service() is not None

    def _service(self) -> Service | None:
        """The innermost function of this plugin that who asks runs in."""
        return next((service for service in reversed(_running.get()) if service in self._services), None)

    # --- a turn

    # `grab` and `let_go` hold no lock: two would be a tenth of what a call executes in the host. Instead each list and
    # dict changes by single operations, and two that belong together have no call between them: with the GIL threads
    # change, and signal handlers run, between calls.

    def grab(self, me: int) -> _P | None:
        """Begin the turn of this thread, `me`, at the place that was used last, where nothing stands in its way."""
        if not self._free or self._services or me in self._owners:
            return None
        place = self._owners[me] = self._free[-1]
        try:
            self._free.pop()
        except BaseException:  # as in `begin`
            self.release(me)
            raise
        return place

    def let_go(self, me: int) -> None:
        """End the turn of this thread, `me`, without a word to `before` and `after`."""
        place = self._owners[me]
        del self._owners[me]
        self._free.append(place)
        if self._waiting and not self._rung:
            with self._lock:
                self._ring()

    def _occupy(self, owner: int | Task, place: _P) -> bool:
        """Begin a turn of `owner` at `place`, if that is free."""
        if place not in self._free:
            return False
        self._owners[owner] = place  # first: between the two, `mine` must not say no
        self._free.remove(place)
        return True

    def begin(self, wanted: _P | None = None) -> _P:
        """Begin a turn at the best place that is free, or at `wanted` as soon as that is; end it with `end`.

        Raises HostError to who has a turn already, or waits too long.
        """
        me = threading.get_ident()
        if me in self._owners or (self._services and self.nested):
            raise self._in_the_middle()
        try:
            return self._begun(me, wanted)
        except BaseException:  # KeyboardInterrupt, at last: nobody hears that the turn has begun
            self.release(me)
            raise

    def _begun(self, me: int, wanted: _P | None) -> _P:
        with self._lock:
            place, seconds = self._best(wanted, time.monotonic())
            if place is not None and seconds <= 0 and self._occupy(me, place):
                return place
        self.unstick()
        if self._of_a_task_here(me):  # this thread would have to run it
            raise self._in_the_middle()
        bell = threading.Lock()
        bell.acquire()

        def ring() -> None:
            with contextlib.suppress(RuntimeError):  # was rung already
                bell.release()

        waiter = self.waiter(wanted, ring)
        try:
            while (place := self.take_or_queue(me, waiter)) is None:
                seconds = waiter.look_again - time.monotonic()
                bell.acquire(timeout=-1 if seconds == math.inf else max(seconds, 0))
        finally:
            self.leave(waiter)
        return place

    def _in_the_middle(self) -> HostError:
        text = f"plugin {self._name} is in the middle of a call, and it is this one that would have to end first"
        return HostError(text, plugin=self._name)

    def take(self, owner: int | Task, wanted: _P | None = None) -> _P | None:
        """Begin a turn of `owner` at a place that is free now, if one is."""
        with self._lock:
            place, seconds = self._best(wanted, time.monotonic())
            return place if place is not None and seconds <= 0 and self._occupy(owner, place) else None

    def waiter(self, wanted: object, ring: Callable[[], None], home: object = None) -> Waiter:
        """One who is about to wait; `leave` ends that in any case."""
        return Waiter(wanted, time.monotonic() + PATIENCE if _running.get() else math.inf, ring, home)

    def take_or_queue(self, owner: int | Task, waiter: Waiter) -> _P | None:
        """`take`; where nothing is free, `waiter` is in the queue and is to look again when it is rung for, or then.

        Raises HostError when it waited too long.
        """
        self.unstick()
        with self._lock:
            waiter.number = waiter.number or next(self._numbers)
            if waiter not in self._waiting:  # before it looks: who lets go looks the other way round
                bisect.insort(self._waiting, waiter, key=lambda other: other.number)
            self._rung = False
            now = time.monotonic()
            place, seconds = self._best(waiter.wanted, now)
            if place is not None and seconds <= 0 and self._occupy(owner, place):
                self._waiting.remove(waiter)
                return place
            if now >= waiter.give_up:
                text = f"plugin {self._name} was not free for {PATIENCE:g} s, which is all that a function may wait"
                raise HostError(text, plugin=self._name)
            foreign = any(isinstance(owner, Task) and owner.home is not waiter.home for owner in list(self._owners))
            waiter.look_again = min(now + seconds, waiter.give_up, now + _LOOK if foreign else math.inf)
            return None

    def unstick(self) -> None:
        """End the calls of event loops that stand still: their turns would never end."""
        me, now = threading.get_ident(), time.monotonic()
        for owner in list(self._owners):
            if isinstance(owner, Task) and owner.stands_still(me, now) and owner.course is not None:
                owner.course.give_up()
                self.release(owner)

    def leave(self, waiter: Waiter) -> None:
        """Out of the queue. Who may have been rung for passes it on, or nobody hears of a place that is free."""
        with self._lock:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            if self._waiting and self._free:
                self._ring()

    @contextlib.contextmanager
    def turn(self, place: _P) -> Iterator[None]:
        """Within, this thread has its turn at `place`. Raises as `begin`."""
        self.begin(place)
        try:
            yield
        finally:
            try:
                self.end(place)
            except BaseException:
                self.end(place)
                raise

    def try_begin(self, place: _P) -> bool:
        """Begin a turn at `place`, unless that is taken or this thread has a turn."""
        me = threading.get_ident()
        if me in self._owners or self.nested:
            return False
        try:
            with self._lock:
                return self._occupy(me, place)
        except BaseException:  # as in `begin`
            self.release(me)
            raise

    def _best(self, wanted: object, now: float) -> tuple[_P | None, float]:
        """The best place that is free and the seconds until it is of use; None and infinity where there is none."""
        best, least = None, math.inf
        for place in reversed(tuple(self._free)):  # the last one's worker is warm
            if wanted is not None:
                if place is wanted:
                    return place, 0.0
            elif (seconds := place.wait(now)) < least:
                best, least = place, seconds
                if seconds < 0:
                    break
        return best, least

    def _ring(self) -> None:
        """Wake one that waits for a place that is free now, and one more for each other home: the first one's may be
        an event loop that stands still, even for what this plugin is to do next.
        """
        homes = set()
        for waiter in list(self._waiting):
            if waiter.home not in homes and (self._free if waiter.wanted is None else waiter.wanted in self._free):
                homes.add(waiter.home)
                waiter.ring()  # first, for Ctrl-C may come between; another time does no harm
                self._waiting.remove(waiter)
                self._rung = True

    def end(self, place: _P, owner: int | Task | None = None) -> None:
        """End the turn at `place`, which this thread has, or `owner`.

        Ctrl-C may come even here: who calls it calls it again then. What was done by the first time stays done.
        """
        owner = owner or threading.get_ident()
        try:
            if self._owners.get(owner) is place:
                self._before(place)
        finally:
            self.release(owner)
        self._after()

    def release(self, owner: int | Task) -> None:
        """Free the place of `owner`, if it has one, and let others know. A signal handler runs between calls, so that
        nothing comes between the two halves."""
        with self._lock:
            if owner in self._owners:
                place = self._owners[owner]
                del self._owners[owner]
                if place not in self._free:
                    self._free.append(place)
            if self._waiting and not self._rung:
                self._ring()

    def hurry(self) -> None:
        """Let all that wait look again: the plugin was closed, or cleared."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            for waiter in waiting:
                waiter.ring()

    # --- a function within a turn

    @contextlib.contextmanager
    def serving(self, place: _P) -> Iterator[None]:
        """Within, a function runs for the worker at `place`. Raises HostError where they nest too deeply."""
        running = _running.get()
        if len(running) >= DEEPEST:
            raise HostError(f"{DEEPEST} functions run within each other: that is the most", plugin=self._name)
        service = Service(place)
        try:
            self._services.append(service)
            _running.set((*running, service))
            yield
        finally:
            try:
                _running.set(running)
                with service.lock:  # a call that a task or thread of the function began ends first
                    service.open = False
            finally:
                service.open = False
                with contextlib.suppress(ValueError):
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
