"""Functions that an application offers to its plugins, and the answers to plugins that ask for them.

The host decides, by its own copy of the rules. What a plugin learns of a function that it may not call is the same
whether there is one or not. What a function raises crosses as the name of a builtin class from a fixed table and a
text without paths: no traceback, no class and no attribute of the application's own.
"""

from __future__ import annotations

import builtins
import contextvars
import dataclasses
import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from host.errors import HostError
from host.model.sanitise import visible
from host.service.denials import ALLOWED, reason_for
from sandbox_worker import messages, wire
from sandbox_worker.errors import ABSENT, DENY_RULE, DROPPED, NOT_OFFERED, Unsendable
from sandbox_worker.permissions import RequestError, decide

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    from collections.abc import Awaitable, Callable

    from host.model.grants import Effective
    from host.service.dropped import Dropped
    from host.service.turn import Place, Turns

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
OUTSIDE: Final[contextvars.ContextVar[Callable[[Awaitable[Any], float], Any] | None]] = contextvars.ContextVar(
    "plughold_outside", default=None
)
"""Runs them, within so many seconds, where that loop is not asyncio's."""


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

    __slots__ = ("_dropped", "_functions", "_future", "_place", "_plugin", "_refuse", "_spent", "_turn", "_turns")

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
        self._future: concurrent.futures.Future[Any] | None = None

    def cancel(self) -> None:
        """Cancel the async function that runs on another thread's loop, if one does."""
        future = self._future
        if future is not None:
            future.cancel()

    def reason(self, name: str, effective: Effective) -> str:
        """Why the plugin may call the function, or why not."""
        if self._dropped.covers("host", name, None):
            return DROPPED
        reason = reason_for("host", name, effective)
        return NOT_OFFERED if reason == ALLOWED and self._functions.get(name) is None else reason

    def answer(self, ask: messages.Ask, effective: Effective, turn: int) -> list[object]:
        """The message that answers `ask` in the plugin's call number `turn`. Only a BaseException leaves it."""
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
            with self._turns.serving(self._place):
                value = function.run(**ask.arguments)
                if hasattr(type(value), "__await__"):
                    value = self._awaited(value, left)
            wire.check(value)
        except Exception as e:  # noqa: BLE001 - whatever the application's function raises is the plugin's answer
            _log.debug("function %s raised for plugin %s", ask.function, self._plugin, exc_info=True)
            return [messages.FAILURE, ask.id, *_told(e)]
        finally:
            if outermost:
                self._spent += time.monotonic() - begun
        return [messages.ANSWER, ask.id, value]

    def _awaited(self, value: Awaitable[Any], seconds: float) -> Any:
        """The result of what an async function returned: on the loop of `acall`, else on one of its own."""
        import asyncio
        import concurrent.futures

        outside = OUTSIDE.get()
        if outside is not None:
            return outside(value, seconds)

        async def bounded() -> Any:
            async with asyncio.timeout(seconds):
                return await value

        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        loop = LOOP.get()
        if loop is not None and loop is not here and loop.is_running():
            self._future = future = asyncio.run_coroutine_threadsafe(bounded(), loop)
            try:
                return future.result(seconds + _LOOP_GRACE)
            finally:
                self._future = None
                future.cancel()
        if here is None:
            return asyncio.run(bounded())
        context = contextvars.copy_context()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
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
