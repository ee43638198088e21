"""The messages on the wire, and the check of every field on receipt.

host to worker                                 worker to host
[INIT, settings]                               [READY, proofs]        locked down and proven; the plugin is not loaded
[CALL, id, hook, arguments]                    [HOOKS, hooks]         the plugin is imported; what it implements
                                               [FAILED, stage, text, limit]  it could not be
                                               [RESULT, id, value, denials]
                                               [ERROR, id, type, arguments, text, traceback, cause, denials]
[OPEN, id, hook, arguments, credit]            [ITEM, id, value, number]  one of a stream, which RESULT or ERROR ends
[MORE, id, credit]                             further items may come
[CANCEL, id]                                   the call, and all within it, is wanted no more
[PING, number]                                 [PONG, number]
[ANSWER, ask, value]                           [ASK, id, ask, function, arguments]  calls a function of the application
[REFUSAL, ask, function, reason]               the plugin may not call it
[FAILURE, ask, type, text]                     it raised

Between a call and its reply the worker may ask, and waits for the answer; between an ask and its answer the host may
call, and waits for the reply. So calls and asks nest like brackets. A CANCEL or MORE whose call has ended came too late
and is passed over.

`settings` and `proofs` are maps (below); `denials` counts the refusals of this call, whose records came over the event
pipe; `cause` is None, ["denied", kind, target, layer] or ["limit", name]. Ids of calls and of asks start at 1. Worker
input is hostile: each parser raises WireError unless every field has exactly the type and the bounds written here.
"""

from __future__ import annotations

from sandbox_worker.errors import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn

    Result = list[object]
    """A RESULT, checked: [RESULT, id, value, denials]."""

INIT: Final = 0
CALL: Final = 1
ANSWER: Final = 2
REFUSAL: Final = 3
FAILURE: Final = 4
OPEN: Final = 5
MORE: Final = 6
CANCEL: Final = 7
PING: Final = 8
READY: Final = 16
HOOKS: Final = 17
FAILED: Final = 18
RESULT: Final = 19
ERROR: Final = 20
ASK: Final = 21
ITEM: Final = 22
PONG: Final = 23

NAME_LIMIT: Final = 200
TEXT_LIMIT: Final = 8192
TRACEBACK_LIMIT: Final = 16384
TARGET_LIMIT: Final = 1000
HOOKS_LIMIT: Final = 1000
PARAMETERS_LIMIT: Final = 100
ARGUMENTS_LIMIT: Final = 16
EVENTS_LIMIT: Final = 1000
"""Denials that are read at once."""

RESOLVE_PREFIX: Final = "/proc/self/plughold-resolve/"
"""A worker that opens this and a name asks the broker to look the name up: no file of this name ever exists."""

LAYERS: Final = ("audit_hook", "landlock", "seccomp", "broker")
LIMITS: Final = ("memory", "open_files", "file_size", "result_size", "threads")
STAGES: Final = ("lockdown", "import", "hooks")
FUNCTION_ERRORS: Final = (
    "ArithmeticError", "AssertionError", "AttributeError", "ConnectionError", "FileExistsError", "FileNotFoundError",
    "IndexError", "KeyError", "LookupError", "NotImplementedError", "OSError", "OverflowError", "PermissionError",
    "RuntimeError", "TimeoutError", "TypeError", "ValueError", "ZeroDivisionError",
)  # fmt: skip
"""What an application's function may raise in a plugin; all else arrives there as HostFunctionError."""
OPTIONS: Final = ("tryfirst", "trylast", "optionalhook", "specname")

_SCALARS: Final = (type(None), bool, int, float, str, bytes)


def _refuse(what: str) -> NoReturn:
    raise WireError(f"{what} does not have the form that the protocol gives it")


def _text(value: object, limit: int, what: str) -> str:
    if type(value) is not str or len(value) > limit:
        _refuse(what)
    return value


def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 31:
        _refuse(what)
    return value


def _array(value: object, length: int, what: str) -> list[object]:
    if type(value) is not list or len(value) != length:
        _refuse(what)
    return value


def kind_of(message: object) -> int:
    """The kind of a decoded message."""
    if type(message) is not list or not message or type(message[0]) is not int:
        _refuse("a message")
    return message[0]


class Error:
    """A call's failure, as text and plain data; see `ERROR` in the module's docstring."""

    __slots__ = ("arguments", "cause", "denials", "text", "traceback", "type_name")

    def __init__(self, fields: list[object]) -> None:
        _array(fields, 8, "an error")
        self.type_name = _text(fields[2], NAME_LIMIT, "an error's type")
        self.arguments = _plain_arguments(fields[3])
        self.text = _text(fields[4], TEXT_LIMIT, "an error's text")
        self.traceback = _text(fields[5], TRACEBACK_LIMIT, "an error's traceback")
        self.cause = _cause(fields[6])
        self.denials = _count(fields[7], "a count of denials")


def _plain_arguments(value: object) -> tuple[object, ...]:
    if type(value) is not list or len(value) > ARGUMENTS_LIMIT:
        _refuse("an error's arguments")
    for item in value:
        if type(item) not in _SCALARS or (type(item) in (str, bytes) and len(item) > TEXT_LIMIT):
            _refuse("an error's argument")
    return tuple(value)


def _cause(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if type(value) is list and len(value) == 4 and value[0] == "denied":
        kind = _text(value[1], NAME_LIMIT, "a denial's permission")
        target = _text(value[2], TARGET_LIMIT, "a denial's target")
        if value[3] not in LAYERS:
            _refuse("a denial's layer")
        return ("denied", kind, target, str(value[3]))
    if type(value) is list and len(value) == 2 and value[0] == "limit" and value[1] in LIMITS:
        return ("limit", str(value[1]))
    _refuse("an error's cause")


class Ask:
    """A plugin's call of a function of the application; `arguments` are plain data, their names any texts."""

    __slots__ = ("arguments", "function", "id")

    def __init__(self, fields: list[object]) -> None:
        self.id = _count(fields[2], "the id of an ask")
        self.function = _text(fields[3], NAME_LIMIT, "a function's name")
        arguments = fields[4]
        if type(arguments) is not dict or len(arguments) > PARAMETERS_LIMIT:
            _refuse("a function's arguments")
        self.arguments = {_text(name, NAME_LIMIT, "an argument's name"): value for name, value in arguments.items()}


class Item:
    """One item of a stream: the plain `value`, and its `number`, from 1 on."""

    __slots__ = ("number", "value")

    def __init__(self, value: object, number: object) -> None:
        self.value = value
        self.number = _count(number, "an item's number")


def reply_to(call_id: int, message: object) -> Result | Error | Ask | Item:
    """What comes back for the innermost call that is open. Raises WireError for any other message or id."""
    if type(message) is not list or len(message) < 4 or type(message[1]) is not int or message[1] != call_id:
        raise WireError(f"no reply to call {call_id}")
    if type(message[0]) is int:
        if message[0] == RESULT and len(message) == 4:
            if type(message[3]) is int and 0 <= message[3] < 1 << 31:
                return message
        elif message[0] == ERROR:
            return Error(message)
        if message[0] == ASK and len(message) == 5:
            return Ask(message)
        if message[0] == ITEM and len(message) == 4:
            return Item(message[2], message[3])
    raise WireError(f"no reply to call {call_id}")


def pong_of(message: object) -> int:
    """The number of a PONG. Raises WireError for any other message."""
    if kind_of(message) != PONG:
        raise WireError("no reply to a ping")
    return _count(_array(message, 2, "a PONG")[1], "a ping's number")


class Ready:
    """A worker's claim that it is locked down: what the host checks against its own plan."""

    __slots__ = ("modules", "pid", "proofs", "tier", "version")

    def __init__(self, message: object) -> None:
        fields = _array(_array(message, 2, "a READY")[1], 5, "a READY")
        self.version = _count(fields[0], "a protocol version")
        self.pid = _count(fields[1], "a pid")
        self.tier = _text(fields[2], NAME_LIMIT, "a tier")
        self.modules = _names(fields[3], 500, "a list of modules")
        self.proofs = _names(fields[4], 50, "a list of proofs")


def _names(value: object, limit: int, what: str) -> tuple[str, ...]:
    if type(value) is not list or len(value) > limit:
        _refuse(what)
    return tuple(_text(item, NAME_LIMIT, what) for item in value)


class Parameter:
    """One parameter of a hook; `default` is the repr of its default, or None where it has none."""

    __slots__ = ("default", "name")

    def __init__(self, fields: object) -> None:
        name, default = _array(fields, 2, "a parameter")
        self.name = _text(name, NAME_LIMIT, "a parameter's name")
        self.default = None if default is None else _text(default, NAME_LIMIT, "a parameter's default")

    def __eq__(self, other: object) -> bool:
        return type(other) is Parameter and (self.name, self.default is None) == (other.name, other.default is None)

    def __hash__(self) -> int:
        return hash(self.name)


class Hook:
    """One hook that a plugin implements: its name, parameters, and pluggy's options."""

    __slots__ = ("name", "optionalhook", "parameters", "specname", "tryfirst", "trylast")

    def __init__(self, fields: object) -> None:
        name, parameters, options = _array(fields, 3, "a hook")
        self.name = _text(name, NAME_LIMIT, "a hook's name")
        if type(parameters) is not list or len(parameters) > PARAMETERS_LIMIT:
            _refuse("a hook's parameters")
        self.parameters = tuple(map(Parameter, parameters))
        tryfirst, trylast, optionalhook, specname = _array(options, 4, "a hook's options")
        if {type(tryfirst), type(trylast), type(optionalhook)} != {bool}:
            _refuse("a hook's options")
        self.tryfirst, self.trylast, self.optionalhook = bool(tryfirst), bool(trylast), bool(optionalhook)
        self.specname = None if specname is None else _text(specname, NAME_LIMIT, "a hook's specname")

    def shape(self) -> tuple[object, ...]:
        """What a restarted worker must report again."""
        return (self.name, self.parameters, self.tryfirst, self.trylast, self.optionalhook, self.specname)


def hooks_of(message: object) -> tuple[Hook, ...]:
    """The hooks of a HOOKS message."""
    hooks = _array(message, 2, "HOOKS")[1]
    if type(hooks) is not list or len(hooks) > HOOKS_LIMIT:
        _refuse("a list of hooks")
    return tuple(map(Hook, hooks))


def failure_of(message: object) -> tuple[str, str, str | None]:
    """(stage, text, limit that was exceeded or None) of a FAILED message."""
    _, stage, text, limit = _array(message, 4, "FAILED")
    if stage not in STAGES or limit not in (None, *LIMITS):
        _refuse("a stage")
    return str(stage), _text(text, TRACEBACK_LIMIT, "a failure's text"), None if limit is None else str(limit)


DROP: Final = "drop "
"""A record on the event pipe whose kind begins so is no denial: the plugin gives up the permission that follows."""


LOG: Final = "log "
"""A record whose kind begins so is none either: level, a space and the logger's name follow, the target is the text."""
LOG_LIMIT: Final = 3000
"""Bytes of such a text; with kind and lengths it is less than PIPE_BUF (pipe(7))."""


def event_record(
    kind: str, target: str, deny_rule: bool, limit: int = TARGET_LIMIT, size: Callable[..., int] = len
) -> bytes:
    """One denial on the event pipe: flag, two lengths, kind, target. At most PIPE_BUF bytes, so it is written whole.

    The audit hook runs this very code with empty globals: it may use nothing but its arguments.
    """
    name = kind.encode("utf-8", "backslashreplace")[:100]
    text = target.encode("utf-8", "backslashreplace")[:limit]
    flag = b"\x01" if deny_rule else b"\x00"
    return flag + size(name).to_bytes(1, "big") + size(text).to_bytes(2, "big") + name + text


def events_of(data: bytes, most: int = EVENTS_LIMIT) -> tuple[list[tuple[str, str, bool]], bytes]:
    """The denials in what was read from an event pipe, as (kind, target, by a deny rule), and the rest to read on with.

    Nothing is trusted but the lengths' own bounds: what a plugin writes there is its own claim. Behind `most` denials
    all else is dropped: a flood costs the host no more than that.
    """
    found: list[tuple[str, str, bool]] = []
    at = 0
    while len(data) - at >= 4:
        name_end = at + 4 + data[at + 1]
        end = name_end + int.from_bytes(data[at + 2 : at + 4], "big")
        if len(data) < end:
            break
        kind = data[at + 4 : name_end].decode("utf-8", "backslashreplace")
        if len(found) >= most:
            return found, b""
        limit = LOG_LIMIT if kind.startswith(LOG) else TARGET_LIMIT
        found.append((kind, data[name_end:end][:limit].decode("utf-8", "backslashreplace"), data[at] == 1))
        at = end
    return found, data[at:]
