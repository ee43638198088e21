"""Promises of the host's side of the spawner: it ends with the host, its death is noticed, and nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from host.errors import HostError
from host.run import interpreter
from host.run.pidfd import ended
from host.run.spawner import Spawner, SpawnerGone

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    before = set(os.listdir("/proc/self/fd"))
    made = Spawner(interpreter.find())
    yield made
    made.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_it_reports_what_the_machine_has(spawner: Spawner) -> None:
    assert {"landlock_abi", "seccomp", "machine", "arch_supported"} <= set(spawner.abilities)
    assert spawner.alive


def test_closing_ends_the_process_and_is_idempotent(spawner: Spawner) -> None:
    handle = os.pidfd_open(spawner.pid)
    spawner.close()
    assert ended(handle)
    assert not spawner.alive
    spawner.close()
    os.close(handle)


def test_after_closing_every_request_says_that_it_is_gone(spawner: Spawner) -> None:
    spawner.close()
    with pytest.raises(SpawnerGone):
        spawner.reap(1)


def test_its_death_is_noticed_without_asking_it(spawner: Spawner) -> None:
    handle = os.pidfd_open(spawner.pid)
    os.kill(spawner.pid, signal.SIGKILL)
    assert ended(handle, 20)
    assert not spawner.alive
    os.close(handle)
    with pytest.raises(SpawnerGone):
        spawner.reap(1)


def test_an_application_that_reaps_all_its_children_does_no_harm(spawner: Spawner) -> None:
    os.kill(spawner.pid, signal.SIGKILL)
    os.waitpid(spawner.pid, 0)
    assert not spawner.alive
    spawner.close()


def test_what_it_refuses_is_an_error_and_it_goes_on(spawner: Spawner) -> None:
    for _ in range(2):
        with pytest.raises(HostError, match="can't reap"):
            spawner.reap(os.getpid())
    assert spawner.alive


def test_a_plan_that_makes_no_sense_starts_nothing(spawner: Spawner) -> None:
    ends = [os.open("/dev/null", os.O_RDWR) for _ in range(4)]
    try:
        with pytest.raises(HostError, match="can't spawn"):
            spawner.spawn({"argv": ["x"], "tier": "nonsense"}, ends)
    finally:
        for end in ends:
            os.close(end)
    with open(f"/proc/{spawner.pid}/task/{spawner.pid}/children") as children:
        assert children.read() == ""
    assert spawner.alive


def test_it_is_for_many_threads_at_once(spawner: Spawner) -> None:
    errors: list[str] = []

    def ask() -> None:
        for _ in range(50):
            try:
                spawner.reap(1)
            except HostError as e:
                errors.append(str(e))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 200
    assert set(errors) == {"the spawner can't reap: 1 is no worker of this spawner"}


class Interrupted(socket.socket):
    """A socket on whose first answer the user presses Ctrl-C."""

    def recv(self, *_: Any) -> bytes:
        raise KeyboardInterrupt


def test_an_answer_that_was_interrupted_is_never_taken_for_the_next_one(spawner: Spawner) -> None:
    """It is hung up on instead: another spawner comes with the next start."""
    spawner._socket = Interrupted(fileno=spawner._socket.detach())
    with pytest.raises(KeyboardInterrupt):
        spawner.reap(1)
    assert not spawner.alive


def test_a_forked_child_lets_go_of_it_without_a_word(spawner: Spawner) -> None:
    pid = os.fork()
    if not pid:
        spawner.abandon()
        os._exit(spawner.alive)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(HostError, match="no worker"):
        spawner.reap(1)
    assert spawner.alive
