"""The walls of one worker, as its keeper puts them up again around each of its commands."""

from __future__ import annotations

import errno
import math
import os
import resource

from . import landlock, programs, view
from .command import become_command
from .lockdown import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any, Final

    from .bpf import Program
    from .command_policy import Start

    Pairs = Sequence[tuple[str, str]]

_FIRST_OF_NAMESPACE: Final = 1


class Ended(Exception):
    """The worker is gone, or breaks the protocol: nothing is left to do."""


class Limits:
    """What the commands of a worker may take together: processes and threads, bytes resident, seconds of processor."""

    __slots__ = ("cpu", "memory", "processes")

    def __init__(self, processes: int, memory: int, cpu: float) -> None:
        self.processes = processes
        self.memory = memory
        self.cpu = cpu


class Box:
    """`environment` is the worker's own, NAME=VALUE; `forks` whether commands may fork.

    `base` and `own` are the worker's Landlock rules and `abi` their version, None in tier `filtered`; `base_view` is
    the view of every worker, None below tier `walled`, `named` as in `lockdown.Plan`. `rules`, `links` and `rlimits`
    are as the spawner takes them; `spawner` is its pid.
    """

    __slots__ = ("_abi", "_base", "_base_view", "_links", "_named", "_own", "_program", "_rlimits", "_rules",
                 "_spawner", "environment", "forks", "limits")  # fmt: skip

    def __init__(
        self,
        *,
        program: Program,
        base: landlock.Rules | None,
        own: landlock.Rules | None,
        abi: int,
        named: bool,
        base_view: Pairs | None,
        rules: Pairs,
        links: Pairs,
        rlimits: Mapping[int, int],
        limits: Limits,
        environment: Iterable[bytes],
        forks: bool,
        spawner: int,
    ) -> None:
        self._program = program
        self._base = base
        self._own = own
        self._abi = abi
        self._named = named
        self._base_view = base_view
        self._rules = rules
        self._links = links
        self._rlimits = {**rlimits, resource.RLIMIT_CPU: math.ceil(limits.cpu)}
        self._spawner = spawner
        self.limits = limits
        self.environment = frozenset(environment)
        self.forks = forks

    def may_write(self, path: str) -> bool:
        """Whether the worker may change what `path` leads to, by the file or by any link or folder on the way: a grant
        of it would grant whatever it puts there."""
        return programs.leads_through(path, writable_of(self._rules))

    def start(self, path: str, request: Start, given: Sequence[int]) -> tuple[int, int]:
        """Fork a child that becomes the program at `path` with the descriptors `given`.

        Gives its pid and the pipe by which it reports a failure, or nothing once it is the program. OSError where the
        program is not there, or nobody may execute it.
        """
        program = programs.look_up(path)
        if any(map(self.may_write, program.spelled)):  # a script's interpreter
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        report, report_end = os.pipe2(os.O_CLOEXEC)
        ruleset = None
        try:
            ruleset = self._ruleset(program)
            plan = self._plan(program, request, given, ruleset)
            pid = os.fork()
            if not pid:
                become_command(plan, request.umask, report_end)
        except BaseException:
            os.close(report)
            raise
        finally:
            os.close(report_end)
            if ruleset is not None:
                os.close(ruleset)
        return pid, report

    def require_walls(self) -> None:
        """RuntimeError unless a signal to everything reaches the commands alone."""
        if os.getpid() == _FIRST_OF_NAMESPACE:
            return
        try:
            os.kill(self._spawner, 0)
        except OSError as error:
            if error.errno == errno.EPERM:
                return
        raise RuntimeError("signals are not kept within the commands")

    def _plan(self, program: programs.Program, request: Start, given: Sequence[int], ruleset: int | None) -> Plan:
        seen = None
        if self._base_view is not None:
            own = [*self._rules, *((file, "x") for file in program.files)]
            seen = view.arrange(self._base_view, own, [*self._links, *program.links])
        return Plan(
            interpreter=os.fsencode(program.path),
            argv=request.argv,
            environment=request.environment,
            folder=request.folder,
            descriptors=given,
            first=0,
            limits=dict(self._rlimits),
            ruleset=ruleset,
            user_namespace=None,
            view=seen,
            named=self._named,
            program=self._program,
            spawner=os.getpid(),
        )

    def _ruleset(self, program: programs.Program) -> int | None:
        if self._base is None or self._own is None:
            return None
        opened, _ = landlock.open_rules([(file, "x") for file in program.files])
        try:
            return landlock.make_ruleset(self._abi, self._base, self._own, landlock.Rules(opened, self._abi))
        finally:
            landlock.close_rules(opened)


def writable_of(rules: Pairs) -> list[str]:
    """The paths beneath which a worker with these rules may write."""
    return [root for root, access in rules if "w" in access]


def limits_of(wanted: Mapping[str, Any]) -> Limits:
    """The limits of a frame: whole numbers of processes and bytes, seconds. ValueError for what is none."""
    processes, memory, cpu = wanted["processes"], wanted["memory"], wanted["cpu"]
    if type(processes) is not int or type(memory) is not int or not min(processes, memory, cpu) > 0:
        raise ValueError("commands need limits above 0")
    return Limits(processes, memory, float(cpu))
