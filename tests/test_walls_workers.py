"""Children from fork to wait; the clock is the test's own."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING

import pytest
from walls_driver import ended

from sandbox_worker.walls.workers import GRACE, Workers

if TYPE_CHECKING:
    from collections.abc import Callable


def child(then: Callable[[], None]) -> int:
    """Fork a child that does `then` and exits with 3."""
    pid = os.fork()
    if not pid:
        try:
            then()
        finally:
            os._exit(3)
    return pid


def sleep_for_ever() -> None:
    select.select([], [], [])


def gone(pid: int) -> bool:
    """Wait until the child is a zombie."""
    pidfd = os.pidfd_open(pid)
    try:
        return ended(pidfd)
    finally:
        os.close(pidfd)


def test_a_dead_worker_is_a_zombie_until_it_is_reaped() -> None:
    workers = Workers()
    pid = child(lambda: None)
    workers.add(pid)
    assert gone(pid)
    os.kill(pid, 0)
    assert os.waitstatus_to_exitcode(workers.end(pid, 0.0) or 0) == 3
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_living_worker_is_killed_when_its_grace_is_over_and_not_before() -> None:
    workers = Workers()
    pid = child(sleep_for_ever)
    workers.add(pid)
    assert workers.end(pid, 100.0) is None
    (pidfd,) = workers.ending()
    assert workers.kill_overdue(100.0 + GRACE / 2) == GRACE / 2
    assert not ended(pidfd, 0)
    assert workers.kill_overdue(100.0 + GRACE) is None
    assert ended(pidfd)
    assert workers.collect(pidfd) == (pid, signal.SIGKILL)
    assert workers.ending() == ()


def test_a_worker_that_ends_in_its_grace_is_collected_with_its_own_status() -> None:
    workers = Workers()
    read, write = os.pipe()

    def wait_for_the_end_of_the_pipe() -> None:
        os.close(write)
        os.read(read, 1)

    pid = child(wait_for_the_end_of_the_pipe)
    workers.add(pid)
    assert workers.end(pid, 0.0) is None
    os.close(write)
    os.close(read)
    (pidfd,) = workers.ending()
    assert ended(pidfd)
    assert os.waitstatus_to_exitcode(workers.collect(pidfd)[1]) == 3
    assert workers.kill_overdue(99.0) is None


def test_who_is_to_end_is_no_worker_any_more() -> None:
    workers = Workers()
    pid = child(lambda: None)
    workers.add(pid)
    assert pid in workers
    assert gone(pid)
    workers.end(pid, 0.0)
    assert pid not in workers


def test_kill_all_kills_the_working_the_ending_and_the_dead() -> None:
    workers = Workers()
    pids = [child(sleep_for_ever), child(sleep_for_ever), child(lambda: None)]
    for pid in pids:
        workers.add(pid)
    assert gone(pids[2])
    workers.end(pids[1], 0.0)
    workers.kill_all()
    assert [os.WTERMSIG(os.waitpid(pid, 0)[1]) for pid in pids[:2]] == [signal.SIGKILL] * 2
    os.waitpid(pids[2], 0)
    os.close(workers.ending()[0])


def test_the_whole_process_group_of_a_worker_is_killed() -> None:
    workers = Workers()
    read, write = os.pipe()

    def lead() -> None:
        os.setsid()
        os.close(read)
        if not os.fork():
            sleep_for_ever()
        os.write(write, b"x")
        sleep_for_ever()

    pid = child(lead)
    os.close(write)
    workers.add(pid)
    assert os.read(read, 1) == b"x"
    workers.kill_all()
    assert os.read(read, 1) == b""  # nobody holds the other end: the grandchild is dead too
    os.close(read)
    os.waitpid(pid, 0)


def keeper_that_reads(pipe: int) -> Callable[[], None]:
    """Ends in order once the pipe has news."""

    def wait() -> None:
        os.read(pipe, 1)
        os._exit(0)

    return wait


def test_a_worker_is_collected_after_its_keeper_which_has_a_grace_of_its_own() -> None:
    read, write = os.pipe()
    workers = Workers()
    pid, keeper = child(lambda: None), child(keeper_that_reads(read))
    workers.add(pid, keeper)
    assert gone(pid)
    assert workers.end(pid, 100.0) is None
    (pidfd,) = workers.ending()
    assert workers.collect(pidfd, 100.0) is None
    os.kill(pid, 0)
    (pidfd,) = workers.ending()
    assert workers.kill_overdue(100.0 + GRACE / 2) == GRACE / 2
    os.write(write, b"x")
    assert ended(pidfd)
    assert workers.collect(pidfd, 101.0) == (pid, 3 << 8)
    assert workers.ending() == ()
    for descriptor in (read, write):
        os.close(descriptor)


def test_all_workers_are_killed_and_their_keepers_awaited() -> None:
    read, write = os.pipe()
    workers = Workers()
    pid, keeper = child(sleep_for_ever), child(keeper_that_reads(read))
    workers.add(pid, keeper)
    os.write(write, b"x")
    workers.kill_all()
    for process in (pid, keeper):
        assert gone(process)
        os.waitpid(process, 0)
    for descriptor in (read, write):
        os.close(descriptor)
