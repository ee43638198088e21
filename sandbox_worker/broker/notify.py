"""Notifications of a seccomp filter, and what a decision takes from the process behind them.

Source: seccomp_unotify(2), include/uapi/linux/seccomp.h, pidfd_getfd(2), proc_pid_mem(5).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from struct import Struct, unpack_from

from sandbox_worker.walls import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_IS_VALID: Final = 0x40082102
_ADD: Final = 0x40182103
_CONTINUE: Final = 1
_SET: Final = 1  # SECCOMP_ADDFD_FLAG_SETFD
_REQUEST: Final = Struct("=QIIiIQ6Q")  # struct seccomp_notif with its seccomp_data
_RESPONSE: Final = Struct("=QqiI")  # struct seccomp_notif_resp
_ADD_FD: Final = Struct("=QIIII")  # struct seccomp_notif_addfd
_ID: Final = Struct("=Q")

ADDRESS_MAX: Final = 128  # sizeof(struct sockaddr_storage)
PATH_MAX: Final = 4096
_PAGE: Final = 4096


class Call:
    """One system call that waits for an answer: `pid` is that of the thread, `arguments` six 64-bit words."""

    __slots__ = ("arguments", "id", "number", "pid")

    def __init__(self, data: bytes) -> None:
        self.id, self.pid, _, self.number, _, _, *self.arguments = _REQUEST.unpack(data)

    def integer(self, index: int) -> int:
        """An argument that the kernel takes as an unsigned int."""
        return int(self.arguments[index]) & 0xFFFF_FFFF


class Listener:
    """Owns the listener descriptor of one filter. One thread at a time receives; any answers."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def receive(self) -> Call | None:
        """The next call; None when no process is left behind the filter."""
        while True:
            [(_, mask)] = self._poll.poll() or [(0, 0)]
            if mask & select.POLLIN:
                request = bytearray(_REQUEST.size)  # the kernel takes a zeroed one only
                try:
                    fcntl.ioctl(self._descriptor, _RECEIVE, request)
                    return Call(bytes(request))
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.EINTR):  # it was killed, or interrupted, meanwhile
                        raise
            elif mask:
                return None

    def waits(self, call: Call) -> bool:
        """Whether the call still waits, so that its pid still is the process that made it."""
        try:
            fcntl.ioctl(self._descriptor, _IS_VALID, _ID.pack(call.id))
        except OSError:
            return False
        return True

    def answer(self, call: Call, value: int) -> None:
        """The call's result: a number from 0 up, or a negated errno. One that does not wait any more gets none."""
        error = min(value, 0)
        self._send(_RESPONSE.pack(call.id, max(value, 0), error, 0))

    def let_pass(self, call: Call) -> None:
        """The kernel goes on with the call, and with arguments that may have changed: for what another wall decides."""
        self._send(_RESPONSE.pack(call.id, 0, 0, _CONTINUE))

    def give(self, call: Call, descriptor: int, *, at: int | None = None, close_on_exec: bool = True) -> int:
        """Put a copy of `descriptor` into the process, at number `at` or the lowest; gives its number there."""
        flags, newfd = (0, 0) if at is None else (_SET, at)
        request = bytearray(_ADD_FD.pack(call.id, flags, descriptor, newfd, os.O_CLOEXEC if close_on_exec else 0))
        number: int = fcntl.ioctl(self._descriptor, _ADD, request)  # of a bytearray: the call's result, not its content
        return number

    def _send(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self._descriptor, _SEND, response)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise

    def close(self) -> None:
        """Close it: what still waits fails with ENOSYS."""
        os.close(self._descriptor)


class Process:
    """Reads of the process `pid`, whose interpreter has been executed. OSError when it is gone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._memory = -1

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes of its memory, in one read."""
        if self._memory < 0:  # at the first call, which comes after its one execve: that made this memory
            self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(self._memory, size, address)
        except (OSError, OverflowError):  # EIO of what is not mapped; an address that is no offset
            data = b""
        if len(data) != size:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return data

    def text(self, address: int) -> bytes:
        """The bytes up to the null at `address`, page by page: the page after it may not be there."""
        found = b""
        while len(found) < PATH_MAX:
            part = self.read(address + len(found), min(256, _PAGE - (address + len(found)) % _PAGE))
            end = part.find(b"\0")
            if end >= 0:
                return found + part[:end]
            found += part
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))

    def descriptor(self, number: int) -> int:
        """Our own duplicate of one of its descriptors. OSError when that is none, or pidfd_getfd(2) is refused."""
        return linux.syscall("pidfd_getfd", self._pidfd, number, 0)

    def duplicate(self, descriptor: int) -> socket.socket:
        """Our own duplicate of one of its sockets; otherwise as `descriptor`."""
        ours = self.descriptor(descriptor)
        try:
            return socket.socket(fileno=ours)
        except BaseException:
            os.close(ours)
            raise

    def flags(self, descriptor: int) -> int:
        """The open file's flags, with O_CLOEXEC as the descriptor has it (proc_pid_fdinfo(5))."""
        with open(f"/proc/{self.pid}/fdinfo/{descriptor}", encoding="ascii") as file:
            return next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))

    def socket_number(self, descriptor: int) -> str:
        """What names the socket behind a descriptor, as long as it lives. ENOTSOCK for anything else."""
        link = os.readlink(f"/proc/{self.pid}/fd/{descriptor}")
        if not link.startswith("socket:"):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        return link

    def close(self) -> None:
        """Close what is held of it."""
        os.close(self._pidfd)
        if self._memory >= 0:
            os.close(self._memory)


class Address:
    """An IP address and port: `ip` packed, `where` as Python's sockets take it."""

    __slots__ = ("family", "ip", "port", "where")

    def __init__(self, family: int, ip: bytes, port: int, flow: int = 0, scope: int = 0) -> None:
        self.family = family
        self.ip = ip
        self.port = port
        text = socket.inet_ntop(family, ip)
        self.where: tuple[str, int] | tuple[str, int, int, int] = (
            (text, port) if family == socket.AF_INET else (text, port, flow, scope)
        )

    def __str__(self) -> str:
        host = self.where[0]
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class UnixPath:
    """The absolute path of a unix socket, as a worker wrote it."""

    __slots__ = ("path",)
    family = socket.AF_UNIX

    def __init__(self, path: bytes) -> None:
        self.path = path


def parse_address(raw: bytes) -> Address | UnixPath | None:
    """The address in a struct sockaddr_in, sockaddr_in6 or sockaddr_un; None for another family, for one that is cut
    short, and for a unix socket without an absolute path: unnamed (bind(2) would make one up), abstract, relative."""
    family = unpack_from("=H", raw)[0] if len(raw) >= 2 else -1
    if family == socket.AF_UNIX and raw[2:3] == b"/":
        return UnixPath(raw[2:].partition(b"\0")[0])
    if family == socket.AF_INET and len(raw) >= 16:
        return Address(family, raw[4:8], unpack_from(">H", raw, 2)[0])
    if family == socket.AF_INET6 and len(raw) >= 28:
        port, flow = unpack_from(">HI", raw, 2)
        return Address(family, raw[8:24], port, flow & 0xFFFFF, unpack_from("=I", raw, 24)[0])
    return None


class Notified:
    """The way of the kernel: calls wait for an answer, and what they name lies in the worker's memory and descriptors.

    Owns `listener` and `process`.
    """

    def __init__(self, listener: Listener, process: Process) -> None:
        self.listener = listener
        self.process = process
        self.receive = listener.receive
        self.waits = listener.waits

    def answer(self, call: Call, value: int) -> None:
        """A number from 0 up, or a negated errno."""
        self.listener.answer(call, value)

    def address(self, call: Call) -> bytes:
        """The second argument's memory, of which the third says the size. Read once: what it holds then is judged."""
        size = call.integer(2)
        if size > ADDRESS_MAX:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self.process.read(call.arguments[1], size)

    def duplicate(self, call: Call) -> socket.socket:
        """Our duplicate of the socket that the first argument names."""
        return self.process.duplicate(call.integer(0))

    def state(self, call: Call) -> tuple[str, int]:
        """What names that socket as long as it lives, and its flags."""
        number = call.integer(0)
        return self.process.socket_number(number), self.process.flags(number)

    def put(self, call: Call, taken: socket.socket) -> None:
        """Put a copy of a socket of ours over it."""
        number = call.integer(0)
        cloexec = bool(self.process.flags(number) & os.O_CLOEXEC)
        self.listener.give(call, taken.fileno(), at=number, close_on_exec=cloexec)

    def close(self) -> None:
        """Close both: what still waits fails with ENOSYS."""
        self.listener.close()
        self.process.close()
