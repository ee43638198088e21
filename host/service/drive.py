"""One call's steps (`host.run.steps`) as a coroutine takes them, whatever loop it runs on.

A loop may be left in the middle (Ctrl-C) and never run again. So whoever takes the next step, or ends the call for
others who need the worker (`host.service.turn`), does so under a lock, and the one who comes later is told.
"""

from __future__ import annotations

import abc
import contextvars
import functools
import select
import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from host.run.steps import Steps, Want
    from host.service.threads import Threads
    from host.service.ticket import Ticket

_T = TypeVar("_T")
_V = TypeVar("_V")

_LONG: Final = 2.0
"""Seconds after which a call whose loop stands still is given up for others, when all that it waits for is there."""


class Drive(abc.ABC, Generic[_T]):
    """One call's steps, as far as they were taken. A wait that is cancelled loses nothing: it may be begun again.

    `rests` says that somebody else than the caller sees it to its end.
    """

    __slots__ = (
        "_context", "_done", "_lock", "_over", "_since", "_steps", "_thread", "_threads", "_ticket", "_want", "rests",
    )  # fmt: skip

    def __init__(self, steps: Steps[_T], ticket: Ticket, threads: Threads) -> None:
        self._thread = threading.get_ident()
        self._steps = steps
        self._ticket = ticket
        self._threads = threads
        self._want: Want | None = None
        self._done: Future[Any] | None = None
        self._context: contextvars.Context | None = None
        self._lock = threading.RLock()  # one takes a step, or gives up
        self._over = False
        self._since: float | None = None
        self.rests = False

    async def go(self) -> _T:
        """Take the steps that are left. Raises what they raise; when it is cancelled, no step was lost."""
        try:
            if self._want is None:
                self._want = self._next()
            while True:
                await self._wait(self._want)
                self._want = self._next()
        except StopIteration as end:
            result: _T = end.value
            return result

    def _next(self) -> Want:
        with self._lock:
            if self._over:
                raise HostError("the call was given up: its event loop stood still when the plugin was needed")
            done, self._done, self._since = self._done, None, None
            if done is None:
                return self._steps.send(None)
            try:
                given = done.result()
            except BaseException as e:  # noqa: BLE001 - it is the steps' affair
                return self._steps.throw(e)
            return self._steps.send(given)

    def _submit(self, want: Callable[[], Any], told: contextvars.ContextVar[_V], value: _V) -> Future[Any]:
        """Run something in a thread, in one context for the whole call, where `told` has a value."""
        if self._context is None:
            self._context = contextvars.copy_context()
            self._context.run(told.set, value)
        done: Future[Any] = Future()
        self._done = done  # before anything runs: Ctrl-C may come between
        self._threads.submit(functools.partial(_fulfil, done, functools.partial(self._context.run, want)))
        return done

    def overdue(self, now: float) -> bool:
        """As `Course.overdue`."""
        want, done = self._want, self._done
        there = done.done() if done is not None else _readable(want) if isinstance(want, int) else True
        if not there or self._since is None:
            self._since = now if there else None
            return False
        return now - self._since > _LONG

    def give_up(self) -> None:
        """As `Course.give_up`: nobody takes the steps that are left. Idempotent."""
        with self._lock:
            self._over = True
            if self._done is not None and not self._done.cancel():
                wait((self._done,))
            self._steps.close()
        self._wake()

    def _wake(self) -> None:
        """Let whoever waits find that it was given up."""

    @abc.abstractmethod
    async def _wait(self, want: Want) -> None:
        """Wait for what is wanted; nothing but cancelling may raise."""

    @abc.abstractmethod
    async def finish(self) -> _T:
        """Take all steps; when it is cancelled, cancel the call and see it to its end."""


def _fulfil(done: Future[Any], run: Callable[[], Any]) -> None:
    """Run it for `done`, unless that was cancelled."""
    if done.set_running_or_notify_cancel():
        try:
            done.set_result(run())
        except BaseException as e:  # noqa: BLE001 - whoever waits has it
            done.set_exception(e)


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
