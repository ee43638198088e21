"""The worker's end of the wire: frames in on one pipe, frames out on another, both blocking."""

from __future__ import annotations

import posix

from sandbox_worker import wire
from sandbox_worker._msgpack import unpackb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

CALLS, REPLIES, EVENTS = 3, 4, 5
"""The worker's descriptors: the spawner puts them there."""

HEADER: Final = wire.HEADER
_SHORT: Final = 4096
"""Bytes that are taken for a whole frame at once; what is longer comes in pieces (PIPE_BUF, pipe(7))."""
_CHUNK: Final = 1 << 16
_PIECE: Final = 1 << 20  # what the host makes of the pipes for long frames


class Channel:
    """The worker's end of the wire: blocking, one reader, one writer."""

    __slots__ = ("_reader", "encode")

    def __init__(self) -> None:
        self._reader = wire.FrameReader(1 << 31, trusted=True)
        self.encode: Final = wire.Encoder().encode
        """As `wire.Encoder.encode`."""

    def receive(self, read: Callable[[int, int], bytes] = posix.read) -> Any:
        """The next message, or None when the host is gone."""
        reader = self._reader
        if reader.buffered:
            body = reader.next()
        else:
            data = read(CALLS, _CHUNK)
            if not data:
                return None
            if len(data) <= _SHORT:
                try:  # no value begins with another whole one: what reads as one is one frame
                    return unpackb(data[HEADER:])
                except ValueError:
                    pass
            body = reader.feed(data)
        while body is None:
            if reader.buffered and (space := reader.space()) is not None:
                count = posix.readv(CALLS, (space,))
                if not count:
                    return None
                body = reader.filled(count)
                continue
            data = read(CALLS, max(_CHUNK, min(reader.missing, _PIECE)) if reader.buffered else _CHUNK)
            if not data:
                return None
            body = reader.feed(data)
        return wire.decode(body, trusted=True)

    def poll(self) -> Any:
        """The next message if there is one, None if there is none yet. Ends the process when the host is gone."""
        body = self._reader.next() if self._reader.buffered else None
        if body is None:
            posix.set_blocking(CALLS, False)
            try:
                data = posix.read(CALLS, _CHUNK)
            except BlockingIOError:
                return None
            finally:
                posix.set_blocking(CALLS, True)
            if not data:
                posix._exit(0)
            body = self._reader.feed(data)
        return None if body is None else wire.decode(body, trusted=True)

    def send(self, message: list[object], write: Callable[[int, bytes], int] = posix.write) -> None:
        """Send one message. Raises Unsendable before a byte is sent, BrokenPipeError when the host is gone."""
        self.send_frame(self.encode(message), write)

    def send_frame(self, frame: Any, write: Callable[[int, Any], int] = posix.write) -> None:
        """Send a whole frame."""
        size = len(frame)
        if size > _CHUNK:
            _write_long(frame, write)
            return
        sent = write(REPLIES, frame)
        while sent < size:
            sent += write(REPLIES, frame[sent:])


def _write_long(frame: Any, write: Callable[[int, Any], int]) -> None:
    for piece in frame.pieces if type(frame) is wire.LongFrame else (memoryview(frame),):
        sent = 0
        while sent < len(piece):
            sent += write(REPLIES, piece[sent:])
