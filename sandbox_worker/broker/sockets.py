"""Two ways to act on a worker's socket without trusting the worker: which one is possible the machine says.

`Duplicates` acts on the worker's own socket, by a duplicate (pidfd_getfd(2)). `Replacements` makes a socket itself,
acts on it, and puts it over the worker's descriptor: where pidfd_getfd is refused, as by the default profiles of
container engines, and where the worker's sockets live in a network of their own. Options that the worker had set on its
socket are lost then, so those are set that nearly every client and server sets.
"""

from __future__ import annotations

import errno
import os
import socket

from sandbox_worker.broker.notify import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, Protocol

    Call = Any
    """A call in the form of its way."""

    class Way(Protocol):
        """How calls of one worker come to the broker, and what they name."""

        def receive(self) -> Call | None:
            """The next call; None when the worker is gone."""

        def answer(self, call: Call, value: int) -> None:
            """A number from 0 up, or a negated errno."""

        def waits(self, call: Call) -> bool:
            """Whether the call still waits for its answer."""

        def address(self, call: Call) -> bytes:
            """A copy of the address that it names, as a struct sockaddr. OSError where it can't be had."""

        def duplicate(self, call: Call) -> socket.socket:
            """Our own duplicate of the socket that it names. OSError where it names none."""

        def state(self, call: Call) -> tuple[str, int]:
            """(what names that socket as long as it lives, its flags)."""

        def put(self, call: Call, taken: socket.socket) -> None:
            """Have a copy of `taken` take that socket's place."""

        def close(self) -> None:
            """Close what is held."""

    class Sockets(Protocol):
        """How the broker gets at a worker's socket."""

        def take(self, call: Call, family: int | None = None, *, binds: bool = False) -> socket.socket:
            """The socket that the call's first argument names; one of a family of `family`'s kind where that is given,
            and of it and for bind(2) where one has to be made.

            OSError with what the call is to fail with.
            """

        def give_back(self, call: Call, taken: socket.socket, error: int) -> None:
            """The socket has been acted upon, with this errno: put it where the worker finds it."""

        def close(self) -> None:
            """Close what is kept."""


_KEPT_MAX: Final = 16
_REMEMBERED_MAX: Final = 4096
_CLOSED: Final = ("", "07")  # include/net/tcp_states.h; what has closed is in no table
_OPENING: Final = ("02", "03")  # SYN_SENT, SYN_RECV
_TCP: Final = (0, socket.IPPROTO_TCP)
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
_FAMILIES: Final = (*_INTERNET, socket.AF_UNIX)
_STARTED: Final = (0, errno.EINPROGRESS)


def refused() -> OSError:
    """EACCES: what a permission would allow."""
    return OSError(errno.EACCES, os.strerror(errno.EACCES))


class Duplicates:
    """Acts on the worker's own sockets."""

    def __init__(self, way: Way) -> None:
        self._way = way

    def take(self, call: Call, family: int | None = None, *, binds: bool = False) -> socket.socket:  # noqa: ARG002 - not needed
        """Our duplicate, which must be a TCP socket, or for a path a unix one, and nothing else a descriptor may be."""
        taken = self._way.duplicate(call)
        kind = (socket.AF_UNIX,) if family == socket.AF_UNIX else _INTERNET
        ours = (
            taken.family in (_FAMILIES if family is None else kind)
            and taken.type == socket.SOCK_STREAM
            and taken.proto in _TCP
        )
        if not ours or not self._way.waits(call):
            taken.close()
            raise refused()
        return taken

    def give_back(self, call: Call, taken: socket.socket, error: int) -> None:  # noqa: ARG002 - as `Sockets` has it
        """It is the worker's already."""
        taken.close()

    def close(self) -> None:
        """Nothing is kept."""


class Replacements:
    """Makes sockets in the worker's stead. Bound ones are kept until they listen or connect: only by what they are,
    never by their number in the worker, can it be told which one it means. Of the others the names are remembered, for
    who says connect(2) or listen(2) twice means the socket that is there, and not a new one."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._kept: dict[str, socket.socket] = {}
        self._listening: dict[str, None] = {}
        self._connecting: dict[str, None] = {}

    def take(self, call: Call, family: int | None = None, *, binds: bool = False) -> socket.socket:
        """A socket of the broker's that it has put into the worker before, else a new one."""
        name, flags = self._way.state(call)
        if not self._way.waits(call):
            raise refused()
        if name in self._kept:
            return _duplicate(self._kept[name])
        made = socket.socket(socket.AF_INET if family is None else family, socket.SOCK_STREAM)
        if family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if binds and family != socket.AF_UNIX:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if binds and family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        os.set_blocking(made.fileno(), not flags & os.O_NONBLOCK)  # of the open file; Python's object stays as it is
        return made

    def give_back(self, call: Call, taken: socket.socket, error: int) -> None:
        """Over the worker's descriptor, unless it failed or lies there already."""
        try:
            if error not in _STARTED:
                return
            name = _name(taken)
            if self._way.state(call)[0] != name:
                self._way.put(call, taken)
            if error == errno.EINPROGRESS or _connected(taken):
                self._release(name, self._connecting)
            elif name not in self._kept:
                self._kept[name] = _duplicate(taken)
            while len(self._kept) > _KEPT_MAX:
                self._kept.pop(next(iter(self._kept))).close()
        finally:
            taken.close()

    def forget(self, taken: socket.socket) -> None:
        """It listens: nothing is left to decide about it."""
        self._release(_name(taken), self._listening)

    def _release(self, name: str, remembered: dict[str, None]) -> None:
        """From now on only the worker's descriptors keep it open."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            kept.close()
        remembered[name] = None
        while len(remembered) > _REMEMBERED_MAX:
            remembered.pop(next(iter(remembered)))

    def connects(self, call: Call, family: int) -> int:
        """What connect(2) says of the socket that the call's first argument names where it connects already: EISCONN,
        EALREADY; 0 where it does not, or no longer, and the call is to be made."""
        name = self._way.state(call)[0]
        if name not in self._connecting:
            return 0
        if family == socket.AF_UNIX:
            return errno.EISCONN
        state = _state(name.removeprefix("socket:[").removesuffix("]"))
        return 0 if state in _CLOSED else errno.EALREADY if state in _OPENING else errno.EISCONN

    def listens(self, call: Call) -> bool:
        """Whether the socket that the call's first argument names listens already, so that nothing is left to do: who
        says listen(2) twice, as asyncio does with a socket that it is given, wants another length of the queue."""
        return self._way.state(call)[0] in self._listening

    def close(self) -> None:
        """Close what is kept."""
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()


def bound_to(taken: socket.socket) -> Address:
    """The address that a socket has on this side; port 0 where it has none."""
    where = taken.getsockname()
    ip = socket.inet_pton(taken.family, where[0].partition("%")[0])
    return Address(taken.family, ip, where[1])


def _duplicate(taken: socket.socket) -> socket.socket:
    """Another descriptor of the same open file. `socket.dup` would give that file an idea of its own of blocking, which
    is the worker's to choose."""
    return socket.socket(taken.family, taken.type, taken.proto, fileno=os.dup(taken.fileno()))


def _name(taken: socket.socket) -> str:
    return f"socket:[{os.fstat(taken.fileno()).st_ino}]"


def _state(inode: str) -> str:
    """The state of the TCP socket with this inode, as proc_net_tcp has it; "" where there is none."""
    for table in ("tcp", "tcp6"):
        with open(f"/proc/self/net/{table}", encoding="ascii") as rows:
            for row in rows:
                columns = row.split()
                if columns[9] == inode:
                    return columns[3]
    return ""


def _connected(taken: socket.socket) -> bool:
    try:
        taken.getpeername()
    except OSError:
        return False
    return True
