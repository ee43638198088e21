"""`plugins.ahook(pm)`: hooks of a pluggy manager called from a coroutine, with the results that pluggy would give.

Implementations in workers that follow each other run at the same time; those in the application run in between, in
their order, on the loop's thread. With `firstresult` each waits for the one before it. A hook is called as it is
registered at that moment; tracing and monitoring of the manager (`add_hookcall_monitoring`) do not see it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pluggy

from host.errors import HostError
from host.service.aio import running
from host.service.plugin import SandboxedPlugin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence


class AsyncHooks:
    """The hooks of one manager: each attribute is an async function of the hook's arguments, by name."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._manager = manager

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """Raises AttributeError where the manager knows no such hook."""
        caller = getattr(self._manager.hook, name)

        async def call(**arguments: Any) -> Any:
            return await _call(caller, arguments)

        call.__name__ = call.__qualname__ = name
        return call


async def _call(caller: Any, arguments: dict[str, Any]) -> Any:
    if caller.is_historic():
        raise HostError(
            f"hook {caller.name!r} is historic, and ahook calls none such; use call_historic", hook=caller.name
        )
    implementations = list(reversed(caller.get_hookimpls()))  # those registered last, and wrappers, come first
    plain = [found for found in implementations if not (found.wrapper or found.hookwrapper)]
    entered: list[Generator[None, Any, Any]] = []
    result, error = None, None
    try:
        for found in implementations:
            if found.wrapper or found.hookwrapper:
                entered.append(_entered(found, arguments))
        first = caller.spec is not None and caller.spec.opts.get("firstresult")
        result = await (_first if first else _all)(plain, arguments)
    except BaseException as e:  # noqa: BLE001 - wrappers may take it
        error = e
    for wrapper in reversed(entered):
        result, error = _left(wrapper, result, error)
    if error is not None:
        try:
            raise error
        finally:
            del error  # which holds this frame
    return result


def _passed(found: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments that an implementation takes. Raises HookCallError where one is missing."""
    missing = [name for name in found.argnames if name not in arguments]
    if missing:
        raise pluggy.HookCallError(f"hook call must provide argument {missing[0]!r}")
    return {name: arguments[name] for name in found.argnames}


async def _one(found: Any, arguments: dict[str, Any]) -> Any:
    passed = _passed(found, arguments)
    if isinstance(found.plugin, SandboxedPlugin):
        return await found.plugin._from_ahook(found.function.__name__, passed)
    return found.function(*passed.values())


async def _first(plain: Sequence[Any], arguments: dict[str, Any]) -> Any:
    for found in plain:
        result = await _one(found, arguments)
        if result is not None:
            return result
    return None


async def _all(plain: Sequence[Any], arguments: dict[str, Any]) -> list[Any]:
    results: list[Any] = []
    at = 0
    while at < len(plain):
        group = _together(plain[at:])
        at += len(group)
        outcomes: list[tuple[Any, Exception | None]]
        if len(group) == 1:
            outcomes = [(await _one(group[0], arguments), None)]
        else:
            outcomes = await running().together([functools.partial(_outcome, found, arguments) for found in group])
        for result, error in outcomes:
            if error is not None:
                raise error
            if result is not None:
                results.append(result)
    return results


async def _outcome(found: Any, arguments: dict[str, Any]) -> tuple[Any, Exception | None]:
    """What it gives or raises: the first in order counts, whichever came first."""
    try:
        return await _one(found, arguments), None
    except Exception as e:  # noqa: BLE001 - raised in its turn
        return None, e


def _together(plain: Sequence[Any]) -> Sequence[Any]:
    """The implementations at the beginning that may run at once: each of another plugin, and all in workers."""
    plugins: set[Any] = set()
    for number, found in enumerate(plain):
        if not isinstance(found.plugin, SandboxedPlugin) or found.plugin in plugins:
            return plain[: max(number, 1)]
        plugins.add(found.plugin)
    return plain


# --- wrappers, which run in the application


def _entered(found: Any, arguments: dict[str, Any]) -> Generator[None, Any, Any]:
    """A wrapper that has come to its yield; one of the old kind (``hookwrapper=True``) as one of the new."""
    generator = found.function(*_passed(found, arguments).values())
    wrapper: Generator[None, Any, Any] = _old_style(generator) if found.hookwrapper else generator
    try:
        next(wrapper)
    except StopIteration:
        raise _misused(generator, "did not yield") from None
    return wrapper


def _old_style(generator: Generator[None, Any, Any]) -> Generator[None, Any, Any]:
    try:
        next(generator)
    except StopIteration:
        return None
    try:
        outcome = pluggy.Result((yield), None)
    except BaseException as e:  # noqa: BLE001 - the wrapper sees it in the outcome
        outcome = pluggy.Result(None, e)
    try:
        generator.send(outcome)
    except StopIteration:
        return outcome.get_result()
    raise _misused(generator, "has second yield")


def _left(wrapper: Generator[None, Any, Any], result: Any, error: BaseException | None) -> tuple[Any, Any]:
    """What a wrapper makes of a result or an error."""
    try:
        wrapper.send(result) if error is None else wrapper.throw(error)
        wrapper.close()
    except StopIteration as end:
        return end.value, None
    except BaseException as e:  # noqa: BLE001 - the next wrapper may take it
        return None, e
    return None, _misused(wrapper, "has second yield")


def _misused(generator: Any, what: str) -> RuntimeError:
    code = generator.gi_code
    return RuntimeError(f"wrap_controller at {code.co_name!r} {code.co_filename}:{code.co_firstlineno} {what}")
