"""Functions that an application offers to its plugins, and the answers to plugins that ask for them.

The host decides, by its own copy of the rules. What a plugin learns of a function that it may not call is the same
whether there is one or not. What a function raises crosses as the name of a builtin class from a fixed table and a
text without paths: no traceback, no class and no attribute of the application's own.
"""

from __future__ import annotations

import builtins
import contextlib
import contextvars
import dataclasses
import functools
import logging
import re
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from host.errors import HostError
from host.model.sanitise import visible
from host.service.denials import ALLOWED, reason_for
from sandbox_worker import messages, wire
from sandbox_worker.errors import ABSENT, DENY_RULE, DROPPED, NOT_OFFERED, Unsendable
from sandbox_worker.permissions import RequestError, decide

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator

    from host.model.grants import Effective
    from host.service.dropped import Dropped
    from host.service.turn import Place, Turns

    Stopping = Callable[[], bool]
    """Whether a call was asked to stop."""
    Stoppable = Callable[[Callable[[], object]], contextlib.AbstractContextManager[None]]
    """Makes a context that is told how what happens in it can be cancelled, from any thread."""

_F = TypeVar("_F", bound="Callable[..., Any]")
_P = TypeVar("_P", bound="Place")

_log: Final = logging.getLogger("host")

TIMEOUT: Final = 30.0
TEXT_LIMIT: Final = 1000
_LOOP_GRACE: Final = 1.0
"""Seconds that a loop has, beyond the function's own time, to cancel it."""
_OF_A_PATH: Final = re.compile(r"""'[^'\n]*/[^'\n]*'|"[^"\n]*/[^"\n]*"|\S*/\S*""")

LOOP: Final[contextvars.ContextVar[asyncio.AbstractEventLoop | None]] = contextvars.ContextVar(
    "plughold_loop", default=None
)
"""The loop that waits in `acall` for this call: async functions run on it."""
OUTSIDE: Final[contextvars.ContextVar[Callable[[Awaitable[Any], float, Stoppable], Any] | None]] = (
    contextvars.ContextVar("plughold_outside", default=None)
)
"""Runs them, within so many seconds and in a context that can cancel them, where that loop is not asyncio's."""


class _Stopped(Exception):
    def __init__(self) -> None:
        super().__init__("the call was asked to stop")


@dataclasses.dataclass(frozen=True, slots=True)
class Function:
    """What the application offers: `run`, and the seconds that one call of a plugin may spend in it and its like."""

    run: Callable[..., Any]
    timeout: float


class Functions:
    """The functions of one plugin host, by name."""

    __slots__ = ("_offered",)

    def __init__(self) -> None:
        self._offered: dict[str, Function] = {}

    def offer(self, name: str, timeout: float) -> Callable[[_F], _F]:
        """The decorator behind `PluginHost.function`. Raises ValueError and TypeError as that."""
        try:
            decide("host", (), (), name)
        except RequestError as e:
            raise ValueError(f"a function's name: {e}") from None
        if not timeout > 0:
            raise ValueError("timeout is a positive number of seconds")

        def add(function: _F) -> _F:
            if not callable(function):
                raise TypeError("@plugins.function(name) decorates a function")
            if self._offered.setdefault(name, made := Function(function, timeout)) is not made:
                raise ValueError(f"a function called {name!r} is offered already")
            return function

        return add

    def get(self, name: str) -> Function | None:
        """The function of this name, if there is one."""
        return self._offered.get(name)


class Asked(Generic[_P]):
    """The asks for functions of one worker after the other, as they are answered. Called by whoever runs their call."""

    __slots__ = ("_dropped", "_functions", "_place", "_plugin", "_refuse", "_spent", "_turn", "_turns", "_waiting")

    def __init__(
        self,
        plugin: str,
        functions: Functions,
        dropped: Dropped,
        turns: Turns[_P],
        place: _P,
        refuse: Callable[[str, str], None],
    ) -> None:
        self._plugin = plugin
        self._functions = functions
        self._dropped = dropped
        self._turns = turns
        self._place = place
        self._refuse = refuse
        self._turn = -1
        self._spent = 0.0
        self._waiting: list[tuple[Stopping, Callable[[], object]]] = []
        """Async functions that run, and how to cancel each."""

    def look(self) -> None:
        """Cancel the async functions whose calls were asked to stop meanwhile; from any thread."""
        for stopping, cancel in tuple(self._waiting):
            if stopping():
                cancel()

    def reason(self, name: str, effective: Effective) -> str:
        """Why the plugin may call the function, or why not."""
        if self._dropped.covers("host", name, None):
            return DROPPED
        reason = reason_for("host", name, effective)
        return NOT_OFFERED if reason == ALLOWED and self._functions.get(name) is None else reason

    def answer(self, ask: messages.Ask, effective: Effective, turn: int, stopping: Stopping) -> list[object]:
        """The message that answers `ask` in the plugin's call number `turn`. Only a BaseException leaves it.

        For a call that was asked to stop no function is begun.
        """
        reason = self.reason(ask.function, effective)
        function = self._functions.get(ask.function)
        if function is None or reason != ALLOWED:
            self._refuse(ask.function, reason)
            return [messages.REFUSAL, ask.id, ask.function, reason if reason in _TOLD else ABSENT]
        outermost = not self._turns.nested
        if outermost and turn != self._turn:
            self._turn, self._spent = turn, 0.0
        begun = time.monotonic()
        try:
            left = function.timeout - self._spent
            if left <= 0:
                raise TimeoutError(f"the functions of this call took more than {function.timeout:g} s together")
            if stopping():
                raise _Stopped
            with self._turns.serving(self._place):
                value = function.run(**ask.arguments)
                if hasattr(type(value), "__await__"):
                    value = self._awaited(value, left, stopping)
            if wire.check(value) >= wire.APART:
                value = wire.Apart(value)
        except Exception as e:  # noqa: BLE001 - whatever the application's function raises is the plugin's answer
            _log.debug("function %s raised for plugin %s", ask.function, self._plugin, exc_info=True)
            return [messages.FAILURE, ask.id, *_told(e)]
        finally:
            if outermost:
                self._spent += time.monotonic() - begun
        return [messages.ANSWER, ask.id, value]

    @contextlib.contextmanager
    def _stoppable(self, value: object, stopping: Stopping, cancel: Callable[[], object]) -> Iterator[None]:
        """Call `cancel` when the call is asked to stop meanwhile. Where it was before, end `value`: raises _Stopped."""
        waiting = stopping, cancel
        self._waiting.append(waiting)  # first: whoever asks it to stop later finds it
        try:
            if stopping():
                if isinstance(value, Coroutine):
                    value.close()
                raise _Stopped
            yield
        finally:
            self._waiting.remove(waiting)

    def _awaited(self, value: Awaitable[Any], seconds: float, stopping: Stopping) -> Any:
        """The result of what an async function returned: on the loop of `acall`, else on one of its own."""
        import asyncio

        async def bounded() -> Any:
            inside = asyncio.get_running_loop()
            task: Any = asyncio.current_task()

            def cancel() -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    inside.call_soon_threadsafe(task.cancel)

            try:
                with self._stoppable(value, stopping, cancel):
                    async with asyncio.timeout(seconds):
                        return await value
            except asyncio.CancelledError:
                if stopping():
                    raise _Stopped from None
                raise

        outside = OUTSIDE.get()
        if outside is not None:
            return outside(value, seconds, functools.partial(self._stoppable, value, stopping))
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        loop = LOOP.get()
        if loop is not None and loop is not here and loop.is_running():
            future = asyncio.run_coroutine_threadsafe(bounded(), loop)
            try:
                return future.result(seconds + _LOOP_GRACE)
            finally:
                future.cancel()
        if here is None:
            return asyncio.run(bounded())
        from concurrent.futures import ThreadPoolExecutor

        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(context.run, asyncio.run, bounded()).result()


_TOLD: Final = (DENY_RULE, DROPPED, NOT_OFFERED)


def _told(error: Exception) -> tuple[str, str]:
    """(name of a class, text): what a plugin may know of an error of the application."""
    if isinstance(error, HostError):
        return "", f"a plugin that the function called failed ({type(error).__name__})"
    if isinstance(error, Unsendable):
        return "", f"the function returned {error.type_name}, which can't cross"
    table = (kind.__name__ for kind in type(error).__mro__ if kind is getattr(builtins, kind.__name__, None))
    name = next((name for name in table if name in messages.FUNCTION_ERRORS), "")
    try:
        text = (error.strerror or "") if isinstance(error, OSError) and error.errno else _text(error)
    except Exception:  # noqa: BLE001 - its own __str__ may raise anything
        text = ""
    return name, visible(_OF_A_PATH.sub("…", text[: 2 * TEXT_LIMIT]), TEXT_LIMIT, multiline=True)


def _text(error: Exception) -> str:
    argument = error.args[0] if len(error.args) == 1 else error
    return argument if type(argument) is str else str(error)
