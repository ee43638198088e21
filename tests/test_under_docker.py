"""What stands in for Docker's default profile refuses and allows what that does."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

import pytest
import under_docker
from under_docker import ENOSYS, EPERM
from walls_driver import CHECKOUT, need

from sandbox_worker.walls import linux
from sandbox_worker.walls.bpf import ALLOW
from sandbox_worker.walls.bpf_interpreter import simulate
from sandbox_worker.walls.syscalls import ARCHITECTURES

both = pytest.mark.parametrize("machine", list(ARCHITECTURES))

# Calls, their arguments and the answer, as moby's profile has them for a container without added capabilities.
ANSWERS: Final = [
    ("unshare", (0x10000000,), EPERM),
    ("setns", (3, 0), EPERM),
    ("mount", (), EPERM),
    ("umount2", (), EPERM),
    ("pivot_root", (), EPERM),
    ("pidfd_getfd", (3, 4, 0), EPERM),
    ("keyctl", (), EPERM),
    ("bpf", (), EPERM),
    ("io_uring_setup", (), EPERM),
    ("userfaultfd", (), EPERM),
    ("open_by_handle_at", (), EPERM),
    ("clone3", (), ENOSYS),
    ("clone", (0x10000000 | 17,), EPERM),
    ("clone", (0x40000000 | 17,), EPERM),
    ("clone", (17,), ALLOW),
    ("socket", (1, 1, 0), ALLOW),
    ("socket", (16, 3, 0), ALLOW),
    ("socket", (38, 5, 0), EPERM),
    ("socket", (40, 1, 0), EPERM),
    ("personality", (0xFFFFFFFF,), ALLOW),
    ("personality", (0x0040000,), EPERM),
    ("ptrace", (), ALLOW),
    ("process_vm_readv", (), ALLOW),
    ("chroot", (), ALLOW),
    ("pidfd_open", (), ALLOW),
    ("seccomp", (), ALLOW),
    ("landlock_create_ruleset", (), ALLOW),
    ("landlock_restrict_self", (), ALLOW),
    ("memfd_create", (), ALLOW),
    ("openat2", (), ALLOW),
]


@both
@pytest.mark.parametrize(("call", "arguments", "answer"), ANSWERS)
def test_a_call_is_answered_as_the_profile_answers_it(
    machine: str, call: str, arguments: tuple[int, ...], answer: int
) -> None:
    architecture = ARCHITECTURES[machine]
    code = under_docker.program(architecture)
    assert simulate(code, architecture.numbers[call], arguments, architecture.audit) == answer


@both
def test_a_call_that_is_newer_than_the_table_is_not_there(machine: str) -> None:
    architecture = ARCHITECTURES[machine]
    number = max(architecture.numbers.values()) + 1
    assert simulate(under_docker.program(architecture), number, (), architecture.audit) == ENOSYS


def test_every_name_that_is_refused_is_a_call() -> None:
    assert under_docker.rules().keys() <= ARCHITECTURES["x86_64"].numbers.keys()


def test_a_command_runs_and_is_refused_namespaces() -> None:
    need(linux.ARCHITECTURE, "a table of system calls")
    code = (
        "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.unshare(0x10000000), ctypes.get_errno(), open('/proc/self/status').read().split('CapEff:')[1][:17])"
    )
    command = [sys.executable, "-m", "tests.under_docker", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=200)
    assert not done.returncode, done.stderr
    refused, number, capabilities = done.stdout.split()
    assert (refused, number) == ("-1", "1")
    allowed = sum(1 << each for each in under_docker.CAPABILITIES)
    assert not int(capabilities, 16) & ~allowed
    assert os.geteuid() or int(capabilities, 16)
