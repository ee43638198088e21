"""What a worker says it raised, as an exception of the host: builtins as themselves, from a fixed table, all else as
PluginError. No class is looked up by a name that crossed except in that table, and no attribute is set from it.
"""

from __future__ import annotations

import builtins
import types
from typing import TYPE_CHECKING, Final

from host.errors import PermissionDenied, PluginError, ResourceLimitExceeded
from host.model.sanitise import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_worker.messages import Error

# ExceptionGroup holds exceptions, which do not cross; warnings are raised only where a filter asks for it, but may be.
BUILTINS: Final[Mapping[str, type[Exception]]] = types.MappingProxyType(
    {
        name: value
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, Exception) and name == value.__name__
        if not issubclass(value, BaseExceptionGroup)
    }
)


def rebuild(error: Error, plugin: str, hook: str, pid: int, hint: str) -> Exception:
    """The exception to raise for `error`. The remote traceback goes to its notes, made visible and bounded."""
    made = _make(error, plugin, hook, pid, hint)
    if error.traceback:
        made.add_note(f"in plugin {plugin}:\n{visible(error.traceback, 20_000, multiline=True)}")
    return made


def _make(error: Error, plugin: str, hook: str, pid: int, hint: str) -> Exception:
    text = visible(error.text, multiline=True)
    if error.cause is not None and error.cause[0] == "denied":
        permission, target, layer = visible(error.cause[1], 100), visible(error.cause[2], 1000), error.cause[3]
        message = f"plugin {plugin} was refused {permission} of {target} by {layer} ({hint})"
        return PermissionDenied(
            message, permission=permission, target=target, hint=hint, layer=layer, plugin=plugin, hook=hook
        )
    if error.cause is not None:
        limit = error.cause[1]
        message = f"plugin {plugin} exceeded its limit of {limit}: {text}"
        return ResourceLimitExceeded(message, limit=limit, plugin=plugin, hook=hook, pid=pid)
    kind = BUILTINS.get(error.type_name)
    if kind is not None:
        try:
            return kind(*(visible(a, 8192, multiline=True) if isinstance(a, str) else a for a in error.arguments))
        except (TypeError, ValueError):
            pass  # arguments that this builtin does not take: it arrives as a PluginError
    name = visible(error.type_name, 200)
    return PluginError(f"plugin {plugin} raised {name}: {text}", remote_type=name, plugin=plugin, hook=hook)
