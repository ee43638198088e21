"""Promises of waiting for a process by its handle."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from host.run.pidfd import ended

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_that_lives_has_not_ended(child: subprocess.Popen[bytes]) -> None:
    handle = os.pidfd_open(child.pid)
    try:
        assert not ended(handle)
        assert not ended(handle, 0.01)
    finally:
        os.close(handle)


def test_the_end_of_a_process_is_seen_even_once_somebody_else_has_reaped_it(child: subprocess.Popen[bytes]) -> None:
    handle = os.pidfd_open(child.pid)
    try:
        child.kill()
        assert ended(handle, 20)
        child.wait()
        assert ended(handle)
    finally:
        os.close(handle)


def test_descriptors_above_1023_work(child: subprocess.Popen[bytes]) -> None:
    """select(2) can't take them; an application with many connections has them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    handle = os.pidfd_open(child.pid)
    high = 2000
    try:
        os.dup2(handle, high)
        assert not ended(high)
        child.kill()
        assert ended(high, 20)
    finally:
        os.close(handle)
        os.close(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
