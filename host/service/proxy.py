"""Real functions for pluggy: it reads a hook implementation's arguments from its code object, so a proxy that takes
``*args`` receives nothing (pluggy 1.7, `_hooks.varnames`).

No text that crossed is compiled: a template of the right arity is, once, and its code object then gets the names,
which were checked to be plain identifiers.
"""

from __future__ import annotations

import functools
import keyword
import types
from typing import TYPE_CHECKING, Any, Final, final

from host.model.sanitise import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sandbox_worker.messages import Hook


@final
class Omitted:
    """Default of a parameter whose default lives in the worker: not sent, so that the plugin's own applies."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = visible(text)

    def __repr__(self) -> str:
        return self._text


class BadHook(ValueError):
    """A worker reported a hook that can't become a function; the text says why."""


def check(hooks: Iterable[Hook], reserved: frozenset[str]) -> None:
    """Raise BadHook unless every hook and parameter is a plain name that collides with nothing."""
    seen = set()
    for hook in hooks:
        names = [hook.name, *(p.name for p in hook.parameters), *([hook.specname] if hook.specname else [])]
        for name in names:
            if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
                raise BadHook(f"{name!r} is no plain identifier")
        if hook.name.startswith("_") or hook.name in reserved:
            raise BadHook(f"a hook can't be called {hook.name!r}")
        if hook.name in seen or len({p.name for p in hook.parameters}) != len(hook.parameters):
            raise BadHook(f"{hook.name!r} comes twice, or a parameter of it does")
        seen.add(hook.name)


@functools.cache
def _template(arity: int) -> types.CodeType:
    """Code of ``def hook(p0, …): return invoke("hook", {"p0": p0, …})``, with `invoke` as its one global."""
    parameters = [f"p{i}" for i in range(arity)]
    arguments = ", ".join(f'"{name}": {name}' for name in parameters)
    source = f'def hook({", ".join(parameters)}): return invoke("hook", {{{arguments}}})'
    module = compile(source, "<hook>", "exec")
    return next(constant for constant in module.co_consts if isinstance(constant, types.CodeType))


def _named(constant: object, names: dict[str, str]) -> Any:
    """A constant of the template with the hook's own names; dicts have their keys in a tuple, or one by one."""
    if isinstance(constant, tuple):
        return tuple(names.get(key, key) for key in constant)
    return names.get(constant, constant) if isinstance(constant, str) else constant


_SOURCE: Final = "plugin {} (in its worker)"


def function(hook: Hook, plugin: str, project: str, call: Callable[[str, dict[str, Any]], Any]) -> types.FunctionType:
    """The function to register for `hook`: it calls ``call(name, arguments)`` with what pluggy passed."""
    names = tuple(parameter.name for parameter in hook.parameters)

    def given(name: str, arguments: dict[str, Any]) -> Any:
        return call(name, {n: value for n, value in arguments.items() if type(value) is not Omitted})

    template = _template(len(names))
    own = {"hook": hook.name} | {f"p{i}": name for i, name in enumerate(names)}
    code = template.replace(
        co_varnames=names,
        co_consts=tuple(_named(constant, own) for constant in template.co_consts),
        co_name=hook.name,
        co_qualname=hook.name,
        co_filename=_SOURCE.format(plugin),
    )
    defaults = tuple(Omitted(p.default) for p in hook.parameters if p.default is not None)
    made = types.FunctionType(code, {"invoke": given if defaults else call, "__name__": plugin}, hook.name, defaults)
    options = {
        "wrapper": False, "hookwrapper": False, "optionalhook": hook.optionalhook,
        "tryfirst": hook.tryfirst, "trylast": hook.trylast, "specname": hook.specname,
    }  # fmt: skip
    setattr(made, f"{project}_impl", options)
    return made
