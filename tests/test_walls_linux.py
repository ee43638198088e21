"""The system calls that Python does not offer."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys

import pytest
from walls_driver import CHECKOUT, need

from sandbox_worker.walls import linux
from sandbox_worker.walls.bpf import ALLOW, KILL_PROCESS, fail_with
from sandbox_worker.walls.exec_gate import draw

PAGE = mmap.PAGESIZE


@pytest.fixture(autouse=True)
def _supported() -> None:
    need(linux.ARCHITECTURE, f"a table of system calls for {linux.MACHINE}")


def test_a_call_gives_its_result() -> None:
    assert linux.syscall("getpid") == os.getpid()


def test_a_failure_is_an_os_error_with_the_kernels_errno() -> None:
    with pytest.raises(OSError, match="close") as caught:
        linux.syscall("close", 1 << 20)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError, match="prctl"):
        linux.prctl(0xFFFF)


def test_memory_comes_where_it_was_asked_for_and_never_over_something() -> None:
    address = draw() // PAGE * PAGE
    assert linux.map_memory(address, PAGE)
    assert not linux.map_memory(address, PAGE)
    linux.write_memory(address, b"here")
    assert linux.syscall("munmap", address, PAGE) == 0


def test_an_impossible_mapping_is_an_error() -> None:
    with pytest.raises(OSError, match="mmap"):
        linux.map_memory(1 << 32, 0)


def test_the_kernel_knows_the_actions_that_the_filters_use() -> None:
    for action in (ALLOW, KILL_PROCESS, fail_with(0)):
        linux.require_filter_action(action)
    with pytest.raises(OSError, match="seccomp"):
        linux.require_filter_action(0x12340000)


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with `linux` and `os` imported."""
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\nimport os\nfrom sandbox_worker.walls import linux\n{code}"
    )
    return subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=False)


def test_close_range_closes_both_ends_and_nothing_else() -> None:
    code = """
fds = [os.open('/dev/null', os.O_RDONLY) for _ in range(20)]
linux.close_range(fds[3], fds[8])
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
print([index for index, fd in enumerate(fds) if not is_open(fd)])
"""
    assert run(code).stdout.strip() == "[3, 4, 5, 6, 7, 8]"


def test_close_range_works_where_the_call_is_missing() -> None:
    code = """
linux._NUMBERS.clear()
fd = os.open('/dev/null', os.O_RDONLY)
linux.close_range(fd, 2**31 - 2)
try: os.fstat(fd)
except OSError: print('closed')
"""
    assert run(code).stdout.strip() == "closed"


def test_capabilities_are_dropped_without_a_privilege() -> None:
    code = """
linux.drop_capabilities()
linux.drop_capabilities()
print([line.split()[1] for line in open('/proc/self/status') if line[:6] in ('CapInh', 'CapPrm', 'CapEff')])
"""
    assert run(code).stdout.strip() == str(["0" * 16] * 3)
