"""What each call of one worker is answered.

`connect`, `bind` and `listen` are never let pass: the kernel would read the address again, and the worker may have
written another one there. They are made here. `open` and `openat` are let pass but for five names, for what they then
reach Landlock decides, whatever the name has become meanwhile. What changes or locks files is in `files`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct

from sandbox_worker import _network
from sandbox_worker._addresses import LOOPBACK, classify
from sandbox_worker.broker import paths
from sandbox_worker.broker import policy as rules
from sandbox_worker.broker.files import Files
from sandbox_worker.broker.handed import LOOK_UP, NUMBERS, Handed
from sandbox_worker.broker.notify import Address, UnixPath, parse_address
from sandbox_worker.broker.sockets import Duplicates, Replacements, bound_to, refused
from sandbox_worker.messages import RESOLVE_PREFIX, event_record
from sandbox_worker.permissions import UNIX
from sandbox_worker.walls import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn, TypeAlias

    from sandbox_worker.broker.names import Names
    from sandbox_worker.broker.notify import Notified
    from sandbox_worker.broker.sockets import Call, Way

    Slow: TypeAlias = Callable[[], None]

HOSTS: Final = b"/etc/hosts"
_CONTENTS: Final = {b"/etc/nsswitch.conf": b"hosts: files\n"}
_ABSENT: Final = frozenset((b"/etc/resolv.conf", b"/etc/gai.conf", b"/etc/host.conf"))
_RESOLVE: Final = RESOLVE_PREFIX.encode()
_LOCALHOST: Final = (bytes((127, 0, 0, 1)), bytes(15) + b"\x01")
"""RFC 6761, 6.3: clients may know these addresses of localhost without asking, and libcurl does."""
_HOSTS_NAMES_MAX: Final = 64
_ASKERS_MAX: Final = 256

_A_SECOND: Final = struct.pack("@ll", 1, 0)  # struct timeval

# include/uapi/linux/fcntl.h: everything that can be sealed
_SEALS: Final = 0xF


class Calls:
    """Answers the calls of one worker. `act` runs on one thread at a time; what it returns runs on any.

    `events` is a pipe to the host for what was refused; `replace` says how sockets are got at.
    """

    def __init__(
        self, way: Notified | Handed, policy: rules.Policy, names: Names, events: int, *, replace: bool
    ) -> None:
        self._way: Way = way
        self._policy = policy
        self._names = names
        self._events = events
        self._sockets = (Replacements if replace else Duplicates)(way)
        self._connecting: set[socket.socket] = set()
        self._askers: set[int] = set()
        numbers = linux.ARCHITECTURE.numbers if linux.ARCHITECTURE else {}
        if isinstance(way, Handed):
            numbers = NUMBERS
        handlers: dict[str, Callable[[Call], Slow | None]] = {
            "connect": self._connect,
            "bind": self._bind,
            "listen": self._listen,
        }
        if not isinstance(way, Handed):
            handlers |= Files(way.listener, way.process, policy, self._refuse).handlers()
        self._handlers = {numbers[name]: handler for name, handler in handlers.items() if name in numbers}
        if isinstance(way, Handed):
            self._handlers[LOOK_UP] = lambda call: lambda: self._look_up(way, call)
            return
        for name, path in (("openat", 1), ("open", 0)):
            if name in numbers:
                self._handlers[numbers[name]] = lambda call, path=path: self._open(way, call, call.arguments[path])  # type: ignore[misc]

    def act(self, call: Call) -> Slow | None:
        """Answer the call, or give what will, and may take long."""
        handler = self._handlers.get(call.number)
        if handler is None:
            self._way.answer(call, -errno.EPERM)
            return None
        return self._guarded(call, lambda: handler(call))

    def close(self) -> None:
        """The worker is gone: end what is still connecting for it."""
        for pending in list(self._connecting):
            try:
                pending.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._sockets.close()

    def _guarded(self, call: Call, work: Callable[[], Slow | None]) -> Slow | None:
        """Whatever goes wrong is an errno for the worker, and no way around a decision."""
        try:
            slow = work()
        except OSError as error:
            self._way.answer(call, -(error.errno or errno.EIO))
            return None
        except Exception:  # noqa: BLE001 - fails closed, and the other calls of this worker go on
            self._way.answer(call, -errno.EPERM)
            return None
        return None if slow is None else lambda: self._finish(call, slow)

    def _finish(self, call: Call, slow: Slow) -> None:
        self._guarded(call, slow)

    # --- connections

    def _connect(self, call: Call) -> Slow | None:
        address = self._address(call)
        if isinstance(address, UnixPath):
            return lambda: self._connect_path(call, address.path)
        known = ["localhost"] if address.ip in _LOCALHOST else []
        self._require(rules.CONNECT, address, self._names.of(address.ip) + known)
        if self._repeats(call, address.family):
            return None
        taken = self._sockets.take(call, address.family)
        if fcntl.fcntl(taken, fcntl.F_GETFL) & os.O_NONBLOCK:
            self._settle(call, taken, taken.connect_ex(address.where))
            return None
        return lambda: self._connect_blocking(call, taken, address)

    def _connect_blocking(self, call: Call, taken: socket.socket, address: Address) -> None:
        self._connecting.add(taken)
        try:
            error = taken.connect_ex(address.where)
        finally:
            self._connecting.discard(taken)
        self._settle(call, taken, error)

    def _settle(self, call: Call, taken: socket.socket, error: int) -> None:
        self._sockets.give_back(call, taken, error)
        self._way.answer(call, -error)

    def _connect_path(self, call: Call, path: bytes) -> None:
        with paths.found(path, lambda real: self._require_path(rules.CONNECT, real)) as target:
            if self._repeats(call, socket.AF_UNIX):
                return
            taken = self._sockets.take(call, socket.AF_UNIX)
            self._settle(call, taken, self._connect_unix(call, taken, target))

    def _repeats(self, call: Call, family: int) -> bool:
        """Event loops ask a second time whether a socket has connected: it is the one that they have."""
        error = self._sockets.connects(call, family) if isinstance(self._sockets, Replacements) else 0
        if error:
            self._way.answer(call, -error)
        return bool(error)

    def _connect_unix(self, call: Call, taken: socket.socket, target: str) -> int:
        """A listener with a full queue holds up a socket that blocks: for as long as its worker waits."""
        own = taken.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)
        waits = not any(own) and not fcntl.fcntl(taken, fcntl.F_GETFL) & os.O_NONBLOCK
        if waits:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _A_SECOND)
        try:
            while True:
                error = taken.connect_ex(target)
                if error != errno.EAGAIN or not waits or not self._way.waits(call):
                    return error
        finally:
            if waits:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, own)

    # --- listeners

    def _bind(self, call: Call) -> Slow | None:
        address = self._address(call)
        if isinstance(address, UnixPath):
            return lambda: self._bind_path(call, address.path)
        self._require(rules.LISTEN, address, _local_name(address))
        taken = self._sockets.take(call, address.family, binds=True)
        try:
            self._require_unshared(taken, address)
            taken.bind(address.where)
        except OSError as error:
            self._settle(call, taken, error.errno or errno.EIO)
            return None
        self._settle(call, taken, 0)
        return None

    def _bind_path(self, call: Call, path: bytes) -> None:
        taken = self._sockets.take(call, socket.AF_UNIX, binds=True)
        error = 0
        try:
            paths.bind(taken, path, lambda real: self._require_path(rules.LISTEN, real))
        except OSError as refusal:
            error = refusal.errno or errno.EIO
        self._settle(call, taken, error)

    def _listen(self, call: Call) -> Slow | None:
        """The bound address is judged once more: now it can't change, nor what of IPv4 an IPv6 socket takes."""
        if isinstance(self._sockets, Replacements) and self._sockets.listens(call):
            self._way.answer(call, 0)
            return None
        taken = self._sockets.take(call)
        try:
            if taken.family == socket.AF_UNIX:
                self._require_path(rules.LISTEN, paths.bound_to(taken) or "")
            else:
                self._require_bound(taken)
            taken.listen(min(call.integer(1), 0x7FFF_FFFF))
            if isinstance(self._sockets, Replacements):
                self._sockets.forget(taken)
        finally:
            taken.close()
        self._way.answer(call, 0)
        return None

    def _require_bound(self, taken: socket.socket) -> None:
        address = bound_to(taken)
        if address.port == 0:  # the kernel would choose a port, on all addresses
            self._refuse(rules.LISTEN, address, rules.NO_RULE)
        self._require(rules.LISTEN, address, _local_name(address))
        self._require_unshared(taken, address)

    def _require_unshared(self, taken: socket.socket, address: Address) -> None:
        """No port shared with another process, and IPv4 only with a rule for it."""
        if taken.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            self._refuse(rules.LISTEN, address, rules.NO_RULE)
        every = address.ip == bytes(16)
        if every and not taken.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            self._require(rules.LISTEN, Address(socket.AF_INET, bytes(4), address.port))

    # --- decisions

    def _address(self, call: Call) -> Address | UnixPath:
        address = parse_address(self._way.address(call))
        if address is None:
            raise refused()
        return address

    def _require(self, kind: str, address: Address, names: list[str] | None = None) -> None:
        verdict = self._policy.judge(kind, address.ip, address.port, names or ())
        if verdict != rules.ALLOWED:
            self._refuse(kind, address, verdict)

    def _require_path(self, kind: str, path: str) -> None:
        verdict = self._policy.judge_path(kind, path)
        if verdict != rules.ALLOWED:
            self._refuse(kind, UNIX + path, verdict)

    def _refuse(self, kind: str, target: object, verdict: str) -> NoReturn:
        with contextlib.suppress(OSError):  # a full pipe loses the report, never the refusal
            os.write(self._events, event_record(kind, str(target), verdict == rules.DENY_RULE))
        raise refused()

    # --- names

    def _open(self, way: Notified, call: Call, pointer: int) -> Slow | None:
        path = way.process.text(pointer)
        if path == HOSTS:
            return lambda: self._give(way, call, self._hosts(call.pid))
        if path.startswith(_RESOLVE):
            name = path[len(_RESOLVE) :].decode("ascii", "replace")
            return lambda: self._resolve(call, name)
        if path in _ABSENT:
            way.answer(call, -errno.ENOENT)
        elif path in _CONTENTS:
            self._give(way, call, _CONTENTS[path])
        else:
            way.listener.let_pass(call)
        return None

    def _resolve(self, call: Call, name: str) -> None:
        """Pin a name that a client is about to look up. ENOENT: it was, go and look; EACCES: it may not be."""
        self._addresses(name)
        if len(self._askers) < _ASKERS_MAX:
            self._askers.add(call.pid)
        self._way.answer(call, -errno.ENOENT)

    def _look_up(self, way: Handed, call: Call) -> None:
        """The same for a client that takes the addresses with the answer."""
        way.answer(call, 0, self._addresses(call.name))

    def _addresses(self, name: str) -> list[bytes]:
        """The addresses of `name` that this worker may reach under it; none when it has none. Raises `refused`."""
        subject, _ = _network.parse_request(name)
        name = ".".join(reversed(subject.removeprefix("name:").split(".")))
        if not subject.startswith("name:") or not self._policy.knows(name):
            self._refuse(rules.CONNECT, name, rules.NO_RULE)
        addresses = self._names.resolve(name)
        reached = [address for address in addresses if self._policy.reaches(name, address)]
        if addresses and not reached:
            self._refuse(rules.CONNECT, name, rules.NO_RULE)
        return reached

    def _hosts(self, thread: int) -> bytes:
        """The hosts file of this worker (hosts(5)): what was asked for, and for a client that can't ask, every name."""
        if thread in self._askers:
            self._askers.discard(thread)
        else:
            for name in self._policy.exact_names()[:_HOSTS_NAMES_MAX]:
                self._names.resolve(name)
        lines = [
            f"{socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)} {name}\n"
            for name, addresses in self._names.pinned().items()
            if self._policy.knows(name)
            for address in addresses
            if self._policy.reaches(name, address)
        ]
        return "".join(lines).encode()

    def _give(self, way: Notified, call: Call, content: bytes) -> None:
        """Answer an open with a file that has this content, and that no one can change."""
        made = os.memfd_create("plughold", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(made, content)
            fcntl.fcntl(made, fcntl.F_ADD_SEALS, _SEALS)
            reader = os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                way.answer(call, way.listener.give(call, reader))
            finally:
                os.close(reader)
        finally:
            os.close(made)


def _local_name(address: Address) -> list[str]:
    """What a rule may call the address of a listener without looking anything up."""
    return ["localhost"] if classify(address.ip) == LOOPBACK else []
