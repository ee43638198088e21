"""Promises of one worker process: how its end is told, and that its descriptors are never mixed up with others."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest
from until import PATIENCE, stop, until

import host
from host.run.pidfd import ended
from host.run.worker import Undelivered, Worker

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE: Final = """
@hookimpl
def echo(value): return value
@hookimpl
def size(value): return len(value)
"""


@pytest.fixture
def worker(plugin_from: Any) -> Iterator[Worker]:
    """A worker that nobody watches, so that only its calls tell of its end."""
    plugin = plugin_from(SOURCE)
    plugin._owner._workers._watcher.remove(plugin._worker)
    yield plugin._worker
    assert plugin._worker is not None


def kill(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    assert ended(worker.pidfd, PATIENCE)


def test_a_call_to_a_dead_worker_was_not_delivered(worker: Worker) -> None:
    kill(worker)
    with pytest.raises(Undelivered) as caught:
        worker.call("echo", {"value": 1})
    assert isinstance(caught.value.crash, host.PluginCrashed)
    assert caught.value.crash.signal == signal.SIGKILL


@pytest.mark.parametrize("size", [10, 60_000, 1_000_000])
def test_a_call_that_nobody_read_was_not_delivered_whatever_its_size(worker: Worker, size: int) -> None:
    stop(worker.pid)
    with ThreadPoolExecutor(1) as pool:
        sent = worker._wire.sent
        call = pool.submit(worker.call, "size", {"value": b"x" * size})
        until(lambda: worker._wire.sent - sent >= min(size, 1 << 16) or (size > 1 << 16 and worker.busy))
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(Undelivered):
            call.result(PATIENCE)


def test_its_status_is_told_once_it_is_reaped(worker: Worker) -> None:
    assert worker.usable
    assert (worker.exit_code, worker.signal) == (None, None)
    kill(worker)
    worker.wait()
    worker.wait()
    assert not worker.usable
    assert (worker.exit_code, worker.signal, worker.obituary()) == (None, signal.SIGKILL, "signal SIGKILL")


def test_killing_keeps_the_first_reason(worker: Worker) -> None:
    worker.kill("timeout")
    worker.kill("closed")
    assert worker.ended == "timeout"
    worker.wait()
    worker.kill("memory")
    assert worker.ended == "timeout"


def test_a_worker_that_is_hung_up_on_ends_by_itself(worker: Worker) -> None:
    worker.close()
    worker.close()
    assert (worker.exit_code, worker.ended) == (0, "closed")


def test_a_worker_that_does_not_listen_is_killed_after_a_moment(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef f(): pass\nimport os, signal, threading\nos.dup2(os.pipe()[0], 3)")
    handle = os.pidfd_open(plugin.pid)
    plugin.close()
    assert ended(handle)
    os.close(handle)


def test_once_it_is_closed_nothing_is_read_from_whoever_has_its_numbers_now(worker: Worker) -> None:
    numbers = (worker.events, worker.output)
    worker.close()
    made: list[tuple[int, int]] = []
    while not set(numbers) <= {end for pipe in made for end in pipe}:
        made.append(os.pipe())
    for _, write in made:
        os.write(write, b"\0\1\0\1ab")
    try:
        assert worker.drain_events() == []
        worker.drain_output()
        assert worker.log == []
        for read, _ in made:
            assert os.read(read, 100) == b"\0\1\0\1ab"
    finally:
        for read, write in made:
            os.close(read)
            os.close(write)


def test_denials_and_logs_may_be_asked_for_while_workers_come_and_go(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef snoop():\n    print('x')\n    open('/etc/hostname')")
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            plugin.denials()
            plugin.logs()

    with ThreadPoolExecutor(2) as pool:
        askers = [pool.submit(ask) for _ in range(2)]
        for _ in range(10):
            with pytest.raises(host.PermissionDenied):
                plugin.call("snoop")
            plugin.restart()
        stop.set()
        for asker in askers:
            asker.result(PATIENCE)
    assert sum(record.count for record in plugin.denials()) == 10
    assert plugin.logs() == ("x",) * 10


def test_a_worker_has_no_descriptor_but_its_own(plugin_from: Any) -> None:
    read, write = os.pipe()
    os.set_inheritable(read, True)
    os.set_inheritable(write, True)
    try:
        plugin = plugin_from(SOURCE)
        assert sorted(map(int, os.listdir(f"/proc/{plugin.pid}/fd"))) == [0, 1, 2, 3, 4, 5]
    finally:
        os.close(read)
        os.close(write)
