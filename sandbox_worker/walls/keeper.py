"""The keeper of one worker's commands: a process that starts them behind the worker's walls, and ends them with it.

A worker with a `run` grant has a unix socket (SOCK_SEQPACKET) that leads here, one message each way at a time:

    worker                                                keeper
    ["start", paths, argv, environment, folder, umask]    ["started", number] + a pipe that brings the wait status
      + stdin, stdout, stderr                             ["refused", why] or ["failed", errno, step]
    ["signal", number, signal, whether its group]         ["done"] or ["failed", errno, 0]
    ["drop", path or "*"]                                 ["done"]

Everything from the worker is hostile: what is no such message ends all its commands and this process. A `number` is
no pid: it lies above all that the kernel gives, so that it can't mean another process anywhere.

Commands may fork where the kernel keeps all that they become together: in `walled` the keeper is the first process of a
process namespace; in `confined` with Landlock 6 it keeps its and their signals among themselves. Either way one
kill(-1) reaches all of them, at once, and nothing else; what daemonises becomes the keeper's child. Elsewhere they may
not fork. The keeper looks at them every 20 ms: how many they are, what memory and processor time they take together.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time

from sandbox_worker import wire

from . import command_policy, tree
from .box import Ended
from .command import REPORT
from .programs import place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

    from .box import Box
    from .command_policy import Policy

FIRST_NUMBER: Final = 1 << 22
"""PID_MAX_LIMIT (include/linux/threads.h): no pid is as high."""
TICK: Final = 0.02
_DESCRIPTORS: Final = 3
_INT_SIZE: Final = 4


class Keeper:
    """Serves one worker to its end. `worker` and `spawner` are pidfds; `log` is where it says what it ended."""

    def __init__(self, box: Box, policy: Policy, channel: socket.socket, worker: int, spawner: int, log: int) -> None:
        self._box = box
        self._policy = policy
        self._channel = channel
        self._log = log
        self._ends = {worker, spawner}
        self._numbers: dict[int, int] = {}  # number: pid
        self._status: dict[int, int] = {}  # pid: the pipe for its wait status
        self._next = FIRST_NUMBER
        self._starting: tuple[int, int] | None = None  # (pid, the pipe by which it reports a failure)
        self._cpu = 0.0  # of those that ended before the ones that run now began
        self._busy = False
        self._wake, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the worker or the spawner is dead, or the worker hangs up."""
        look = 0.0
        while True:
            ready = self._wait()
            if ready & self._ends:
                return
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            self._reap()
            if self._starting is not None and self._starting[1] in ready:
                self._started()
            elif self._channel.fileno() in ready:
                self._answer()
            if self._busy and time.monotonic() >= look:
                self._look()
                look = time.monotonic() + TICK

    def _wait(self) -> set[int]:
        poll = select.poll()
        for descriptor in (*self._ends, self._wake):
            poll.register(descriptor, select.POLLIN)
        # One at a time: while one starts, the worker waits for its answer anyway.
        poll.register(self._starting[1] if self._starting else self._channel.fileno(), select.POLLIN)
        try:
            self._peek()
            self._busy = True
        except ChildProcessError:
            self._busy = False
            self._cpu = tree.cpu_of_ended()
        return {descriptor for descriptor, _ in poll.poll(1000 * TICK if self._busy else None)}

    # --- what the worker asks

    def _answer(self) -> None:
        room = socket.CMSG_SPACE(_DESCRIPTORS * _INT_SIZE)
        data, ancillary, flags, _ = self._channel.recvmsg(command_policy.MAX_MESSAGE, room, socket.MSG_CMSG_CLOEXEC)
        given = [
            int.from_bytes(content[at : at + _INT_SIZE], sys.byteorder)
            for level, kind, content in ancillary
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for at in range(0, len(content) - _INT_SIZE + 1, _INT_SIZE)
        ]
        try:
            if not data or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Ended("the worker hung up, or sent more than a message may be")
            self._act(wire.decode(data), given)
        finally:
            for descriptor in given:
                os.close(descriptor)

    def _act(self, message: object, given: list[int]) -> None:
        match message:
            case ["start", *fields] if len(given) == _DESCRIPTORS:
                self._start(command_policy.start_of(fields), given)
            case ["signal", int() as number, int() as which, bool() as group] if not given:
                self._signal(number, which, group=group)
            case ["drop", str() as path] if not given:
                self._policy.drop({path} if path == command_policy.ALL else {path, place(path), os.path.realpath(path)})
                self._say("done")
            case _:
                raise Ended("no message")

    def _start(self, request: command_policy.Start, given: list[int]) -> None:
        if len(self._status) >= self._box.limits.processes:
            self._say("failed", errno.EAGAIN, 0)
            return
        verdict, path = self._judged(request)
        if path is None:
            self._say("refused", verdict)
            return
        if b"/" in request.argv[0]:  # a link on its way may have become another by the time that the program looks
            request.argv[0] = os.fsencode(path)
        try:
            self._starting = self._box.start(path, request, given)
        except OSError as error:
            self._say("failed", error.errno or errno.EIO, 0)

    def _judged(self, request: command_policy.Start) -> tuple[str, str | None]:
        """The first of the paths that is granted and there, or why none is."""
        if (name := command_policy.foreign_loading(request.environment, self._box.environment)) is not None:
            return f"variable {name}", None
        arguments = [argument.decode("utf-8", "surrogateescape") for argument in request.argv]
        verdict, granted = command_policy.NO_RULE, None
        for path in request.paths:
            spelled = place(os.path.join(request.folder, path))
            judged = self._policy.judge(spelled, os.path.realpath(spelled), arguments[1:])
            if judged == command_policy.ALLOWED:
                if not _names(arguments[0], spelled, request.folder):
                    return "name", None  # by which a program of many names would be another one
                if self._box.may_write(spelled):
                    return "writable", None
                granted = granted or spelled
                if os.path.exists(spelled):
                    return judged, spelled
            elif verdict == command_policy.NO_RULE:
                verdict = judged
        return verdict, granted

    def _started(self) -> None:
        """The command was executed, or its start failed: the pipe's end, or a report."""
        assert self._starting is not None  # for the type checker
        pid, pipe = self._starting
        said = os.read(pipe, REPORT)
        os.close(pipe)
        self._starting = None
        if said:
            self._say("failed", int.from_bytes(said[4:], "big") or errno.EIO, int.from_bytes(said[:4], "big"))
            return
        read, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(write, False)  # ours alone: the worker may fill the pipe, and nobody waits for it here
        self._next += 1
        self._numbers[self._next] = pid
        self._status[pid] = write
        self._say("started", self._next, descriptor=read)
        os.close(read)
        self._reap()

    def _signal(self, number: int, which: int, *, group: bool) -> None:
        """To a command that has not been waited for: its pid can't be another's."""
        pid = self._numbers.get(number, 0)
        if pid not in self._status or not 0 <= which <= command_policy.LAST_SIGNAL:
            self._say("failed", errno.ESRCH if pid not in self._status else errno.EINVAL, 0)
            return
        try:
            (os.killpg if group else os.kill)(pid, which)
        except OSError as error:
            self._say("failed", error.errno or errno.EIO, 0)
        else:
            self._say("done")

    def _say(self, *message: Any, descriptor: int | None = None) -> None:
        """A worker that does not listen has no right to an answer."""
        body = wire.Encoder().encode(list(message))[4:]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))] if descriptor else []
        self._channel.sendmsg([body], rights, socket.MSG_DONTWAIT)

    # --- what becomes of the commands

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                if self._starting is not None and self._peek() == self._starting[0]:
                    return  # its report is read first
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                self._collect(pid, status)

    @staticmethod
    def _peek() -> int:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found.si_pid if found is not None else 0

    def _collect(self, pid: int, status: int) -> None:
        pipe = self._status.pop(pid, None)
        if pipe is None:  # what a command left behind
            return
        self._numbers = {number: known for number, known in self._numbers.items() if known != pid}
        with contextlib.suppress(OSError):
            os.write(pipe, status.to_bytes(4, "big"))
        os.close(pipe)

    def _look(self) -> None:
        """End them all when together they take more than a worker may."""
        limits = self._box.limits
        found = tree.usage(limits.processes)
        exceeded = (
            f"more than {limits.processes} processes and threads"
            if found.processes > limits.processes
            else "more memory than the worker's limit"
            if found.memory > limits.memory
            else "more processor time than cpu_time"
            if found.cpu - self._cpu > limits.cpu
            else ""
        )
        if exceeded:
            self.end_all()
            with contextlib.suppress(OSError):
                os.write(self._log, f"plughold: the commands were ended: together {exceeded}\n".encode())

    def end_all(self) -> None:
        """SIGKILL to every command and all that they became."""
        if self._box.forks:
            self._box.require_walls()
            with contextlib.suppress(OSError):
                os.kill(-1, signal.SIGKILL)
        else:
            for pid in (*self._status, *([self._starting[0]] if self._starting else [])):
                os.kill(pid, signal.SIGKILL)


def _names(called: str, program: str, folder: str) -> bool:
    """Whether argv[0] is the program's name, or a path to it: by another folder, programs find their parts there."""
    if "/" in called:
        return place(os.path.join(folder, called)) == program
    return called == os.path.basename(program)


def keep(keeper: Keeper) -> NoReturn:
    """Serve to the end, then end every command, and this process."""
    status = 0
    try:
        keeper.serve()
    except (Ended, OSError, ValueError, TypeError):  # the worker broke the protocol, or is gone
        pass
    except BaseException:  # noqa: BLE001 - nothing may keep the commands from being ended
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        try:
            keeper.end_all()
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.waitpid(-1, 0)
        finally:
            os._exit(status)
