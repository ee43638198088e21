"""The spawner's side of the fork server (`sandbox_worker.fork_server`): started once, asked for a worker at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket

from sandbox_worker.fork_server import ARRIVALS, COMMANDS

from . import forked, linux, lockdown
from .tracing import SUPPORTED, Tracee, end, has_ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

    from .stages import Stages

_PATIENCE: Final = 10.0
"""Seconds within which it arrivals, or is taken for dead."""
_STACK: Final = 8 << 20
"""What libc takes for the stacks of threads when it starts, in bytes, and the kernel for the layout of memory."""
_READY: Final = b"ready"
_ENVIRONMENT: Final = {b"LC_CTYPE": b"C.UTF-8"}


class ForkServer:
    """One process, which dies with this one. `close` is idempotent."""

    __slots__ = ("_commands", "_next", "_output", "_pid", "_server", "_socket", "_stages", "_walled")

    def __init__(self, argv: list[bytes], stages: Stages | None) -> None:
        """Execute it, and try once whether its copies can be traced. OSError when not, or when it does not start.

        `stages` are for tier `walled`, None where that is out of reach. A copy is made ready for it as long as none is
        asked for that is not of it.
        """
        if not SUPPORTED:
            raise OSError(errno.ENOSYS, f"no table of registers for this machine: {linux.MACHINE}")
        self._stages = stages
        self._walled = stages is not None
        self._next: Tracee | None = None
        self._socket, arrivals = socket.socketpair()
        self._socket.settimeout(_PATIENCE)
        commands, self._commands = os.pipe()
        self._output, output = os.pipe()
        os.set_blocking(self._output, False)
        self._pid = os.fork()
        if not self._pid:
            _become_server(argv, commands, arrivals.fileno(), output)
        for descriptor in (commands, output):
            os.close(descriptor)
        arrivals.close()
        try:
            self._await_ready()
            self._server = Tracee(self._pid, COMMANDS)
            self.prepare()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """False once it died or did not do as told."""
        if self._pid and has_ended(self._pid):
            self._pid = 0  # which may soon be another's
        return self._commands >= 0 and self._pid > 0

    def prepare(self) -> None:
        """Have the next copy ready: forked, stopped, and as far as it goes without a plan. OSError as `born`."""
        if self._stages is not None and self._walled:
            self._stages.prepare()
        self._next_copy()

    def _next_copy(self) -> Tracee:
        """A copy that is ready and alive; the one that waits, if it is."""
        if self._next is not None and has_ended(self._next.pid):
            self._next = None  # it was killed
        if self._next is None:
            try:
                os.write(self._commands, b"\0")
                copy = self._next = self._server.fork()
                copy.borrow()
                joined = self._stages.user_namespace if self._stages is not None and self._walled else None
                forked.make_ready(copy, self._socket, ARRIVALS, joined)
            except OSError:
                self.close()
                raise
        return self._next

    def born(self, plan: lockdown.Plan) -> int:
        """The pid of a new worker, a child of this process behind the walls of `plan`.

        OSError when one of its steps fails: then it is dead.
        """
        self._be_for(walled=plan.user_namespace is not None)
        worker, self._next = self._next_copy(), None
        try:
            forked.lock_down(worker, plan, self._socket, ARRIVALS, self._stages if self._walled else None)
            worker.release()
        except BaseException:
            end(worker.pid)
            raise
        return worker.pid

    def _be_for(self, *, walled: bool) -> None:
        """A copy that was made ready for another tier is of no use."""
        if walled != self._walled:
            self._walled = walled
            if self._next is not None:
                end(self._next.pid)
                self._next = None
            if self._stages is not None:
                self._stages.let_go()

    def close(self) -> None:
        """End it; the workers live on."""
        if self._commands < 0:
            return
        self.abandon()
        for pid in (self._pid, self._next.pid if self._next is not None else 0):
            if pid:
                end(pid)

    def abandon(self) -> None:
        """Close its descriptors and nothing else: what a child of this process that is no worker does."""
        if self._commands >= 0:
            os.close(self._commands)
            os.close(self._output)
            self._socket.close()
            self._commands = -1

    def _await_ready(self) -> None:
        with contextlib.suppress(TimeoutError):
            if self._socket.recv(len(_READY), socket.MSG_WAITALL) == _READY:
                return
        said = b""
        with contextlib.suppress(BlockingIOError):
            said = os.read(self._output, 4000)
        raise OSError(errno.EPIPE, f"the fork server does not start; it said: {said.decode(errors='backslashreplace')}")


def _become_server(argv: list[bytes], commands: int, arrivals: int, output: int) -> NoReturn:
    """In the child."""
    try:
        os.setsid()
        _, most = resource.getrlimit(resource.RLIMIT_STACK)
        resource.setrlimit(
            resource.RLIMIT_STACK, (_STACK if most == resource.RLIM_INFINITY else min(_STACK, most), most)
        )
        linux.prctl(lockdown.PR_SET_PDEATHSIG, signal.SIGKILL)
        for source, descriptor in ((output, 1), (output, 2), (commands, COMMANDS), (arrivals, ARRIVALS)):
            os.dup2(source, descriptor)
        os.set_inheritable(ARRIVALS, True)  # which dup2 does not do where it was there already
        linux.close_range(COMMANDS + 1, ARRIVALS - 1)
        linux.close_range(ARRIVALS + 1, lockdown.LAST_DESCRIPTOR)
        os.execve(argv[0], argv, _ENVIRONMENT)  # noqa: S606 - there is no shell to start it with
    finally:
        os._exit(1)
