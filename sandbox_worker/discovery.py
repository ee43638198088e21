"""What a plugin implements: found here, inside the walls, and sent to the host as bounded text.

The marker that pluggy sets is an attribute `<project>_impl` holding six options; parameters are read from the code
object, so that neither pluggy nor inspect is imported for it.
"""

from __future__ import annotations

import sys

from sandbox_worker import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Hooks = dict[str, Callable[..., Any]]


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
        hooks[hook] = function
        described.append([hook, parameters(function), [False, False, False, None]])
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
        hooks[name] = function
        described.append([name, parameters(function), [*flags, str(specname) if specname else None]])
    if not hooks:
        raise NotAPlugin(f"nothing in it is marked with HookimplMarker({project!r})")
    return hooks, described


def parameters(function: Any) -> list[list[object]]:
    """[[name, repr of the default or None], …] of what pluggy passes by name: positional ones, without `self`."""
    if isinstance(function, type):
        function, bound = vars(function).get("__init__", object.__init__), 1
    else:
        bound = 1 if hasattr(function, "__self__") and hasattr(function, "__func__") else 0
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        function = vars(type(function)).get("__call__")
        code, bound = getattr(function, "__code__", None), 1
    if code is None:
        raise NotAPlugin(f"{function!r:.100} has no Python signature")
    names = code.co_varnames[bound : code.co_argcount]
    defaults = getattr(function, "__defaults__", None) or ()
    first = len(names) - len(defaults)
    return [[name, None if i < first else _brief(defaults[i - first])] for i, name in enumerate(names)]


def _brief(value: object) -> str:
    try:
        return repr(value)[: messages.NAME_LIMIT]
    except Exception:  # noqa: BLE001 - a foreign __repr__ may raise anything
        return f"<{type(value).__name__}>"[: messages.NAME_LIMIT]
