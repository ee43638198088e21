"""The host's ends of a worker's two wire pipes: frames down, frames up, and how much of what was sent is unread.

Blocking, and without a thread of its own: whoever calls writes and reads itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import termios
from typing import Final

from sandbox_worker import wire
from sandbox_worker.errors import WireError

_CHUNK: Final = 1 << 16
_PIECE: Final = 1 << 20


class Conversation:
    """One connection; for one thread at a time. `sent` counts the bytes that went down so far."""

    __slots__ = ("_calls", "_reader", "_replies", "encode", "sent")

    def __init__(self, calls: int, replies: int) -> None:
        self._calls = calls
        self._replies = replies
        self._reader = wire.FrameReader(wire.CONTROL_LIMIT)
        self.sent = 0
        self.encode: Final = wire.Encoder().encode

    def limit_to(self, limit: int) -> None:
        """Take frames of at most `limit` bytes from now on."""
        self._reader.limit = limit

    def send(self, frame: bytes) -> None:
        """Write a whole frame. Raises OSError when the worker is gone."""
        done = os.write(self._calls, frame)
        self.sent += done
        if done < len(frame):
            rest = memoryview(frame)
            while done < len(frame):
                count = os.write(self._calls, rest[done : done + _PIECE])
                done += count
                self.sent += count

    def receive(self) -> bytes:
        """The next frame's body. Raises EOFError, OSError; WireError for a length beyond the limit."""
        body = self._reader.next() if self._reader.pending else None
        while body is None:
            data = os.read(self._replies, _CHUNK)
            if not data:
                raise EOFError
            body = self._reader.feed(data)
        return body

    def receive_last(self) -> bytes:
        """The next frame's body, and not a byte behind it: a worker has nothing to say unasked. Raises as `receive`."""
        body = self.receive()
        if self._reader.pending:
            raise WireError("bytes behind the reply")
        return body

    def unread_since(self, sent: int) -> bool:
        """True when the worker has read no byte of what was sent after `sent` bytes."""
        waiting = fcntl.ioctl(self._calls, termios.FIONREAD, b"\0\0\0\0")
        return int.from_bytes(waiting, sys.byteorder) >= self.sent - sent

    @property
    def open(self) -> bool:
        """False once the host hung up."""
        return self._calls >= 0

    def hang_up(self) -> None:
        """Close the way down, which tells a worker that waits for a call to end."""
        os.close(self._calls)
        self._calls = -1

    def abandon(self) -> None:
        """Close both ends."""
        ends = {self._calls, self._replies} - {-1}
        self._calls = self._replies = -1
        for descriptor in ends:
            with contextlib.suppress(OSError):
                os.close(descriptor)
