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

    __slots__ = ("_asked", "_calls", "_channel", "_credit", "_flagged", "_hooks", "_lock", "_longest", "_settings")

    def __init__(self, channel: Channel, settings: dict[str, Any]) -> None:
        self._channel = channel
        self._settings = settings
        self._longest: Final = settings["result_size"] + wire.ENVELOPE
        self._hooks: Hooks = {}
        self._lock = _thread.RLock()
        self._calls: list[int] = []  # those that are open, the innermost last
        self._flagged: set[int] = set()  # those of them that are cancelled
        self._credit = 0  # items that the open stream may still send
        self._asked = 0

    def run(self) -> NoReturn:
        """Import the plugin, report its hooks, answer calls until the host hangs up. Never returns."""
        try:
            self._hooks = _load(self._channel, self._settings)
            receive = self._channel.receive
            while True:
                message = receive()
                if message is None:
                    posix._exit(EXIT_DONE)
                kind = message[0]
                if kind == messages.CALL or kind == messages.OPEN:  # noqa: PLR1714 - twice as fast as a tuple
                    self._answer(message)
                elif self._noted(message):
                    continue
                elif kind == messages.PING:
                    self._channel.send([messages.PONG, message[1]])
                else:
                    posix._exit(EXIT_BROKEN)
        except BrokenPipeError:
            posix._exit(EXIT_DONE)
        except BaseException:  # noqa: BLE001 - the loop itself must not fail; if it does, the process must not linger
            posix._exit(EXIT_BROKEN)

    def _receive(self) -> Any:
        """The next message that is no mere note about a call."""
        while True:
            message = self._channel.receive()
            if message is None:
                posix._exit(EXIT_DONE)
            kind = message[0]
            if kind == messages.CALL or not self._noted(message):
                return message

    def _noted(self, message: list[Any]) -> bool:
        """Take a note about an open call; one about a call that has ended came too late."""
        kind, call_id = message[0], message[1]
        if kind == messages.CANCEL:
            if call_id in self._calls:
                self._flagged.add(call_id)
        elif kind == messages.MORE:
            self._credit += message[2] if call_id in self._calls else 0
        else:
            return False
        return True

    def _answer(self, call: list[Any]) -> None:
        call_id, channel, before = call[1], self._channel, errors.raised
        report: list[object] | None = None
        self._calls.append(call_id)
        try:
            function, names = self._hooks[call[2]]
            arguments = call[3]
            # By position wherever that says the same, as pluggy calls: a wrapper may take nothing but `*args`.
            given = [arguments[name] for name in names[: len(arguments)] if name in arguments]
            value = function(*given) if len(given) == len(arguments) else function(**arguments)
            if call[0] == messages.OPEN:
                self._stream(call_id, value, call[4])
                value = None
            if type(value) not in wire.FLAT and wire.check(value) >= wire.APART:
                value = wire.Apart(value)
            try:
                frame = channel.encode([messages.RESULT, call_id, value, max(0, errors.raised - before)])
            except errors.Unsendable:
                wire.check(value)  # says more
                raise
            self._check_size(frame, "a result")
        except _TooLong as e:
            report = ["SerializationError", [str(e)], str(e), "", ["limit", "result_size"]]
        except BaseException as e:  # noqa: BLE001 - whatever the plugin raises is its answer
            report = describe(e, self._settings)
        if report is not None:
            frame = channel.encode([messages.ERROR, call_id, *report, max(0, errors.raised - before)])
        self._lock.acquire()  # in a call of its own, and so its release: `with` costs twice as much
        try:
            self._calls.pop()
            if self._flagged:
                self._flagged.discard(call_id)
            channel.send_frame(frame)
        finally:
            self._lock.release()

    def _stream(self, call_id: int, items: Any, credit: int) -> None:
        """Send what an iterator yields, as far as the host has given credit; a cancel is seen between two items."""
        if not hasattr(items, "__next__"):
            raise TypeError(f"a stream is an iterator, such as a generator, and not {type(items).__name__}")
        self._credit = credit
        try:
            for number, item in enumerate(items, 1):
                sent = wire.Apart(item) if wire.check(item) >= wire.APART else item
                frame = self._channel.encode([messages.ITEM, call_id, sent, number])
                self._check_size(frame, "an item")
                with self._lock:
                    self._listen()
                    while not self._credit and not self._flagged:
                        self._wait_for_note()
                    self._raise_cancelled()
                    self._credit -= 1
                    self._channel.send_frame(frame)
        finally:
            if hasattr(items, "close"):
                items.close()

    def _wait_for_note(self) -> None:
        message = self._channel.receive()
        if message is None:
            posix._exit(EXIT_DONE)
        if not self._noted(message):
            posix._exit(EXIT_BROKEN)

    def _check_size(self, frame: Any, what: str) -> None:
        if len(frame) > self._longest:
            limit = self._settings["result_size"]
            raise _TooLong(f"{what} of {len(frame)} bytes where result_size allows {limit}")

    def cancelled(self) -> bool:
        """Whether the call that runs is wanted no more. From any thread."""
        if self._lock.acquire(blocking=False):
            try:
                if self._calls:
                    self._listen()
            finally:
                self._lock.release()
        return bool(self._flagged)

    def _listen(self) -> None:
        """Take the notes that have come by now."""
        while (message := self._channel.poll()) is not None:
            if not self._noted(message):
                posix._exit(EXIT_BROKEN)

    def _raise_cancelled(self) -> None:
        if self._flagged:
            raise errors.Cancelled

    def ask(self, function: str, arguments: dict[str, Any]) -> Any:
        """Call a function of the application and wait for its answer. See `plugin_api.host` for what it raises."""
        sent: object = wire.Apart(arguments) if wire.check(arguments) >= wire.APART else arguments
        if len(arguments) > messages.PARAMETERS_LIMIT or max(map(len, (function, *arguments))) > messages.NAME_LIMIT:
            raise ValueError("no function has so long a name, or so many arguments, or one with so long a name")
        with self._lock:
            if not self._calls:
                raise RuntimeError("the application's functions can be called while one of the plugin's hooks runs")
            self._raise_cancelled()
            number = self._asked + 1
            frame = self._channel.encode([messages.ASK, self._calls[-1], number, function, sent])
            self._check_size(frame, "a question")
            self._asked = number
            self._channel.send_frame(frame)
            while True:
                message = self._receive()
                kind = message[0]
                if kind in (messages.CALL, messages.OPEN):
                    self._answer(message)
                    continue
                self._raise_cancelled()
                if kind == messages.ANSWER:
                    return message[2]
                raise _error(message)


class _TooLong(ValueError):
    """More than `result_size`."""


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
