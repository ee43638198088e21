"""The steps of the lockdown in a worker that the fork server has copied: the spawner makes its system calls for it.

They are those of `lockdown`, in that order and for those reasons, but for the last: nothing is executed, so its filter
lets no execve pass at all. The copy has our modules in it and no ctypes; it is stopped where it waits for its settings,
and has run nothing but that (`tracing`).
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import resource
import signal
import socket
from struct import pack

from . import linux, lockdown, namespaces
from .steps import STEPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

    from .tracing import Tracee

_AT_FDCWD: Final = -100
_INT_SIZE: Final = array.array("i").itemsize
_CMSG_HEADER: Final = 16  # struct cmsghdr of a 64-bit machine
_MSG_HEADER: Final = 56  # struct msghdr, its padding included


def lock_down(worker: Tracee, plan: lockdown.Plan, way_in: socket.socket, arrives_at: int) -> None:
    """Take the steps in `worker`. `way_in` leads to its descriptor `arrives_at`, over which it gets its own.

    OSError names the step that failed; the worker is then to be killed.
    """
    with contextlib.ExitStack() as after:
        steps = _Steps(worker, plan, way_in, arrives_at, after)
        for step in STEPS:
            try:
                getattr(steps, step)()
            except OSError as error:
                raise OSError(error.errno, f"the lockdown step {step!r} failed: {error}") from error


class _Steps:
    """The steps, one method each, named as in `STEPS`."""

    __slots__ = ("_after", "_arrives_at", "_broker", "_namespaces", "_plan", "_ruleset", "_way_in", "_worker")

    def __init__(
        self,
        worker: Tracee,
        plan: lockdown.Plan,
        way_in: socket.socket,
        arrives_at: int,
        after: contextlib.ExitStack,
    ) -> None:
        self._worker = worker
        self._plan = plan
        self._way_in = way_in
        self._arrives_at = arrives_at
        self._after = after
        self._ruleset = self._namespaces = self._broker = -1

    def descriptors(self) -> None:
        """The worker's own, and for the later steps the ruleset, the namespaces and the way to the broker."""
        plan = self._plan
        others = [plan.ruleset, self._made_namespaces(), plan.broker and plan.broker[0]]
        sent = [*plan.descriptors, *(d for d in others if d is not None)]
        received = iter(self._receive(sent))
        for descriptor, _ in enumerate(plan.descriptors, start=plan.first):
            self._worker.call("dup2", next(received), descriptor)
        self._ruleset, self._namespaces, self._broker = (-1 if d is None else next(received) for d in others)
        for first, last in _gaps(plan.first + len(plan.descriptors), (self._ruleset, self._namespaces, self._broker)):
            self._worker.call("close_range", first, last, 0)

    def session(self) -> None:
        """As for an executed worker."""
        if len(os.listdir(f"/proc/{self._worker.pid}/task")) != 1:
            raise OSError(errno.EBUSY, "a worker with more than one thread")
        self._worker.call("setsid")
        self._enter_folder()
        self._worker.call("umask", lockdown.UMASK)

    def namespaces(self) -> None:
        """Into those that another child of the spawner has made ready, all at once (setns(2), since Linux 5.8)."""
        if self._namespaces < 0:
            return
        worker = self._worker
        worker.call("setns", self._namespaces, namespaces.JOINED)
        worker.call("close", self._namespaces)
        null = worker.call("openat", _AT_FDCWD, worker.hold(b"/dev/null\0"), os.O_RDONLY, 0)
        worker.call("dup2", null, 0)
        worker.call("close", null)
        self._enter_folder()

    def capabilities(self) -> None:
        """None in any set, and none to come back: the namespaces have just handed out all of theirs."""
        if self._namespaces >= 0:
            self._prctl(lockdown.PR_SET_SECUREBITS, lockdown.SECUREBITS)
            for capability in _capabilities():
                self._prctl(lockdown.PR_CAPBSET_DROP, capability)
        self._prctl(lockdown.PR_CAP_AMBIENT, lockdown.PR_CAP_AMBIENT_CLEAR_ALL)
        header = linux.CAPABILITY_HEADER.raw
        address = self._worker.hold(header + linux.NO_CAPABILITIES.raw)
        self._worker.call("capset", address, address + len(header))

    def parent(self) -> None:
        """Die with the spawner, which is its parent: it was adopted. Until it is let go, tracing sees to that."""
        self._prctl(lockdown.PR_SET_PDEATHSIG, signal.SIGKILL)
        if self._worker.call("getppid") != self._plan.spawner:
            raise OSError(errno.ESRCH, "it is not the spawner's child")

    def limits(self) -> None:
        """Soft and hard alike, never above the hard limit that it has."""
        for kind, value in self._plan.limits.items():
            _, hard = resource.prlimit(self._worker.pid, kind)
            limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(self._worker.pid, kind, (limit, limit))

    def no_new_privs(self) -> None:
        """Landlock and seccomp ask for it."""
        self._prctl(lockdown.PR_SET_NO_NEW_PRIVS, 1)

    def landlock(self) -> None:
        """The files that the rules name."""
        if self._ruleset >= 0:
            self._worker.call("landlock_restrict_self", self._ruleset, 0)
            self._worker.call("close", self._ruleset)

    def seccomp(self) -> None:
        """The profile, with this process's pid; its notifications go to the broker and are closed here."""
        worker, plan = self._worker, self._plan
        code = plan.program.patch({"pid": worker.pid})
        if plan.broker is not None:
            with contextlib.suppress(OSError):  # EINVAL without Yama
                self._prctl(lockdown.PR_SET_PTRACER, plan.broker[1])
        address = worker.hold(lambda start: pack("=HxxxxxxQ", len(code) // 8, start + 16) + code)
        if plan.broker is None:
            worker.call("seccomp", linux.SECCOMP_SET_MODE_FILTER, 0, address)
            return
        install = linux.SECCOMP_SET_MODE_FILTER
        listener = linux.supervised(lambda flags: worker.call("seccomp", install, flags, address))
        self._send(self._broker, worker.pid.to_bytes(4, "big"), listener)
        worker.call("close", listener)
        worker.call("close", self._broker)

    def exec(self) -> None:
        """Nothing: it is the interpreter."""

    def _made_namespaces(self) -> int | None:
        """A pidfd of a process in the worker's future namespaces, which lives as long as these steps take."""
        plan = self._plan
        if plan.user_namespace is None or plan.view is None:
            return None
        return self._after.enter_context(namespaces.prepared(plan.user_namespace, plan.view, named=plan.named))

    def _prctl(self, option: int, value: int) -> None:
        self._worker.call("prctl", option, value, 0, 0, 0)

    def _enter_folder(self) -> None:
        self._worker.call("chdir", self._worker.hold(os.fsencode(self._plan.folder) + b"\0"))

    def _receive(self, descriptors: list[int]) -> list[int]:
        """Send it `descriptors`; the numbers that they have there."""
        socket.send_fds(self._way_in, [b"\0"], descriptors)
        size = _CMSG_HEADER + len(descriptors) * _INT_SIZE
        address = self._worker.hold(lambda start: _message(start, b"\0", bytes(size)))
        self._worker.call("recvmsg", self._arrives_at, address, socket.MSG_CMSG_CLOEXEC)
        length, level, kind, *numbers = _control(self._worker.held(_MSG_HEADER + size)[_MSG_HEADER:])
        if (length, level, kind) != (size, socket.SOL_SOCKET, socket.SCM_RIGHTS):
            raise OSError(errno.EMFILE, "its descriptors did not arrive")
        return numbers

    def _send(self, channel: int, data: bytes, descriptor: int) -> None:
        """Have it send `data` and one of its descriptors."""
        size = _CMSG_HEADER + _INT_SIZE
        control = pack("=Qiii", size, socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)
        self._worker.call("sendmsg", channel, self._worker.hold(lambda start: _message(start, data, control)), 0)


def _message(start: int, data: bytes, control: bytes) -> bytes:
    """What lies at `start` for sendmsg(2) or recvmsg(2): struct msghdr, the control data, struct iovec, the data."""
    padding = bytes(-len(control) % 8)
    vector = start + _MSG_HEADER + len(control) + len(padding)
    header = pack("=QIxxxxQQQQIxxxx", 0, 0, vector, 1, start + _MSG_HEADER, len(control), 0)
    return header + control + padding + pack("=QQ", vector + 16, len(data)) + data


def _control(content: bytes) -> list[int]:
    """Length, level, kind and descriptors of control data."""
    head = array.array("Q", content[:8])[0]
    return [head, *array.array("i", content[8:])]


def _gaps(first: int, kept: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The ranges of descriptors from `first` on that are not in `kept`, where -1 stands for none."""
    for number in sorted(number for number in kept if number >= 0):
        if number > first:
            yield first, number - 1
        first = number + 1
    yield first, lockdown.LAST_DESCRIPTOR


def _capabilities() -> range:
    """The numbers that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return range(int(file.read()) + 1)
