"""The host's ends of a worker's two wire pipes: frames down, frames up, and how much of what was sent is unread.

Blocking, and without a thread of its own: whoever calls writes and reads itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import termios
import threading
from typing import Any, Final

from sandbox_worker import wire
from sandbox_worker.errors import WireError

HEADER: Final = wire.HEADER
_CHUNK: Final = 1 << 16
"""What a pipe holds at first (pipe(7))."""
_PIECE: Final = 1 << 20
_ATOMIC: Final = select.PIPE_BUF
"""Bytes that go through a pipe in one piece (pipe(7))."""
_length_of: Final = struct.Struct(">I").unpack_from
_MOMENT: Final = 0.005
"""Seconds for which a note waits while another frame is written."""


class Conversation:
    """One connection; for one thread at a time, but for `note`. `sent` counts the bytes that went down so far."""

    __slots__ = (
        "_calls", "_reader", "_wide_down", "_wide_up", "_writing", "at_once", "behind", "encode", "replies", "sent",
    )  # fmt: skip

    def __init__(self, calls: int, replies: int) -> None:
        self._calls = calls
        self.replies = replies
        self.at_once: Final = fcntl.fcntl(calls, fcntl.F_GETPIPE_SZ) // 2
        """Bytes that never wait where little else was sent; a user with many pipes has small ones (pipe(7))."""
        self._reader = wire.FrameReader(wire.CONTROL_LIMIT)
        self.behind: Final = self._reader.buffered
        """What came behind the last frame."""
        self.sent = 0
        self._wide_down = self._wide_up = False
        self._writing = threading.Lock()
        self.encode: Final = wire.Encoder().encode

    def limit_to(self, limit: int) -> None:
        """Take frames of at most `limit` bytes from now on."""
        self._reader.limit = limit

    def send(self, frame: Any) -> None:
        """Write a whole frame, bytes or a LongFrame. Raises OSError when the worker is gone."""
        if len(frame) <= _ATOMIC:  # it neither mixes with a note nor has to wait for one
            done = os.write(self._calls, frame)
            self.sent += done
        else:
            self._send_more(frame)

    def _send_more(self, frame: Any) -> None:
        with self._writing:
            if len(frame) > _CHUNK:
                self._send_long(frame)
                return
            done = os.write(self._calls, frame)
            self.sent += done
            if done < len(frame):
                self._write(memoryview(frame)[done:])

    def _send_long(self, frame: Any) -> None:
        if not self._wide_down:
            self._wide_down = True
            widen(self._calls)
        for piece in frame.pieces if isinstance(frame, wire.LongFrame) else (memoryview(frame),):
            self._write(piece)

    def _write(self, piece: memoryview) -> None:
        while piece:
            done = os.write(self._calls, piece)
            self.sent += done
            piece = piece[done:]

    def note(self, frame: bytes) -> bool:
        """Write a short frame from any thread, and hardly wait for it; whether it was written.

        A pipe that is ready takes up to PIPE_BUF bytes at once (pipe(7)). One that is not is full of what the worker
        does not read; then another thread may be at it for long.
        """
        if not self._writing.acquire(timeout=_MOMENT):
            return False
        try:
            calls = self._calls
            if calls < 0:  # hung up on, or abandoned in a forked child
                return False
            poll = select.poll()
            poll.register(calls, select.POLLOUT)
            if not poll.poll(0):
                return False
            done = os.write(calls, frame)
            self.sent += done  # not in one with the write, during which another thread may count
        except OSError:
            return False
        finally:
            self._writing.release()
        return True

    def receive(self) -> wire.Body:
        """The next frame's body. Raises EOFError, OSError; WireError for a length beyond the limit."""
        body = self._reader.next() if self._reader.buffered else None
        while body is None:
            body = self.read()
        return body

    def read(self) -> wire.Body | None:
        """`receive` by exactly one read, behind the last whole frame; None when more of it is to come."""
        if self.behind:
            return self._read_on()
        data = os.read(self.replies, _CHUNK)
        if not data:
            raise EOFError
        reader = self._reader
        if len(data) >= HEADER:
            (length,) = _length_of(data)
            if length == len(data) - HEADER and length <= reader.limit:
                return data[HEADER:]
        return reader.feed(data)

    def _read_on(self) -> wire.Body | None:
        """`read` where a frame has begun: more at once, and through a wider pipe, once that is known to be long."""
        reader = self._reader
        missing = reader.missing
        if missing > _CHUNK and not self._wide_up:
            self._wide_up = True
            widen(self.replies)
        space = reader.space()
        if space is not None:
            count = os.readv(self.replies, (space,))
            if not count:
                raise EOFError
            return reader.filled(count)
        data = os.read(self.replies, min(max(missing, _CHUNK), _PIECE))
        if not data:
            raise EOFError
        return reader.feed(data)

    def receive_last(self) -> wire.Body:
        """The next frame's body, and not a byte behind it: a worker has nothing to say unasked. Raises as `receive`."""
        body = self.receive()
        self.expect_nothing()
        return body

    def expect_nothing(self) -> None:
        """Raise WireError if anything came behind the last frame."""
        if self.behind:
            raise WireError("bytes behind the reply")

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
        with self._writing:
            end, self._calls = self._calls, -1  # first: who is interrupted may come again, and the number be another's
            if end >= 0:
                os.close(end)

    def abandon(self) -> None:
        """Close both ends."""
        ends = {self._calls, self.replies} - {-1}
        self._calls = self.replies = -1
        for descriptor in ends:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def widen(pipe: int) -> None:
    """Let a pipe hold more at once, for the rest of its life: fewer changes between two processes.

    A user who has too many such pipes is refused (pipe(7), pipe-user-pages-soft), and goes on with what there is.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIECE)
