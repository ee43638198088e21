"""Calls from coroutines: the steps of a call (`host.run.steps`), taken by a task that waits where a thread would.

A call has no thread: the loop watches the descriptor of the replies. What may take long (a worker's start and its end,
functions of the application, frames that a pipe does not hold) runs in threads of the host's own, which are never
abandoned. On asyncio, and on trio where the application has imported that.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import select
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any, Final, TypeVar

from host.run.steps import in_thread
from host.run.worker import Undelivered
from host.service.drive import Drive
from host.service.functions import LOOP, OUTSIDE
from host.service.ticket import Ticket
from host.service.turn import Place, Task, Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from concurrent.futures import Future

    from host.run.steps import Steps, Want
    from host.service.functions import Stoppable
    from host.service.lane import Lane
    from host.service.plugin import SandboxedPlugin

_T = TypeVar("_T")
_P = TypeVar("_P", bound=Place)

_rests: Final[set[asyncio.Task[None]]] = set()
"""Calls whose callers were cancelled, until they have ended: a loop keeps no strong reference to a task."""


class AsyncioDrive(Drive[_T]):
    """On asyncio."""

    __slots__ = ("_watched",)

    def __init__(self, *call: Any) -> None:
        super().__init__(*call)
        self._watched: tuple[asyncio.AbstractEventLoop, int, asyncio.Future[None]] | None = None

    def _wake(self) -> None:
        if self._watched is None:
            return
        loop, descriptor, readable = self._watched
        with contextlib.suppress(RuntimeError):  # the loop is closed
            if threading.get_ident() == self._thread:
                loop.remove_reader(descriptor)  # before the number is another worker's
            loop.call_soon_threadsafe(_settle, readable)

    async def _wait(self, want: Want) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(want, int):
            readable = loop.create_future()
            self._watched = loop, want, readable  # before the loop knows: Ctrl-C may come between
            try:
                loop.add_reader(want, _settle, readable)
            except NotImplementedError:  # a loop without selectors
                want = functools.partial(_until_readable, want)
            else:
                if not os.get_blocking(want):  # uvloop's doing; other threads read there when it is their turn
                    os.set_blocking(want, True)
                try:
                    await readable
                finally:
                    loop.remove_reader(want)
                    self._watched = None
                return
        done = self._done or self._submit(want, LOOP, loop)
        ended = loop.create_future()

        def ring(_done: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_settle, ended)

        done.add_done_callback(ring)
        await ended

    async def finish(self) -> _T:
        """As `Drive.finish`; a second cancelling does not wait for the call's end."""
        try:
            return await self.go()
        except asyncio.CancelledError:
            rest = asyncio.get_running_loop().create_task(self._rest())
            _rests.add(rest)
            rest.add_done_callback(_rests.discard)
            self.rests = True
            if self._ticket.cancel():
                await asyncio.wait((rest,))
            raise
        except BaseException:
            self.give_up()
            raise

    async def _rest(self) -> None:
        """See a call to its end, which is near; nobody will ask how it ended."""
        try:
            while True:
                try:
                    await self.go()
                except asyncio.CancelledError:  # the loop is about to close, and has to wait
                    continue
                except Exception:  # noqa: BLE001 - see above
                    return
                return
        finally:
            self.give_up()


def _until_readable(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class OnAsyncio:
    """The asyncio loop that runs in this thread."""

    drive: Final = AsyncioDrive

    def owner(self) -> Task:
        """Who has the turn of a call that begins here."""
        loop = asyncio.get_running_loop()
        return Task(loop.is_running, loop)

    async def turn(self, turns: Turns[_P], owner: Task) -> _P:
        """Begin a turn of `owner`, as `Turns.begin`. Not when it is cancelled."""
        place = turns.take(owner)
        if place is not None:
            return place
        bell, loop = asyncio.Event(), asyncio.get_running_loop()

        def ring() -> None:
            if threading.get_ident() == owner.thread:
                bell.set()
            else:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(bell.set)

        waiter = turns.waiter(None, ring, loop)
        try:
            while (place := turns.take_or_queue(owner, waiter)) is None:
                seconds = waiter.look_again - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if seconds == math.inf else seconds):
                        await bell.wait()
                bell.clear()
        finally:
            turns.leave(waiter)
        return place

    async def together(self, calls: Sequence[Callable[[], Awaitable[_T]]]) -> list[_T]:
        """What they give, in their order; all at once."""
        return await asyncio.gather(*(call() for call in calls))


class TrioDrive(Drive[_T]):
    """On trio."""

    __slots__ = ()

    async def _wait(self, want: Want) -> None:
        import trio

        if isinstance(want, int):
            await trio.lowlevel.wait_readable(want)
            return
        token, bell = trio.lowlevel.current_trio_token(), trio.Event()

        def ring(_done: Future[Any]) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(bell.set)

        done = self._done or self._submit(want, OUTSIDE, functools.partial(_on_trio, token))
        done.add_done_callback(ring)
        await bell.wait()

    async def finish(self) -> _T:
        """As `Drive.finish`."""
        import trio

        try:
            return await self.go()
        except trio.Cancelled:
            self._ticket.cancel()
            with trio.CancelScope(shield=True), contextlib.suppress(Exception):
                await self.go()
            raise
        except BaseException:
            self.give_up()
            raise


def _on_trio(token: Any, value: Awaitable[Any], seconds: float, stoppable: Stoppable) -> Any:
    """The result of an async function of the application, on trio in another thread."""
    import trio

    async def bounded() -> Any:
        def cancel() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(scope.cancel)

        try:
            with trio.fail_after(seconds) as scope, stoppable(cancel):
                return await value
        except trio.TooSlowError:
            raise TimeoutError from None

    return trio.from_thread.run(bounded, trio_token=token)


class OnTrio:
    """The trio run that this task belongs to."""

    drive: Final = TrioDrive

    def owner(self) -> Task:
        """Who has the turn of a call that begins here. A run of trio's ends all its tasks before it ends itself."""
        return Task()

    async def turn(self, turns: Turns[_P], owner: Task) -> _P:
        """Begin a turn of `owner`, as `Turns.begin`. Not when it is cancelled."""
        import trio

        place = turns.take(owner)
        if place is not None:
            return place
        token = trio.lowlevel.current_trio_token()
        bell = trio.Event()

        def ring() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(lambda: bell.set())  # noqa: PLW0108 - the bell of that moment

        waiter = turns.waiter(None, ring, token)
        try:
            while (place := turns.take_or_queue(owner, waiter)) is None:
                with trio.move_on_after(waiter.look_again - time.monotonic()):
                    await bell.wait()
                bell = trio.Event()
        finally:
            turns.leave(waiter)
        return place

    async def together(self, calls: Sequence[Callable[[], Awaitable[_T]]]) -> list[_T]:
        """What they give, in their order; all at once."""
        import trio

        found: dict[int, _T] = {}

        async def put(number: int) -> None:
            found[number] = await calls[number]()

        async with trio.open_nursery() as nursery:
            for number in range(len(calls)):
                nursery.start_soon(put, number)
        return [found[number] for number in range(len(calls))]


def running() -> OnAsyncio | OnTrio:
    """What the coroutine that asks runs on. Raises RuntimeError where that is neither asyncio nor trio."""
    trio = sys.modules.get("trio")
    if trio is not None:  # first, for it may be a guest in a thread where asyncio runs
        with contextlib.suppress(RuntimeError):
            trio.lowlevel.current_task()
            return OnTrio()
    asyncio.get_running_loop()
    return OnAsyncio()


async def call(plugin: SandboxedPlugin, hook: str, arguments: dict[str, Any]) -> Any:
    """`SandboxedPlugin.acall`, once its arguments are checked."""
    loop, ticket, threads = running(), Ticket(), plugin._owner._threads
    if plugin._turns.nested:
        nested = in_thread(functools.partial(plugin._call, hook, arguments, ticket))
        return await loop.drive(nested, ticket, threads).finish()
    crash: Exception = AssertionError()
    for _ in range(len(plugin._lanes) + 1):  # as in the plugin's `_call`
        owner = loop.owner()
        drive: Drive[Any] | None = None
        try:
            lane = await loop.turn(plugin._turns, owner)
            drive = loop.drive(_in_turn(plugin, lane, owner, hook, arguments, ticket), ticket, threads)
            owner.course = drive
            return await drive.finish()
        except Undelivered as e:
            crash = e.crash
        except BaseException:  # Ctrl-C may come between any two of these: else nobody ever gets the turn again
            if drive is None or not drive.rests:
                plugin._turns.release(owner)
            raise
    raise crash


def _in_turn(
    plugin: SandboxedPlugin, lane: Lane, owner: Task, hook: str, arguments: dict[str, Any], ticket: Ticket
) -> Steps[Any]:
    """One call within a turn, which it ends."""
    try:
        result = yield from lane.steps(hook, arguments, ticket)
    except Exception:
        yield functools.partial(plugin._turns.end, lane, owner)
        raise
    except BaseException:
        plugin._turns.end(lane, owner)
        raise
    if plugin._settled:  # then the worker is ended, too
        yield functools.partial(plugin._turns.end, lane, owner)
    else:
        plugin._turns.end(lane, owner)
    return result


def warn_of_blocking(plugin: str, hook: str) -> None:
    """Warn, in asyncio's debug mode, that a call keeps the loop of this thread from all else."""
    loop = asyncio._get_running_loop()
    if loop is None or not loop.get_debug():
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    text = f"{plugin}.{hook} keeps the event loop waiting; plugin.acall() and plugins.ahook(pm) do not"
    warnings.warn(text, RuntimeWarning, stacklevel=level)


def _is_ours(frame: Any) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package in ("host", "pluggy") or frame.f_code.co_filename.endswith("(in its worker)")
