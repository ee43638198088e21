"""The call loop of a worker: one frame in, one call, one frame out, on the plugin's thread.

The thread is never the main one: signal handlers run only there, so no signal can raise inside the plugin, and the
plugin's frames end at its own entry (`design` in docs/architecture.md).
"""

from __future__ import annotations

import posix

from sandbox_worker import discovery, errors, messages, wire
from sandbox_worker.failure import clean, describe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

    from sandbox_worker.discovery import Hooks

CALLS, REPLIES, EVENTS = 3, 4, 5
"""The worker's descriptors: the spawner puts them there."""

EXIT_DONE: Final = 0
EXIT_BROKEN: Final = 83
"""Next to those of `boot`, apart from those of a lockdown's steps (`walls.steps`)."""

_CHUNK: Final = 1 << 16


class Channel:
    """The worker's end of the wire: blocking, one reader, one writer."""

    __slots__ = ("_encode", "_reader")

    def __init__(self) -> None:
        self._reader = wire.FrameReader(1 << 31)
        self._encode = wire.Encoder().encode

    def receive(self, read: Callable[[int, int], bytes] = posix.read) -> Any:
        """The next message, or None when the host is gone."""
        body = self._reader.next() if self._reader.pending else None
        while body is None:
            data = read(CALLS, _CHUNK)
            if not data:
                return None
            body = self._reader.feed(data)
        return wire.decode(body, trusted=True)

    def send(self, message: list[object], write: Callable[[int, bytes], int] = posix.write) -> None:
        """Send one message. Raises Unsendable before a byte is sent, BrokenPipeError when the host is gone."""
        self.send_frame(self._encode(message), write)

    def encode(self, message: list[object]) -> bytes:
        """The frame of one message, unsent."""
        return self._encode(message)

    def send_frame(self, frame: bytes, write: Callable[[int, bytes], int] = posix.write) -> None:
        """Send a whole frame."""
        sent = write(REPLIES, frame)
        while sent < len(frame):
            sent += write(REPLIES, frame[sent : sent + (1 << 20)])


def run(channel: Channel, settings: dict[str, Any]) -> NoReturn:
    """Import the plugin, report its hooks, answer calls until the host hangs up. Never returns."""
    try:
        hooks = _load(channel, settings)
        while True:
            call = channel.receive()
            if call is None:
                posix._exit(EXIT_DONE)
            _answer(channel, hooks, call, settings)
    except BrokenPipeError:
        posix._exit(EXIT_DONE)
    except BaseException:  # noqa: BLE001 - the loop itself must not fail; if it does, the process must not linger
        posix._exit(EXIT_BROKEN)


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


def _answer(channel: Channel, hooks: Hooks, call: list[Any], settings: dict[str, Any]) -> None:
    _, call_id, name, arguments = call
    before = errors.raised
    report: list[object] | None = None
    try:
        function, names = hooks[name]
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
    channel.send_frame(frame)


def _arranged(names: tuple[str, ...], arguments: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """By position wherever that says the same, as pluggy calls: a wrapper may take nothing but ``*args``."""
    given = names[: len(arguments)]
    if arguments.keys() == set(given):
        return [arguments[name] for name in given], {}
    return [], arguments
