"""The spawner: one small single-threaded process per host that forks workers.

It talks to its host over `control`:

    host                                       spawner
    ["base", {rules, view, links,              ["ready", {landlock_abi, seccomp, ...}]
              interpreter, server}]
    ["spawn", {argv, env, cwd, rules, links,   ["spawned", pid] or ["error", text]
               limits, tier, named, run, forks,
               brokered, broker, unjudged}]
      + 4 or 5 descriptors
    ["reap", pid]                              ["reaped", pid, wait status]

"base" comes first and once. Its rules hold for every worker (standard library, shared libraries); their paths stay
open, so that a spawn only adds them. `view` and `links` are what they come to in tier `walled` (`view.arrange`); that
tier is tried at once, in a child. `server` is the command line of the fork server, or empty for none; a spawn with
`forks` is a copy of it, whose `argv` does not matter. "ready" says what the machine has (`Machine.report`), which of
these paths are `skipped` because they can't be opened as they are written (`landlock.open_rules`), and in `no_fork` why
there can be no fork server. The descriptors are those of calls, replies, events and log, and, where `brokered` names
what the broker (process `broker`) answers for the worker, a unix socket that leads there; `unjudged` is as
`profile.worker_filter` has it. `run` is empty, or what the commands of the worker may be and take
(`keeping.policy_of`, `box.limits_of`): then it gets a keeper (`keeper`), which has ended when "reaped" is said. A
worker that is to be reaped and still lives after a second is killed; until it is reaped it stays a zombie, so that its
pid never names another process. "reaped" comes when it is true: frames sent meanwhile are answered first.

The end of the stream, a frame that makes no sense and the host's death end the spawner and, before, all workers.
The host's death is watched by a pidfd: a parent-death signal would come when the *thread* that started the spawner
ends (prctl(2)). The workers have such a signal, for this process has only one thread.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time

from . import keeping, lockdown, view
from .control import Control, HangUp
from .elf import loader_of
from .machine import CONFINED, WALLED, Machine
from .namespaces import UserNamespace
from .profile import HANDED
from .rulesets import Rulesets
from .server import ForkServer
from .settle import settle
from .stages import Stages
from .workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

_ELF_START: Final = 65536  # more than a linker puts before the end of PT_INTERP
_WORKER_DESCRIPTORS: Final = (4, 5)
_IDLE: Final = 0.03
"""Seconds without a frame after which there is time to prepare for the next one: as a rule the worker that was asked
for last has started by then, which shares a processor with this process where there is but one."""


def main(control_fd: int, host_pid: int) -> NoReturn:
    """Serve the host `host_pid`, the parent of this process, on the socket `control_fd`. Ends with the process."""
    status = 1
    workers = Workers()
    try:
        made: list[UserNamespace] = []
        control = settle(control_fd, host_pid, lambda: made.append(UserNamespace()))
        spawner = Spawner(control, Machine(), made[0], workers)
        with contextlib.closing(spawner):
            spawner.serve()
    except HangUp:
        status = 0
    except BaseException:  # noqa: BLE001 - nothing may keep the workers from being killed
        sys.excepthook(*sys.exc_info())
    finally:
        workers.kill_all()
        os._exit(status)


class Spawner:
    """Answers frames until its `Control` hangs up."""

    __slots__ = (
        "_control",
        "_interpreter",
        "_links",
        "_machine",
        "_pid",
        "_prepared",
        "_rulesets",
        "_server",
        "_server_argv",
        "_stages",
        "_user_namespace",
        "_view",
        "_workers",
    )

    def __init__(self, control: Control, machine: Machine, user_namespace: UserNamespace, workers: Workers) -> None:
        self._control = control
        self._machine = machine
        self._user_namespace = user_namespace
        self._workers = workers
        self._pid = os.getpid()
        self._rulesets: Rulesets | None = None
        self._view: list[tuple[str, str]] = []
        self._links: list[tuple[str, str]] = []
        self._interpreter = b""
        self._server_argv: list[bytes] = []
        self._server: ForkServer | None = None
        self._stages: Stages | None = None
        self._prepared = False

    def serve(self) -> NoReturn:
        """Ends only by raising: HangUp, or what went wrong here."""
        self._take_base()
        gc.collect()
        gc.freeze()  # what lives now lives on: the children's collector leaves its pages shared
        while True:
            timeout = self._workers.kill_overdue(time.monotonic())
            if not self._prepared:
                timeout = _IDLE if timeout is None else min(timeout, _IDLE)
            frame_comes, ended = self._control.wait(timeout, self._workers.ending())
            for pidfd in ended:
                if (reaped := self._workers.collect(pidfd, time.monotonic())) is not None:
                    self._control.send("reaped", *reaped)
            if frame_comes:
                self._answer(*self._control.receive())
            elif not ended:
                self._prepare()

    def close(self) -> None:
        """End the fork server, and what waits for its copies."""
        if self._server is not None:
            self._server.close()
        if self._stages is not None:
            self._stages.close()

    def _prepare(self) -> None:
        """What the next worker needs whatever it is, while nobody waits for it."""
        self._prepared = True
        with contextlib.suppress(OSError):  # it will be tried again when it is needed, and then told
            if self._rulesets is not None:
                self._rulesets.prepare()
            if self._server is not None:
                self._server.prepare()

    def _take_base(self) -> None:
        message, descriptors = self._control.receive()
        if message[0] != "base" or len(message) != 2 or descriptors:
            raise HangUp("the first frame is not the base")
        try:
            programs = _programs(message[1]["interpreter"])
            self._interpreter = _encoded(message[1]["interpreter"])
            skipped = self._open_base([*message[1]["rules"], *programs])
            base = self._try_view([*message[1]["view"], *programs], message[1]["links"])
            no_fork = self._try_server([_encoded(argument) for argument in message[1]["server"]], base)
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._control.send("error", f"{type(error).__name__}: {error}")
            raise HangUp("there is nothing to do without a base") from error
        self._control.send("ready", {**self._machine.report(), "skipped": skipped, "no_fork": no_fork})

    def _open_base(self, rules: list[tuple[str, str]]) -> list[str]:
        if not self._machine.landlock_abi:
            return []
        self._rulesets = Rulesets(self._machine.landlock_abi, rules)
        return self._rulesets.skipped

    def _try_view(self, rules: list[tuple[str, str]], links: list[tuple[str, str]]) -> view.View:
        self._view, self._links = rules, links
        base = view.arrange(rules, (), links)
        self._user_namespace.attempt(base)
        self._machine.note_namespaces(self._user_namespace.why_not)
        return base

    def _try_server(self, argv: list[bytes], base: view.View) -> str:
        """Start the fork server, if there is to be one; gives why it can't be, or the empty text."""
        self._server_argv = argv
        joined = self._user_namespace.descriptor
        try:
            if argv and self._machine.seccomp:
                self._stages = Stages(joined, base) if self._machine.namespaces and joined is not None else None
                self._server = ForkServer(argv, self._stages)
        except OSError as error:
            return str(error)
        return ""

    def _answer(self, message: list[Any], descriptors: list[int]) -> None:
        try:
            match message:
                case ["spawn", dict() as wanted] if len(descriptors) in _WORKER_DESCRIPTORS:
                    self._spawn(wanted, descriptors)
                case ["reap", int() as pid] if not descriptors:
                    self._reap(pid)
                case _:
                    raise HangUp(f"a frame of kind {message[0]!r} with {len(descriptors)} descriptors")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _spawn(self, wanted: dict[str, Any], descriptors: list[int]) -> None:
        channel: tuple[socket.socket, ...] = ()
        self._prepared = False
        try:
            if wanted.get("run"):
                channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = self._fork(wanted, descriptors, channel)
            keeper = self._keep(wanted, descriptors, channel, pid) if channel else 0
        except (OSError, ValueError, TypeError, KeyError) as error:
            self._control.send("error", f"{type(error).__name__}: {error}")
            return
        finally:
            for end in channel:
                end.close()
        self._workers.add(pid, keeper)
        self._control.send("spawned", pid)

    def _fork(self, wanted: dict[str, Any], descriptors: list[int], channel: tuple[socket.socket, ...]) -> int:
        calls, replies, events, log, *broker = descriptors
        brokered = wanted.get("brokered", ())
        if bool(brokered) != bool(broker):
            raise ValueError("a broker's socket without anything to decide, or the other way round")
        handed = HANDED in brokered
        os.set_blocking(events, False)  # of the open file, so for the worker too: an event never holds it up
        tier, forks = wanted["tier"], bool(wanted["forks"])
        unjudged = wanted.get("unjudged", False)
        program = self._machine.filter_of(tier, brokered, unjudged=unjudged, execs=not forks)
        ruleset = self._ruleset(wanted["rules"]) if tier in (WALLED, CONFINED) else None
        try:
            plan = lockdown.Plan(
                interpreter=self._interpreter,
                argv=[_encoded(argument) for argument in wanted["argv"]],
                environment=_environment(wanted),
                folder=wanted["cwd"],
                descriptors=(
                    log,
                    log,
                    calls,
                    replies,
                    events,
                    *(end.fileno() for end in channel[1:]),
                    *(broker if handed else ()),
                ),
                limits=_limits(wanted["limits"]),
                ruleset=ruleset,
                user_namespace=self._user_namespace.descriptor if tier == WALLED else None,
                view=self._view_of(wanted) if tier == WALLED else None,
                named=bool(wanted["named"]),
                program=program,
                spawner=self._pid,
                broker=(broker[0], wanted["broker"]) if broker and not handed else None,
            )
            if forks:
                return self._copy(plan)
            pid = os.fork()
            if not pid:
                lockdown.become_worker(plan)
            return pid
        finally:
            if ruleset is not None:
                os.close(ruleset)

    def _release(self) -> None:
        """In a keeper: let go of what only the spawner talks over."""
        self._control.close()
        if self._server is not None:
            self._server.abandon()
        if self._stages is not None:
            self._stages.abandon()

    def _copy(self, plan: lockdown.Plan) -> int:
        """A worker from the fork server; from a new one, if it died."""
        if not self._server_argv:
            raise ValueError("no fork server")
        if self._server is None or not self._server.alive:
            if self._server is not None:
                self._server.close()
            self._server = ForkServer(self._server_argv, self._stages)
        return self._server.born(plan)

    def _keep(
        self, wanted: dict[str, Any], descriptors: list[int], channel: tuple[socket.socket, ...], worker: int
    ) -> int:
        """Start the worker's keeper; a worker without the one that it was promised has no use."""
        near, far = channel
        _, _, _, log, *_ = descriptors
        order = keeping.Order(
            tier=wanted["tier"],
            named=bool(wanted["named"]),
            wanted=wanted["run"],
            rules=[(path, access) for path, access in wanted["rules"]],
            links=[(path, target) for path, target in (*self._links, *wanted["links"])],
            rlimits=_limits(wanted["limits"]),
            environment=_environment(wanted),
            base=self._rulesets.base if self._rulesets and wanted["tier"] in (WALLED, CONFINED) else None,
            base_view=self._view,
            user_namespace=self._user_namespace.descriptor,
            log=log,
            foreign=[descriptor for descriptor in descriptors if descriptor != log] + [far.fileno()],
            release=self._release,
        )
        try:
            return keeping.start(order, self._machine, near, worker)
        except BaseException:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)
            raise

    def _view_of(self, wanted: dict[str, Any]) -> view.View:
        return view.arrange(self._view, wanted["rules"], [*self._links, *wanted["links"]])

    def _ruleset(self, rules: list[tuple[str, str]]) -> int:
        if self._rulesets is None:
            raise ValueError("no base rules")
        return self._rulesets.make(rule for rule in rules if view.HIDDEN not in rule[1:])

    def _reap(self, pid: int) -> None:
        if pid not in self._workers:
            self._control.send("error", f"{pid} is no worker of this spawner")
        elif (status := self._workers.end(pid, time.monotonic())) is not None:
            self._control.send("reaped", pid, status)


def _programs(interpreter: str) -> list[tuple[str, str]]:
    """The rules for what the kernel executes: the interpreter and the loader that it names."""
    with open(interpreter, "rb") as file:
        loader = loader_of(file.read(_ELF_START))
    return [(os.path.realpath(path), "x") for path in (interpreter, loader) if path is not None]


def _encoded(text: str) -> bytes:
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        raise ValueError("a null character in an argument, a path or the environment")
    return encoded


def _environment(wanted: dict[str, Any]) -> list[bytes]:
    return [_variable(name, value) for name, value in wanted["env"].items()]


def _variable(name: str, value: str) -> bytes:
    if not name or "=" in name:
        raise ValueError(f"{name[:100]!r} is no name for an environment variable")
    return _encoded(f"{name}={value}")


def _limits(wanted: dict[str, Any]) -> dict[int, int]:
    for name, value in wanted.items():
        if name not in lockdown.RESOURCES or not isinstance(value, int) or value < 0:  # -1 would be "no limit"
            raise ValueError(f"{name!r}: {value!r} is no limit; limits are {', '.join(lockdown.RESOURCES)}, from 0 up")
    return {lockdown.RESOURCES[name]: value for name, value in wanted.items()}
