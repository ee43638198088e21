"""What a plugin implements: found here, inside the walls, and sent to the host as bounded text.

The marker that pluggy sets is an attribute `<project>_impl` holding six options; parameters are read from the code
object, so that neither pluggy nor inspect is imported for it.
"""

from __future__ import annotations

import sys

from sandbox_worker import messages, wire
from sandbox_worker.errors import Unsendable, WireError
from sandbox_worker.failure import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    Hooks = dict[str, tuple[Callable[..., Any], tuple[str, ...]]]
    """By name: what to call, and its parameters in order."""


_DECORATORS: Final = 100
"""Decorators looked through, at most: a function may claim to wrap itself."""


class NotAPlugin(Exception):
    """What was imported can't serve as a plugin; the text says why."""


def resolve(reference: str) -> Any:
    """The module, or the object in it, that ``module`` or ``module:object.attribute`` names."""
    name, _, attributes = reference.partition(":")
    __import__(name)
    found: Any = sys.modules[name]
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute)
    return found


def from_functions(functions: dict[str, str]) -> tuple[Hooks, list[list[object]]]:
    """Hooks of a `[functions]` plugin: hook name to ``module:callable``."""
    hooks: Hooks = {}
    described: list[list[object]] = []
    for hook, reference in functions.items():
        function = resolve(reference)
        if not callable(function):
            raise NotAPlugin(f"{reference} is no callable")
        _add(hooks, described, hook, function, [False, False, False, None])
    return hooks, described


def from_plugin(plugin: Any, project: str) -> tuple[Hooks, list[list[object]]]:
    """Hooks of an object whose attributes are marked for `project`; an attribute that raises is passed over."""
    hooks: Hooks = {}
    described: list[list[object]] = []
    for name in dir(plugin):
        try:
            function = getattr(plugin, name)
            options = getattr(function, project + "_impl", None)
        except Exception:  # noqa: BLE001, S112 - any property of a foreign object may raise anything
            continue
        if type(options) is not dict or not callable(function):
            continue
        if options.get("wrapper") or options.get("hookwrapper"):
            raise NotAPlugin(f"{name} is a hook wrapper, which can't cross to a worker in this version")
        specname = options.get("specname")
        flags = [bool(options.get(option)) for option in messages.OPTIONS[:3]]
        _add(hooks, described, name, function, [*flags, str(specname) if specname else None])
    if not hooks:
        raise NotAPlugin(f"nothing in it is marked with HookimplMarker({project!r})")
    return hooks, described


def _add(hooks: Hooks, described: list[list[object]], name: str, function: Any, options: list[object]) -> None:
    """Take a hook in, unless the host would refuse its description: that is the plugin's fault and is said as such."""
    found = parameters(function)
    entry: list[object] = [name, found, options]
    try:
        wire.check(entry)
        messages.Hook(entry)
    except (Unsendable, WireError) as e:
        raise NotAPlugin(f"hook {name!a:.100}: {e}") from None
    hooks[name] = function, tuple(str(parameter) for parameter, _ in found)
    described.append(entry)
    if len(described) > messages.HOOKS_LIMIT:
        raise NotAPlugin(f"it has more than {messages.HOOKS_LIMIT} hooks")


def parameters(function: Any) -> list[list[object]]:
    """[[name, repr of the default or None], …] of what pluggy passes by name: positional ones, without `self`.

    As pluggy reads them: of a class's ``__init__`` or an object's ``__call__``, through decorators (functools.wraps).
    """
    plain = function
    bound = isinstance(plain, type)
    if bound:
        plain = plain.__init__
    elif not hasattr(plain, "__code__") and not hasattr(plain, "__wrapped__"):
        plain = plain.__call__
    for _ in range(_DECORATORS):
        bound = bound or hasattr(plain, "__func__")
        plain = getattr(plain, "__func__", plain)
        if not hasattr(plain, "__wrapped__"):
            break
        plain = plain.__wrapped__
    code = getattr(plain, "__code__", None)
    if code is None:
        raise NotAPlugin(f"{clean(repr(function), 100)} has no Python signature")
    names = code.co_varnames[bound : code.co_argcount]
    defaults = getattr(plain, "__defaults__", None) or ()
    first = len(names) - len(defaults)
    return [[name, None if i < first else _brief(defaults[i - first])] for i, name in enumerate(names)]


def _brief(value: object) -> str:
    try:
        return clean(repr(value), messages.NAME_LIMIT)
    except Exception:  # noqa: BLE001 - a foreign __repr__ may raise anything
        return clean(f"<{type(value).__name__}>", messages.NAME_LIMIT)
