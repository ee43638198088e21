"""The steps of the lockdown in a worker that the fork server has copied: the spawner makes its system calls for it.

They are those of `lockdown`, for those reasons, but for the last: nothing is executed, so its filter lets no execve
pass at all. The copy has our modules in it and no ctypes; it is stopped where it waits for its settings, and has run
nothing but that (`tracing`). What is the same for every worker is done before there is one to start (`make_ready`); the
rest follows in the order of `STEPS`.
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
    from typing import Final

    from .stages import Stages
    from .tracing import Tracee

_AT_FDCWD: Final = -100
_INT_SIZE: Final = array.array("i").itemsize
_CMSG_HEADER: Final = 16  # struct cmsghdr of a 64-bit machine
_MSG_HEADER: Final = 56  # struct msghdr, its padding included


def make_ready(worker: Tracee, way_in: socket.socket, arrives_at: int, user_namespace: int | None) -> None:
    """Take what needs no plan of the steps, in a copy that is ready to be asked for calls.

    For tier `walled` it goes into the user namespace, a descriptor, and keeps what capabilities that gives it for
    `lock_down`; here go those of the bounding set, a call for each that the kernel knows. `way_in` leads to its
    descriptor `arrives_at`. OSError when one of its calls fails; it is then to be killed.
    """
    worker.call("close_range", 1, arrives_at - 1, 0)
    worker.call("setsid")
    worker.call("umask", lockdown.UMASK)
    if user_namespace is None:
        _drop_capabilities(worker)
    else:
        (joined,) = _receive(worker, way_in, arrives_at, [user_namespace])
        worker.call("setns", joined, namespaces.CLONE_NEWUSER)
        worker.call("close", joined)
        _prctl(worker, lockdown.PR_SET_SECUREBITS, lockdown.SECUREBITS)
        for capability in _capabilities():
            _prctl(worker, lockdown.PR_CAPBSET_DROP, capability)
    _prctl(worker, lockdown.PR_SET_NO_NEW_PRIVS, 1)


def lock_down(
    worker: Tracee, plan: lockdown.Plan, way_in: socket.socket, arrives_at: int, stages: Stages | None
) -> None:
    """Take the other steps; `stages` are for a plan with a user namespace, in which the copy is already.

    OSError names the step that failed; the worker is then to be killed.
    """
    with contextlib.ExitStack() as after:
        steps = _Steps(worker, plan, way_in, arrives_at, stages, after)
        for step in STEPS:
            try:
                getattr(steps, step)()
            except OSError as error:
                raise OSError(error.errno, f"the lockdown step {step!r} failed: {error}") from error


class _Steps:
    """The steps, one method each, named as in `STEPS`."""

    __slots__ = ("_after", "_arrives_at", "_broker", "_namespaces", "_plan", "_ruleset", "_stages", "_way_in",
                 "_worker")  # fmt: skip

    def __init__(
        self,
        worker: Tracee,
        plan: lockdown.Plan,
        way_in: socket.socket,
        arrives_at: int,
        stages: Stages | None,
        after: contextlib.ExitStack,
    ) -> None:
        self._worker = worker
        self._plan = plan
        self._way_in = way_in
        self._arrives_at = arrives_at
        self._stages = stages
        self._after = after
        self._ruleset = self._namespaces = self._broker = -1

    def descriptors(self) -> None:
        """The worker's own, and behind them for the later steps the ruleset, the namespaces and the way to the broker.

        As all lower numbers are free, they come in their places: as dup(2) does, the kernel takes the lowest one.
        """
        plan = self._plan
        others = [plan.ruleset, self._made_namespaces(), plan.broker and plan.broker[0]]
        sent = [*plan.descriptors, *(d for d in others if d is not None)]
        received = _receive(self._worker, self._way_in, self._arrives_at, sent)
        if received != list(range(plan.first, plan.first + len(sent))):
            raise OSError(errno.EBADF, "its descriptors are not in their places")
        rest = iter(received[len(plan.descriptors) :])
        self._ruleset, self._namespaces, self._broker = (-1 if d is None else next(rest) for d in others)
        self._worker.call("close_range", plan.first + len(sent), lockdown.LAST_DESCRIPTOR, 0)

    def session(self) -> None:
        """As for an executed worker; in namespaces of its own the folder is entered there."""
        if len(os.listdir(f"/proc/{self._worker.pid}/task")) != 1:
            raise OSError(errno.EBUSY, "a worker with more than one thread")
        if self._namespaces < 0:
            self._enter_folder()

    def namespaces(self) -> None:
        """Into those that another child of the spawner has made ready, all at once (setns(2), since Linux 5.8)."""
        if self._namespaces < 0:
            return
        worker = self._worker
        worker.call("setns", self._namespaces, namespaces.OWN)
        worker.call("close", self._namespaces)
        null = worker.call("openat", _AT_FDCWD, worker.hold(b"/dev/null\0"), os.O_RDONLY, 0)
        worker.call("dup2", null, 0)
        worker.call("close", null)
        self._enter_folder()

    def capabilities(self) -> None:
        """None in any set: in the user namespace it has had them all."""
        if self._namespaces >= 0:
            _drop_capabilities(self._worker)

    def parent(self) -> None:
        """Die with the spawner, which is its parent: it was adopted. Until it is let go, tracing sees to that."""
        _prctl(self._worker, lockdown.PR_SET_PDEATHSIG, signal.SIGKILL)
        if self._worker.call("getppid") != self._plan.spawner:
            raise OSError(errno.ESRCH, "it is not the spawner's child")

    def limits(self) -> None:
        """Soft and hard alike, never above the hard limit that it has."""
        for kind, value in self._plan.limits.items():
            _, hard = resource.prlimit(self._worker.pid, kind)
            limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(self._worker.pid, kind, (limit, limit))

    def no_new_privs(self) -> None:
        """Nothing: it is set."""

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
                _prctl(worker, lockdown.PR_SET_PTRACER, plan.broker[1])
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
        if self._stages is None or plan.view is None:
            return None
        return self._after.enter_context(self._stages.prepared(plan.view, named=plan.named))

    def _enter_folder(self) -> None:
        self._worker.call("chdir", self._worker.hold(os.fsencode(self._plan.folder) + b"\0"))

    def _send(self, channel: int, data: bytes, descriptor: int) -> None:
        """Have it send `data` and one of its descriptors."""
        size = _CMSG_HEADER + _INT_SIZE
        control = pack("=Qiii", size, socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)
        self._worker.call("sendmsg", channel, self._worker.hold(lambda start: _message(start, data, control)), 0)


def _receive(worker: Tracee, way_in: socket.socket, arrives_at: int, descriptors: list[int]) -> list[int]:
    """Send it `descriptors`; the numbers that they have there."""
    socket.send_fds(way_in, [b"\0"], descriptors)
    size = _CMSG_HEADER + len(descriptors) * _INT_SIZE
    worker.call("recvmsg", arrives_at, worker.hold(lambda start: _message(start, b"\0", bytes(size))), 0)
    length, level, kind, *numbers = _control(worker.held(_MSG_HEADER + size)[_MSG_HEADER:])
    if (length, level, kind) != (size, socket.SOL_SOCKET, socket.SCM_RIGHTS):
        raise OSError(errno.EMFILE, "its descriptors did not arrive")
    return numbers


def _drop_capabilities(worker: Tracee) -> None:
    _prctl(worker, lockdown.PR_CAP_AMBIENT, lockdown.PR_CAP_AMBIENT_CLEAR_ALL)
    header = linux.CAPABILITY_HEADER.raw
    address = worker.hold(header + linux.NO_CAPABILITIES.raw)
    worker.call("capset", address, address + len(header))


def _prctl(worker: Tracee, option: int, value: int) -> None:
    worker.call("prctl", option, value, 0, 0, 0)


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


def _capabilities() -> range:
    """The numbers that this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return range(int(file.read()) + 1)
