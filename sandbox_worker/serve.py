"""The call loop of a worker: one frame in, one call, one frame out, on the plugin's thread.

The thread is never the main one: signal handlers run only there, so no signal can raise inside the plugin, and the
plugin's frames end at its own entry (`design` in docs/architecture.md).

While the plugin waits for a function of the application, whoever waits serves what the host calls meanwhile. One lock
goes with the wire: a reply and a conversation of another thread never mix.
"""

from __future__ import annotations

import _thread
import builtins
import posix

from sandbox_worker import discovery, errors, messages, wire
from sandbox_worker.failure import clean, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

    from sandbox_worker.channel import Channel
    from sandbox_worker.discovery import Hooks

EXIT_DONE: Final = 0
EXIT_BROKEN: Final = 83
"""Next to those of `boot`, apart from those of a lockdown's steps (`walls.steps`)."""


class Server:
    """The plugin of this worker, as the host calls it."""

    __slots__ = ("_asked", "_calls", "_channel", "_hooks", "_lock", "_settings")

    def __init__(self, channel: Channel, settings: dict[str, Any]) -> None:
        self._channel = channel
        self._settings = settings
        self._hooks: Hooks = {}
        self._lock = _thread.RLock()
        self._calls: list[int] = []  # those that are open, the innermost last
        self._asked = 0

    def run(self) -> NoReturn:
        """Import the plugin, report its hooks, answer calls until the host hangs up. Never returns."""
        try:
            self._hooks = _load(self._channel, self._settings)
            while True:
                message = self._channel.receive()
                if message is None:
                    posix._exit(EXIT_DONE)
                if message[0] != messages.CALL:
                    posix._exit(EXIT_BROKEN)
                self._answer(message)
        except BrokenPipeError:
            posix._exit(EXIT_DONE)
        except BaseException:  # noqa: BLE001 - the loop itself must not fail; if it does, the process must not linger
            posix._exit(EXIT_BROKEN)

    def _answer(self, call: list[Any]) -> None:
        _, call_id, name, arguments = call
        channel, settings, before = self._channel, self._settings, errors.raised
        report: list[object] | None = None
        self._calls.append(call_id)
        try:
            function, names = self._hooks[name]
            positional, named = _arranged(names, arguments)
            value = function(*positional, **named)
            wire.check(value)
            frame = channel.encode([messages.RESULT, call_id, value, max(0, errors.raised - before)])
            if len(frame) > settings["result_size"] + wire.ENVELOPE:
                text = f"a result of {len(frame)} bytes where result_size allows {settings['result_size']}"
                report = ["SerializationError", [text], text, "", ["limit", "result_size"]]
        except BaseException as e:  # noqa: BLE001 - whatever the plugin raises is its answer
            report = describe(e, settings)
        if report is not None:
            frame = channel.encode([messages.ERROR, call_id, *report, max(0, errors.raised - before)])
        with self._lock:
            self._calls.pop()
            channel.send_frame(frame)

    def ask(self, function: str, arguments: dict[str, Any]) -> Any:
        """Call a function of the application and wait for its answer. See `plugin_api.host` for what it raises."""
        wire.check(arguments)
        with self._lock:
            if not self._calls:
                raise RuntimeError("the application's functions can be called while one of the plugin's hooks runs")
            self._asked += 1
            self._channel.send([messages.ASK, self._calls[-1], self._asked, function, arguments])
            while True:
                message = self._channel.receive()
                if message is None:
                    posix._exit(EXIT_DONE)
                kind = message[0]
                if kind == messages.CALL:
                    self._answer(message)
                elif kind == messages.ANSWER:
                    return message[2]
                else:
                    raise _error(message)


def _error(message: list[Any]) -> Exception:
    """What an ask that had no answer raises."""
    kind, _, name, text = message
    if kind == messages.REFUSAL:
        return errors.PermissionDenied("host", name, text)
    if kind != messages.FAILURE:
        posix._exit(EXIT_BROKEN)
    kind = getattr(builtins, name) if name in messages.FUNCTION_ERRORS else errors.HostFunctionError
    found: Exception = kind(text)
    return found


def _load(channel: Channel, settings: dict[str, Any]) -> Hooks:
    stage = "import"
    try:
        if settings["functions"]:
            hooks, described = discovery.from_functions(settings["functions"])
        else:
            plugin = discovery.resolve(settings["entry"])
            stage = "hooks"
            hooks, described = discovery.from_plugin(plugin, settings["project"])
        frame = channel.encode([messages.HOOKS, described])
    except discovery.NotAPlugin as e:
        frame = channel.encode([messages.FAILED, "hooks", clean(str(e), messages.TEXT_LIMIT), None])
    except BaseException as e:  # noqa: BLE001 - a plugin's module may raise anything, SystemExit included
        _, _, text, traceback, cause = describe(e, settings)
        limit = cause[1] if type(cause) is list and cause[0] == "limit" else None
        frame = channel.encode([messages.FAILED, stage, traceback or text, limit])
    else:
        channel.send_frame(frame)
        return hooks
    channel.send_frame(frame)
    posix._exit(EXIT_DONE)


def _arranged(names: tuple[str, ...], arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """By position wherever that says the same, as pluggy calls: a wrapper may take nothing but ``*args``."""
    given = names[: len(arguments)]
    if arguments.keys() == set(given):
        return [arguments[name] for name in given], {}
    return [], arguments
