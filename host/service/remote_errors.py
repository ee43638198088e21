"""What a worker says it raised, as an exception of the host: builtins as themselves, from a fixed table, all else as
PluginError. No class is looked up by a name that crossed except in that table, and no attribute is set from it.
"""

from __future__ import annotations

import builtins
import errno
import os
import types
from typing import TYPE_CHECKING, Final

from host.errors import PermissionDenied, PluginError, ResourceLimitExceeded
from host.model.sanitise import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox_worker.messages import Error

# Left out: groups hold exceptions, which do not cross; a StopIteration can't leave a coroutine (PEP 479), and would
# end a caller's loop silently; a syntax error's fields are indexes into text that the traceback module trusts.
_LEFT_OUT: Final = (BaseExceptionGroup, StopIteration, StopAsyncIteration, SyntaxError)
BUILTINS: Final[Mapping[str, type[Exception]]] = types.MappingProxyType(
    {
        name: value
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, Exception) and name == value.__name__
        if not issubclass(value, _LEFT_OUT)
    }
)


def rebuild(error: Error, plugin: str, hook: str, pid: int, hint: str) -> Exception:
    """The exception to raise for `error`. The remote traceback goes to its notes, made visible and bounded."""
    made = _make(error, plugin, hook, pid, hint)
    if error.traceback:
        made.add_note(f"in plugin {plugin}:\n{visible(error.traceback, 20_000, multiline=True)}")
    return made


def may_come_of(error: Error, target: str) -> bool:
    """Whether a refusal by the broker may have led to `error`: no permission, or no lock (flock), and no other file."""
    number = error.arguments[0] if error.arguments else None
    refused = error.type_name == "PermissionError" or (error.type_name == "OSError" and number == errno.ENOSYS)
    names = [name for name in error.arguments[2:] if isinstance(name, str | bytes)]
    return refused and all(os.path.realpath(os.fsdecode(name)) == target for name in names)


def add_hint(error: PermissionError, begins_later: Callable[[str], bool]) -> None:
    """Say of a file that the rules allow and the kernel does not yet, when it will. The names are a plugin's claims."""
    for name in (error.filename, error.filename2):
        if not isinstance(name, str) or not name.startswith("/") or "\0" in name:
            continue
        path = os.path.realpath(name)
        if begins_later(path):
            error.add_note(
                f"hint: {visible(path, 1000)} is granted from the next start on (restart()): it was not there when "
                "this worker started, and where a grant has a denied path in it, or names what does not exist yet, "
                "the kernel is told at the start what else is there"
            )
            return


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
    if kind is not None and (made := _builtin(kind, error.arguments)) is not None:
        return made
    name = visible(error.type_name, 200)
    return PluginError(f"plugin {plugin} raised {name}: {text}", remote_type=name, plugin=plugin, hook=hook)


def _builtin(kind: type[Exception], arguments: tuple[object, ...]) -> Exception | None:
    """An exception of `kind`, or None for arguments that it does not take: then it arrives as a PluginError."""
    if issubclass(kind, UnicodeError) and kind is not UnicodeError and not _in_range(arguments):
        return None
    # The object of a Unicode error is indexed by its start and end: made visible, it would be another text.
    shown = arguments if issubclass(kind, UnicodeError) else tuple(map(_shown, arguments))
    try:
        return kind(*shown)
    except (TypeError, ValueError, OverflowError):
        return None


def _shown(argument: object) -> object:
    return visible(argument, 8192, multiline=True) if isinstance(argument, str) else argument


def _in_range(arguments: tuple[object, ...]) -> bool:
    """Whether start and end of a Unicode error lie in its object: CPython reads there without looking."""
    match arguments[-4:]:
        case ((str() | bytes()) as text, int() as start, int() as end, str()):
            return 0 <= start < end <= len(text)
    return False
