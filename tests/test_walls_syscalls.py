"""The tables of system calls."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import pytest

from sandbox_worker.walls.syscalls import AARCH64, ARCHITECTURES, X86_64

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


@pytest.mark.parametrize("table", [X86_64, AARCH64], ids=["x86_64", "aarch64"])
def test_no_number_has_two_names(table: dict[str, int]) -> None:
    assert len(set(table.values())) == len(table)


def test_numbers_of_the_common_range_are_the_same_on_both_architectures() -> None:
    """Since Linux 5.1 a new call has one number everywhere, from 424 on (include/uapi/asm-generic/unistd.h)."""
    common = {name: number for name, number in X86_64.items() if number >= 424}
    assert common == {name: number for name, number in AARCH64.items() if number >= 424}


@pytest.mark.parametrize(
    ("table", "known"),
    [
        (X86_64, {"read": 0, "mmap": 9, "clone": 56, "execve": 59, "openat": 257, "seccomp": 317, "pkey_free": 331}),
        (AARCH64, {"io_setup": 0, "openat": 56, "read": 63, "clone": 220, "execve": 221, "seccomp": 277, "rseq": 293}),
    ],
    ids=["x86_64", "aarch64"],
)
def test_well_known_calls_have_their_numbers(table: dict[str, int], known: dict[str, int]) -> None:
    assert known.items() <= table.items()


@pytest.mark.parametrize("name", ["open", "stat", "fork", "vfork", "chmod", "utime", "poll", "arch_prctl"])
def test_legacy_calls_exist_on_x86_64_only(name: str) -> None:
    assert name in X86_64
    assert name not in AARCH64


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers of x86_64")
def test_the_table_of_x86_64_agrees_with_the_kernel_headers() -> None:
    defined = dict(re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text()))
    assert {name: X86_64.get(name) for name in defined} == {name: int(number) for name, number in defined.items()}


def test_the_kernel_answers_to_the_number_of_getpid() -> None:
    architecture = ARCHITECTURES.get(os.uname().machine)
    if architecture is None:
        pytest.skip("a machine without a table")
    assert ctypes.CDLL(None).syscall(architecture.numbers["getpid"]) == os.getpid()
