"""The filter of a command: a worker's, and where its children are kept together, forks and signals."""

from __future__ import annotations

from typing import Final

import pytest

from sandbox_worker.walls import profile
from sandbox_worker.walls.bpf import ALLOW
from sandbox_worker.walls.bpf_interpreter import simulate
from sandbox_worker.walls.profile import EACCES, EPERM
from sandbox_worker.walls.syscalls import ARCHITECTURES

PID: Final = 4242
SLOTS: Final = {"pid": PID, "path": 0x12_3456_7898, "argv": 0x3F_0000_0010, "envp": 0x01_0000_0008}
SIGCHLD: Final = 17
THREAD: Final = 0x003D0F00
FORK: Final = 0x01200000 | SIGCHLD
SPAWN: Final = 0x4100 | SIGCHLD
both = pytest.mark.parametrize("machine", list(ARCHITECTURES))


def decide(machine: str, call: str, *arguments: int, forks: bool = True) -> int:
    architecture = ARCHITECTURES[machine]
    code = profile.command_filter(architecture, 7, metadata=False, forks=forks).patch(SLOTS)
    return simulate(code, architecture.numbers[call], arguments, architecture.audit)


@both
@pytest.mark.parametrize("flags", [THREAD, FORK, SPAWN, SIGCHLD])
def test_what_libc_forks_with_is_let_through(machine: str, flags: int) -> None:
    assert decide(machine, "clone", flags) == ALLOW


@both
@pytest.mark.parametrize(
    "flag",
    [0x80, 0x2000, 0x8000, 0x1000, 0x20000, 0x800000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000,
     0x40000000, 0x80000000],
)  # fmt: skip
def test_no_clone_makes_a_namespace_a_traced_child_or_one_of_its_parents(machine: str, flag: int) -> None:
    answer = decide(machine, "clone", SIGCHLD | flag)
    assert answer == (ALLOW if flag == 0x80 else EPERM)  # 0x80 is a signal's


@both
def test_without_a_wall_around_signals_there_is_no_child(machine: str) -> None:
    assert decide(machine, "clone", THREAD, forks=False) == ALLOW
    assert {decide(machine, "clone", flags, forks=False) for flags in (FORK, SPAWN, SIGCHLD)} == {EPERM}
    assert decide(machine, "kill", PID + 1, 9, forks=False) == EPERM
    assert decide(machine, "setsid", forks=False) == EPERM


@both
@pytest.mark.parametrize("call", ["prlimit64", "sched_setaffinity", "get_robust_list"])
def test_a_child_that_outlives_it_can_not_mean_whoever_has_its_pid_then(machine: str, call: str) -> None:
    assert decide(machine, call, 0) == ALLOW
    assert decide(machine, call, PID) == EPERM
    assert decide(machine, "setpriority", 0, 0) == ALLOW
    assert decide(machine, "setpriority", 0, PID) == EPERM
    assert decide(machine, "setpriority", 2, 0) == EPERM


@both
def test_everything_else_is_a_workers_without_a_network(machine: str) -> None:
    assert decide(machine, "socket", 2, 1, 0) == EACCES
    assert {decide(machine, call) for call in ("connect", "bind", "ptrace", "unshare", "mount", "memfd_create")} == {
        EPERM
    }
    assert decide(machine, "execve", 1, 2, 3) == EPERM
    assert decide(machine, "execveat") == EPERM
    assert decide(machine, "execve", *(SLOTS[name] for name in profile.EXEC_ARGUMENTS)) == ALLOW
