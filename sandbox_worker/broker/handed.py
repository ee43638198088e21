"""The way where the kernel can't ask: a worker's Python code hands its call over, with the socket that is meant.

Over the worker's channel, a unix socket of packets, comes what to do and with what address, as one packet; with it, as
descriptors, one end of a socket pair for the answer, and the worker's socket (SCM_RIGHTS, unix(7)). What the broker
acts upon is that very open file and its own copy of the address. All of it is hostile: a packet that makes no sense is
answered with EPERM, if there is something to answer to.

    packet   b"c" + struct sockaddr    connect            answer   errno, 4 bytes, little-endian
             b"b" + struct sockaddr    bind                        then, for a name, its addresses: each a byte with
             b"l" + 4 bytes, backlog   listen                      its size and its bytes
             b"n" + name, ASCII        look up                     with a socket that takes the worker's one's place,
                                                                   where that was made in a network of its own
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

LOOK_UP: Final = -2
"""Stands for looking up a name, where other calls have their numbers."""
NUMBERS: Final = {"connect": -3, "bind": -4, "listen": -5}
"""Of calls that are handed over: the machine may be one whose numbers are not known."""
_NO_CALL: Final = -1
_KINDS: Final = {b"n": LOOK_UP, b"c": NUMBERS["connect"], b"b": NUMBERS["bind"], b"l": NUMBERS["listen"]}
_PACKET_MAX: Final = 512


class HandedCall:
    """One call that was handed over. Owns its descriptors."""

    __slots__ = ("_reply", "_socket", "content", "gift", "number")

    def __init__(self, packet: bytes, descriptors: list[int]) -> None:
        self.content = packet[1:]
        self.number = _KINDS.get(packet[:1], _NO_CALL)
        self.gift: socket.socket | None = None
        self._reply, self._socket = (*descriptors, -1, -1)[:2]

    @property
    def name(self) -> str:
        """The name that is to be looked up."""
        return self.content.decode("ascii", "replace")

    def integer(self, index: int) -> int:  # noqa: ARG002 - listen(2) has one such argument
        """The backlog."""
        return int.from_bytes(self.content[:4], "little")

    def descriptor(self) -> int:
        """The worker's socket, still owned by this call. OSError for what is none."""
        if self._socket < 0:
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        return self._socket

    def reply(self, data: bytes) -> None:
        """Send the answer, if it is waited for, and close everything."""
        with contextlib.suppress(OSError, ValueError):  # it came without one, or with something else
            reply = socket.socket(fileno=self._reply)
            self._reply = -1
            rights = [self.gift.fileno()] if self.gift else []
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", rights))] if rights else []
            with reply:
                reply.sendmsg([data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        self.close()

    def waits(self) -> bool:
        """Whether somebody is there to take the answer."""
        if self._reply < 0:
            return False
        poll = select.poll()
        poll.register(self._reply, 0)
        return not poll.poll(0)

    def close(self) -> None:
        """Close its descriptors. Idempotent."""
        for descriptor in (self._reply, self._socket):
            if descriptor >= 0:
                os.close(descriptor)
        self._reply = self._socket = -1
        if self.gift is not None:
            self.gift.close()
            self.gift = None


class Handed:
    """The calls of one worker. Owns `channel`, the broker's end. One thread at a time receives; any answers."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def receive(self) -> HandedCall | None:
        """The next call; None when the worker is gone, or sends what no worker of ours sends."""
        try:
            packet, descriptors, _, _ = socket.recv_fds(self._channel, _PACKET_MAX, 2, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        call = HandedCall(packet, descriptors)
        if not packet:
            call.close()
            return None
        return call

    def answer(self, call: HandedCall, value: int, addresses: Iterable[bytes] = ()) -> None:
        """0 or a negated errno, and the addresses of a name."""
        error = (-min(value, 0)).to_bytes(4, "little")
        call.reply(error + b"".join(len(address).to_bytes(1, "little") + address for address in addresses))

    def waits(self, call: HandedCall) -> bool:
        """Whether the worker still waits for the answer."""
        return call.waits()

    def address(self, call: HandedCall) -> bytes:
        """The address that came with it."""
        return call.content

    def duplicate(self, call: HandedCall) -> socket.socket:
        """Our own duplicate of the worker's socket. OSError where it sent none."""
        ours = os.dup(call.descriptor())
        try:
            return socket.socket(fileno=ours)
        except BaseException:
            os.close(ours)
            raise

    def state(self, call: HandedCall) -> tuple[str, int]:
        """What names the worker's socket as long as it lives, and its flags."""
        return f"socket:[{os.fstat(call.descriptor()).st_ino}]", fcntl.fcntl(call.descriptor(), fcntl.F_GETFL)

    def put(self, call: HandedCall, taken: socket.socket) -> None:
        """Send a copy with the answer, for the worker to put over its own."""
        call.gift = socket.socket(taken.family, taken.type, taken.proto, fileno=os.dup(taken.fileno()))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()
