"""The spawner's end of its control socket: frames in with descriptors, frames out.

A frame is a 4-byte big-endian length and one msgpack array whose first item is its kind; text in it is UTF-8, bytes of
file names that are not UTF-8 as they are (surrogateescape, PEP 383). Descriptors come with the first byte of a frame
(SCM_RIGHTS, unix(7)). Whatever is not such a frame, the end of the stream and the death of the
host are all one thing, `HangUp`, for they all leave the spawner without a host that it could trust.
"""

from __future__ import annotations

import array
import os
import select
import socket

import msgpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

MAX_FRAME: Final = 4 << 20
"""Bytes in a frame, its length not counted: above what execve(2) takes as arguments and environment by default."""

DESCRIPTORS: Final = 5
"""The most that come with one frame."""

_INT_SIZE: Final = array.array("i").itemsize
_FLAGS: Final = socket.MSG_CMSG_CLOEXEC


class HangUp(Exception):
    """The host has gone, or speaks another language."""


class Control:
    """Owns `descriptor`, an AF_UNIX stream socket, and `host`, a pidfd of the process at its other end."""

    __slots__ = ("_host", "_poll", "_socket")

    def __init__(self, descriptor: int, host: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._host = host
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._poll.register(host, select.POLLIN)

    def wait(self, timeout: float | None, pidfds: tuple[int, ...] = ()) -> tuple[bool, list[int]]:
        """Wait for a frame or the end of one of `pidfds`, for at most `timeout` seconds (None: as long as it takes).

        Gives (a frame has begun to come, the pidfds whose processes have ended). HangUp when the host is dead.
        """
        for pidfd in pidfds:
            self._poll.register(pidfd, select.POLLIN)
        try:
            ready = {descriptor for descriptor, _ in self._poll.poll(None if timeout is None else timeout * 1000)}
        finally:
            for pidfd in pidfds:
                self._poll.unregister(pidfd)
        if self._host in ready:
            raise HangUp("the host is dead")
        return self._socket.fileno() in ready, [pidfd for pidfd in pidfds if pidfd in ready]

    def receive(self) -> tuple[list[Any], list[int]]:
        """The next frame's array and the descriptors that came with it (close-on-exec; the caller closes them)."""
        descriptors: list[int] = []
        size = int.from_bytes(self._read(4, descriptors), "big")
        if not 0 < size <= MAX_FRAME:
            raise HangUp(f"a frame of {size} bytes")
        body = self._read(size, descriptors)
        try:
            message = msgpack.unpackb(body, unicode_errors="surrogateescape")
        except ValueError as error:
            raise HangUp("a frame that is not msgpack") from error
        if not isinstance(message, list) or not message:
            raise HangUp("a frame that is not an array with a kind")
        return message, descriptors

    def send(self, *message: object) -> None:
        """Send one frame: its kind and what goes with it."""
        body = msgpack.packb(message, unicode_errors="surrogateescape")
        try:
            self._socket.sendall(len(body).to_bytes(4, "big") + body)
        except OSError as error:
            raise HangUp("the host has closed the control socket") from error

    def close(self) -> None:
        """Close the socket and the pidfd."""
        self._socket.close()
        os.close(self._host)

    def _read(self, size: int, descriptors: list[int]) -> bytes:
        data = bytearray()
        while len(data) < size:
            self.wait(None)  # so that the host's death is seen even when another process holds its end open
            try:
                chunk, ancillary, flags, _ = self._socket.recvmsg(
                    size - len(data), socket.CMSG_SPACE(DESCRIPTORS * _INT_SIZE), _FLAGS
                )
            except ConnectionResetError as error:  # it left an answer unread: unix(7)
                raise HangUp("the host has closed the control socket") from error
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors += array.array("i", content[: len(content) - len(content) % _INT_SIZE])
            if not chunk:
                raise HangUp("the host has closed the control socket")
            if flags & socket.MSG_CTRUNC:
                raise HangUp("more descriptors than a frame may bring, or than this process can hold")
            data += chunk
        return bytes(data)
