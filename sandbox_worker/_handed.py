"""The network of a worker whose kernel can't ask the broker: its Python code does, and the filter refuses the calls.

`connect`, `bind` and `listen` of Python's sockets, and looking up names, become packets to the broker (`broker.handed`
says of what form), which acts on the very socket that comes with them. None of this is a wall: who goes around it has
the system calls alone, and those are refused: by the filter, and in tier `hooked`, which has none, by the audit hook as
far as they raise an event. C libraries have nothing else.

The events are those of the calls that are replaced, with one argument more, by which the hook tells that the broker
will decide.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import sys

from sandbox_worker.errors import PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_ANSWER_MAX: Final = 1024  # 32 addresses of 17 bytes, and the errno
_UNIX, _INET, _INET6 = 1, 2, 10
_RIGHTS: Final = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
_NUMERIC: Final = _socket.AI_NUMERICHOST
_HANDED: Final = True


def install(descriptor: int) -> None:
    """Replace what reaches the network in `socket` and `_socket`; the channel to the broker is `descriptor`."""
    import socket

    asking = _Broker(_socket.socket(fileno=descriptor))

    def connect(self: Any, address: Any) -> None:
        error = _connect(asking, self, address)
        if error == errno.EAGAIN and self.gettimeout():
            raise TimeoutError("timed out")
        _raise(error)

    def connect_ex(self: Any, address: Any) -> int:
        try:
            return _connect(asking, self, address)
        except OSError as e:
            if e.errno is None or isinstance(e, PermissionDenied | _socket.gaierror):
                raise
            return e.errno

    def bind(self: Any, address: Any) -> None:
        sys.audit("socket.bind", self, address, _HANDED)
        _raise(asking.act(b"b" + _packed(self.family, address), self))

    def listen(self: Any, backlog: int = 128) -> None:
        _raise(asking.act(b"l" + max(0, min(int(backlog), 0x7FFF_FFFF)).to_bytes(4, "little"), self))

    for function in (connect, connect_ex, bind, listen):
        setattr(socket.socket, function.__name__, function)
    _replace_lookups(asking, socket)


def _replace_lookups(asking: _Broker, socket: Any) -> None:
    original = _socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002 - as the original has it
        if isinstance(host, bytes | bytearray):
            host = bytes(host).decode("ascii")
        if not isinstance(host, str) or not host or _address(host) is not None:
            return original(host, port, family, type, proto, flags)
        sys.audit("socket.getaddrinfo", host, port, family, type, proto)
        found = []
        for text in asking.addresses(host, port):
            if family in (0, _INET6 if ":" in text else _INET):
                found += original(text, port, family, type, proto, flags | _NUMERIC)
        if not found:
            raise _socket.gaierror(_socket.EAI_NONAME, "Name or service not known")
        return found

    def gethostbyname(host: str) -> str:
        return str(getaddrinfo(host, None, _INET, _socket.SOCK_STREAM)[0][4][0])

    def gethostbyname_ex(host: str) -> tuple[str, list[str], list[str]]:
        found = getaddrinfo(host, None, _INET, _socket.SOCK_STREAM)
        return host, [], [str(where[0]) for *_, where in found]

    _socket.getaddrinfo = getaddrinfo
    for function in (gethostbyname, gethostbyname_ex):
        setattr(_socket, function.__name__, function)
        setattr(socket, function.__name__, function)


class _Broker:
    """Asks the broker; every question brings its own way back, so threads never wait for one another."""

    __slots__ = ("_channel",)

    def __init__(self, channel: _socket.socket) -> None:
        self._channel = channel

    def act(self, packet: bytes, made: Any) -> int:
        """Have it do something with the socket `made`: the errno. A socket that it sends takes that one's place."""
        answer, gift = self._ask(packet, [made.fileno()])
        if gift >= 0:
            try:
                os.dup2(gift, made.fileno(), inheritable=os.get_inheritable(made.fileno()))
            finally:
                os.close(gift)
        return int.from_bytes(answer[:4], "little")

    def addresses(self, name: str, port: object) -> list[str]:
        """The addresses of a name, as text. PermissionDenied where it may not be looked up."""
        if not name.isascii():
            name = name.encode("idna").decode("ascii")
        answer, _ = self._ask(b"n" + name.encode("ascii"), [])
        if int.from_bytes(answer[:4], "little"):
            raise PermissionDenied("net.connect", name if port is None else f"{name}:{port}")
        found, rest = [], answer[4:]
        while rest:
            packed, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
            found.append(_socket.inet_ntop(_INET if len(packed) == 4 else _INET6, packed))
        return found

    def _ask(self, packet: bytes, descriptors: list[int]) -> tuple[bytes, int]:
        ours, theirs = _socket.socketpair(_UNIX, _socket.SOCK_SEQPACKET)
        try:
            try:
                rights = b"".join(d.to_bytes(4, sys.byteorder) for d in (theirs.fileno(), *descriptors))
                self._channel.sendmsg([packet], [(*_RIGHTS, rights)])
            finally:
                theirs.close()
            ours.settimeout(None)  # the broker's death ends the wait: the other end is gone then
            answer, ancillary, _, _ = ours.recvmsg(_ANSWER_MAX, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        finally:
            ours.close()
        if not answer:
            raise OSError(errno.EPERM, "the broker is gone")
        gifts = [int.from_bytes(data[:4], sys.byteorder) for *kind, data in ancillary if tuple(kind) == _RIGHTS]
        return answer, gifts[0] if gifts else -1


def _connect(asking: _Broker, made: Any, address: Any) -> int:
    """The errno of a connection; EAGAIN when it took longer than the socket's timeout."""
    sys.audit("socket.connect", made, address, _HANDED)
    timeout = made.gettimeout()
    error = asking.act(b"c" + _packed(made.family, address), made)
    if error != errno.EINPROGRESS or not timeout:
        return error
    poll = select.poll()
    poll.register(made.fileno(), select.POLLOUT)
    if not poll.poll(timeout * 1000):
        return errno.EAGAIN
    return int(made.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR))


def _packed(family: int, address: Any) -> bytes:
    """A struct sockaddr for an address in Python's form; TypeError for one in none."""
    start = int(family).to_bytes(2, sys.byteorder)
    if family == _UNIX:
        return start + (os.fsencode(address) if isinstance(address, str) else bytes(address))
    if family not in (_INET, _INET6) or not isinstance(address, tuple):
        raise TypeError(f"an address of family {family} must be a tuple of host and port")
    host, port, flow, scope = (*address, 0, 0)[:4]
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii")
    if not 0 <= port <= 0xFFFF:
        raise OverflowError("port must be 0-65535")
    any_host = "::" if family == _INET6 else "0.0.0.0"  # noqa: S104 - what an empty host means
    host = host or any_host
    if _address(host) is None:
        host = str(_socket.getaddrinfo(host, port, family, _socket.SOCK_STREAM)[0][4][0])
    ip: bytes = _socket.inet_pton(family, host.partition("%")[0])
    if family == _INET:
        return start + int(port).to_bytes(2, "big") + ip + bytes(8)
    return (
        start + int(port).to_bytes(2, "big") + int(flow).to_bytes(4, "big") + ip + int(scope).to_bytes(4, sys.byteorder)
    )


def _address(host: str) -> bytes | None:
    for family in (_INET, _INET6):
        try:
            return _socket.inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
    return None


def _raise(error: int) -> None:
    if error:
        raise OSError(error, os.strerror(error))
