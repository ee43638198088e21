"""Turns what a plugin raised into the bounded, plain data of an ERROR message."""

from __future__ import annotations

from sandbox_worker import messages
from sandbox_worker.errors import ImportDenied, PermissionDenied, Unsendable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Final

_EPERM, _ENOENT, _EACCES, _EMFILE, _EFBIG = 1, 2, 13, 24, 27  # errno(3)
_REFUSALS: Final = (_EPERM, _EACCES)
_REFUSALS_OF_A_VIEW: Final = (*_REFUSALS, _ENOENT)
"""In tier `walled` what is not granted is not there."""
_LIMIT_BY_ERRNO: Final = {_EMFILE: "open_files", _EFBIG: "file_size"}
_NO_THREAD: Final = ("can't start new thread",)
"""What CPython's thread module says where pthread_create(3) fails: there is no room for one more stack."""
_SCALARS: Final = (type(None), bool, int, float, str, bytes)


def describe(error: BaseException, rules: dict[str, Any]) -> list[object]:
    """[type, arguments, text, traceback, cause] of an ERROR message for `error`.

    `rules` are the worker's settings: an error that is the kernel's way to refuse a path is judged again with their
    path rules, so that what no rule allows is reported as the denial it is. Raises nothing: what an exception's own
    code gets in the way of is left out.
    """
    return [
        _attempt(_type_name, "an exception whose class has no name", error),
        _attempt(_arguments, [], error),
        _attempt(_text, "an exception whose text can't be made", error),
        _attempt(_traceback, "", error),
        _attempt(_cause, None, error, rules),
    ]


def clean(text: str, limit: int) -> str:
    """`text` as a plain str that can cross, of at most `limit` characters; a subclass of str has no say in it."""
    return str.encode(text, "utf-8", "backslashreplace").decode()[:limit]


def _attempt(make: Callable[..., Any], fallback: object, *arguments: object) -> Any:
    try:
        return make(*arguments)
    except BaseException:  # noqa: BLE001 - a foreign __str__ or property may raise anything, the error must still arrive
        return fallback


def _type_name(error: BaseException) -> str:
    kind = type(error)
    if kind is Unsendable:
        return "SerializationError"
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return clean(name, messages.NAME_LIMIT)


def _text(error: BaseException) -> str:
    return clean(str(error), messages.TEXT_LIMIT)


def _arguments(error: BaseException) -> list[object]:
    given = error.args
    if isinstance(error, OSError) and error.filename is not None and len(given) == 2:
        given = (*given, error.filename)
        if error.filename2 is not None:
            given = (*given, None, error.filename2)  # the third of them is Windows's
    arguments: list[object] = []
    for item in given[: messages.ARGUMENTS_LIMIT] if type(given) is tuple else ():
        kind = type(item)
        if kind not in _SCALARS or (kind is int and not -(1 << 63) <= item < 1 << 64):
            return [_text(error)]
        if kind is str:
            arguments.append(clean(item, messages.TEXT_LIMIT))
        else:
            arguments.append(item[: messages.TEXT_LIMIT] if kind is bytes else item)
    return arguments


def _cause(error: BaseException, rules: dict[str, Any]) -> list[object] | None:
    if isinstance(error, PermissionDenied | ImportDenied):
        layer = "broker" if error.permission == "host" else "audit_hook"
        return _denied(str(error.permission), str(error.target), layer)
    if isinstance(error, MemoryError):
        return ["limit", "memory"]
    if type(error) is RuntimeError and error.args == _NO_THREAD:
        return ["limit", "threads"]
    if isinstance(error, OSError):
        if error.errno in _LIMIT_BY_ERRNO:
            return ["limit", _LIMIT_BY_ERRNO[error.errno]]
        if error.errno in (_REFUSALS_OF_A_VIEW if rules.get("tier") == "walled" else _REFUSALS):
            return _judge_again(error, rules)
    return None


def _judge_again(error: OSError, rules: dict[str, Any]) -> list[object] | None:
    """The kernel refused a path: a denial if no rule allows anything there, an ordinary error otherwise.

    Whether it was to be read or written is not known here; where a rule allows either, the error says enough.
    """
    for name in (error.filename, error.filename2):
        if not isinstance(name, str | bytes):
            continue
        import os

        from sandbox_worker.permissions import path_verdict

        path = os.path.realpath(os.fsdecode(name))
        if all(path_verdict(path, *rules[kind]) != 1 for kind in ("read", "write")):
            return _denied("fs.read", path, "landlock")
    return None


def _denied(permission: str, target: str, layer: str) -> list[object]:
    return ["denied", clean(permission, messages.NAME_LIMIT), clean(target, messages.TARGET_LIMIT), layer]


def _traceback(error: BaseException) -> str:
    """The plugin's own part of the traceback; formatting imports, which may itself be refused or run out of memory."""
    import traceback

    start = error.__traceback__.tb_next if error.__traceback__ else None
    _cut_hook(start)
    text = "".join(traceback.format_exception(type(error), error, start))
    text = text if len(text) <= messages.TRACEBACK_LIMIT else "…" + text[1 - messages.TRACEBACK_LIMIT :]
    return clean(text, messages.TRACEBACK_LIMIT)


def _cut_hook(traceback: TracebackType | None) -> None:
    """End the traceback where the audit hook begins: how it decided says nothing to the plugin's author."""
    while traceback is not None and (following := traceback.tb_next) is not None:
        if following.tb_frame.f_code.co_filename.endswith("sandbox_worker/audit_hook.py"):
            traceback.tb_next = None
        traceback = traceback.tb_next
