"""What a forked child does before it is a worker: ten ordered steps, the last of which execs the interpreter.

The order is forced: descriptors go first so that nothing foreign is ever inside; namespaces come before Landlock, which
forbids mounts, and before capabilities, for they bring some; capabilities go while prctl(2) may still drop them; the
parent-death signal is set after them because a change of credentials clears it (PR_SET_PDEATHSIG(2const)); Landlock and
seccomp need no_new_privs; seccomp is last because it refuses what the others use. A step that fails ends the child
with an exit code that names it (`steps`): half a lockdown is no lockdown.

The ruleset is opened and filled before the fork, by the spawner: it needs descriptors, of which the limits may leave
too few, and its errors reach the host as text.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket

from . import building, landlock, linux, namespaces
from .exec_gate import ExecGate
from .steps import EXIT_BASE, STEPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final, NoReturn

    from .bpf import Program
    from .view import View

RESOURCES: Final = {
    "data": resource.RLIMIT_DATA,
    "as": resource.RLIMIT_AS,
    "nofile": resource.RLIMIT_NOFILE,
    "fsize": resource.RLIMIT_FSIZE,
    "stack": resource.RLIMIT_STACK,
    "core": resource.RLIMIT_CORE,
    "sigpending": resource.RLIMIT_SIGPENDING,
}
"""The limits by name; units as in getrlimit(2): bytes, and descriptors for "nofile"."""

FIRST_FOREIGN: Final = 8
"""A worker's own descriptors are 0 (/dev/null), 1 and 2 (log), 3 (calls), 4 (replies), 5 (events), and at most two
more: with a `run` grant the way to its keeper, and where it hands its calls over that to the broker."""

LAST_DESCRIPTOR: Final = 2**31 - 2  # one below the largest C int
UMASK: Final = 0o077

# include/uapi/linux/prctl.h, include/uapi/linux/securebits.h
PR_SET_PDEATHSIG: Final = 1
PR_CAPBSET_DROP: Final = 24
PR_SET_SECUREBITS: Final = 28
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
PR_SET_PTRACER: Final = 0x59616D61
SECUREBITS: Final = 0xEF  # NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, and the locks of all four


class Plan:
    """All that the child needs, computed before the fork.

    `descriptors` are what becomes its descriptors from `first` on, all at or above FIRST_FOREIGN; `ruleset` is a
    Landlock descriptor or None (tier `filtered`); `user_namespace` is a descriptor and `view` what is seen in it, both
    None below tier `walled`, the first also where the process is in it already, and `named` whether this machine's name
    is known there; `limits` maps getrlimit(2) resources to values for both soft and hard limit; `program` has the slots
    of `profile.worker_filter`. `broker` is None, or the connected unix socket over which the broker gets the filter's
    notifications, and the broker's pid.
    """

    __slots__ = (
        "argv",
        "broker",
        "descriptors",
        "environment",
        "first",
        "folder",
        "interpreter",
        "limits",
        "named",
        "program",
        "ruleset",
        "spawner",
        "user_namespace",
        "view",
    )

    def __init__(
        self,
        *,
        interpreter: bytes,
        argv: Sequence[bytes],
        environment: Sequence[bytes],
        folder: str,
        descriptors: Sequence[int],
        limits: dict[int, int],
        ruleset: int | None,
        user_namespace: int | None,
        view: View | None,
        named: bool,
        program: Program,
        spawner: int,
        broker: tuple[int, int] | None = None,
        first: int = 1,
    ) -> None:
        self.interpreter = interpreter
        self.argv = argv
        self.environment = environment
        self.folder = folder
        self.descriptors = descriptors
        self.limits = limits
        self.ruleset = ruleset
        self.user_namespace = user_namespace
        self.view = view
        self.named = named
        self.program = program
        self.spawner = spawner
        self.broker = broker
        self.first = first


def become_worker(plan: Plan) -> NoReturn:
    """Take the steps, in a child that has just been forked. Never returns, and never raises."""
    index = 0
    try:
        child = Child(plan)
        for index, step in enumerate(STEPS):  # noqa: B007 - the step that failed is read below
            getattr(child, step)()
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on as a second spawner
        _report(STEPS[index], error)
    finally:
        os._exit(EXIT_BASE + index)


class Child:
    """The steps, one method each, named as in `STEPS`."""

    __slots__ = ("_gate", "_plan")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def descriptors(self) -> None:
        """Its own, and the ruleset, the user namespace and the way to the broker, which are close-on-exec."""
        plan = self._plan
        self.keep_only(plan.ruleset, plan.user_namespace, plan.broker and plan.broker[0])

    def keep_only(self, *others: int | None) -> None:
        """Put the plan's descriptors in their places; close all but these and `others`."""
        plan = self._plan
        for descriptor, source in enumerate(plan.descriptors, start=plan.first):
            os.dup2(source, descriptor)
        first = plan.first + len(plan.descriptors)
        for kept in sorted(d for d in others if d is not None):
            if kept > first:
                linux.close_range(first, kept - 1)
            first = kept + 1
        linux.close_range(first, LAST_DESCRIPTOR)

    def session(self) -> None:
        """No terminal to type into (TIOCSTI), a process group of its own to kill, new files private; and one thread:
        before ABI 8 Landlock binds one only, and others would stay free.

        Signal dispositions and mask are those of the spawner: all default and empty, but SIGPIPE ignored.
        """
        require_one_thread()
        os.setsid()
        os.chdir(self._plan.folder)
        os.umask(UMASK)

    def namespaces(self) -> None:
        """What is not granted is not there. Then again the folder, by its name there: the old one leads outside."""
        if self._plan.view is None:
            return
        namespaces.enter(self._plan.user_namespace, self._plan.view, named=self._plan.named)
        if self._plan.user_namespace is not None:
            os.close(self._plan.user_namespace)
        self.settle()

    def settle(self) -> None:
        """What leads out of a new view is opened anew."""
        building.use_own_null()
        os.chdir(self._plan.folder)

    def capabilities(self) -> None:
        """None in any set, and none to come back: a new user namespace has just handed out all of its own."""
        if self._plan.view is None:
            _drop_capabilities()  # the rest of `renounce` the spawner has done for itself, and it is inherited
        else:
            renounce()

    def parent(self) -> None:
        """Die with the spawner; if it died before this took effect, now. The profile keeps prctl(2) from undoing it."""
        linux.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._plan.spawner:
            raise ProcessLookupError("the spawner is gone")

    def limits(self) -> None:
        """Soft and hard alike, never above the hard limit that this process has."""
        for kind, value in self._plan.limits.items():
            _, hard = resource.getrlimit(kind)
            limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (limit, limit))

    def no_new_privs(self) -> None:
        """No exec gives rights, set-uid or not; Landlock and seccomp ask for it."""
        linux.prctl(PR_SET_NO_NEW_PRIVS, 1)

    def landlock(self) -> None:
        """The files that the rules name, whatever is seen of them."""
        if self._plan.ruleset is None:
            return
        landlock.restrict_self(self._plan.ruleset)
        os.close(self._plan.ruleset)

    def seccomp(self) -> None:
        """The profile, with this process's pid and the addresses of its one execve.

        Whoever holds the notifications of a filter may answer them, so they are gone from here before the exec.
        """
        plan = self._plan
        self._gate = ExecGate(plan.interpreter, plan.argv, plan.environment)
        path, argv, envp = self._gate.addresses()
        code = plan.program.patch({"pid": os.getpid(), "path": path, "argv": argv, "envp": envp})
        if plan.broker is None:
            linux.install_filter(code)
            return
        channel, broker = plan.broker
        with contextlib.suppress(OSError):  # EINVAL without Yama, which else lets only ancestors read its memory
            linux.prctl(PR_SET_PTRACER, broker)
        with socket.socket(fileno=channel) as connection:
            listener = linux.install_supervised_filter(code)
            socket.send_fds(connection, [os.getpid().to_bytes(4, "big")], [listener])
            os.close(listener)

    def exec(self) -> None:
        """The interpreter, through the gate."""
        self._gate.execute()


def require_one_thread() -> None:
    """RuntimeError when this process has more than one thread."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"{threads} threads where there must be one")


def renounce() -> None:
    """Drop all capabilities of this process, and for root keep any exec of it and its children from bringing them back.

    Without CAP_SETPCAP the bounding set and the securebits stay: then no_new_privs is what keeps an exec from adding
    capabilities to the permitted ones, which are none (security/commoncap.c, cap_bprm_creds_from_file).
    """
    try:
        linux.prctl(PR_SET_SECUREBITS, SECUREBITS)
    except PermissionError:
        pass
    else:
        _drop_bounding_set()
    _drop_capabilities()


def _drop_capabilities() -> None:
    linux.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    linux.drop_capabilities()


def _drop_bounding_set() -> None:
    for capability in range(64):
        try:
            linux.prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the last capability of this kernel
                return
            raise


def _report(step: str, error: BaseException) -> None:
    """One line for the host's log of this worker; without it the exit code still names the step."""
    text = f"plughold: the lockdown step {step!r} failed: {type(error).__name__}: {error}\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode("utf-8", "backslashreplace")[:1000])
