"""Who dies when, and what the others notice: workers at each step of a call, applications that fork or close anyhow."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import termios
import textwrap
import threading
from pathlib import Path
from typing import Any, Final

import pytest
from until import PATIENCE, stop, until

import host
from host.run.pidfd import ended
from sandbox_worker import messages, wire

START: Final = os.environ.get("PLUGHOLD_START", "exec")  # as in conftest
ROOT: Final = Path(host.__file__).parent.parent
SOURCE: Final = """
import os, signal, threading
@hookimpl
def process(): return os.getpid()
@hookimpl
def size(data): return len(data)
@hookimpl
def wait(path=None):
    if path: open(path, "w").close()
    threading.Event().wait()
@hookimpl
def write_then_exit(data):
    while data: data = data[os.write(4, data):]
    os._exit(5)
@hookimpl
def close_reply(): os.close(4); threading.Event().wait()
@hookimpl
def close_calls(): os.close(3); return "deaf"
"""
SHORT: Final = {"call_timeout": "2 s"}


def waiting_in(pipe: int) -> int:
    """Bytes that nobody has read yet: ioctl_pipe(2), FIONREAD."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)


def in_thread(call: Any) -> tuple[threading.Thread, list[Any]]:
    """`call()` on a thread, and where what it returns or raises will be."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except Exception as e:
            outcome.append(e)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


# --- a worker's death at each step of a call


def test_killed_before_the_call_is_written_costs_nothing(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    handle, pid = os.pidfd_open(plugin.pid), plugin.pid
    os.kill(pid, signal.SIGKILL)
    assert ended(handle, PATIENCE)
    os.close(handle)
    assert plugin.call("process") != pid


def test_killed_while_the_call_is_half_written_sends_it_to_the_next(plugin_from: Any) -> None:
    """It had read nothing: the host is in the middle of its write."""
    plugin = plugin_from(SOURCE)
    pid = plugin.pid
    stop(pid)
    thread, outcome = in_thread(lambda: plugin.call("size", data=b"x" * 5_000_000))
    until(lambda: waiting_in(plugin._worker._wire._calls) >= 1 << 16)
    os.kill(pid, signal.SIGKILL)
    thread.join(PATIENCE)
    assert outcome == [5_000_000]
    assert plugin.restarts == 1


def test_killed_while_it_runs_is_a_crash(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions={"fs.write": ["${data}"]})
    path = plugin_from.folder / "data" / plugin.name / "begun"
    thread, outcome = in_thread(lambda: plugin.call("wait", path=str(path)))
    until(path.exists)
    os.kill(plugin.pid, signal.SIGKILL)
    thread.join(PATIENCE)
    assert [type(e) for e in outcome] == [host.PluginCrashed]
    assert outcome[0].signal == signal.SIGKILL


@pytest.mark.parametrize("share", [0, 1, 3, 4, 5, -1])
def test_killed_while_its_reply_is_half_written_is_a_crash(plugin_from: Any, share: int) -> None:
    frame = wire.Encoder().encode([messages.RESULT, 1, "x" * 100, 0])
    plugin = plugin_from(SOURCE)
    with pytest.raises(host.PluginCrashed) as caught:
        plugin.call("write_then_exit", data=frame[:share])
    assert caught.value.exit_code == 5
    assert plugin.call("process") == plugin.pid


def test_killed_behind_its_reply_has_answered_and_is_replaced(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    pid = plugin.pid
    assert plugin.call("write_then_exit", data=wire.Encoder().encode([messages.RESULT, 1, "yes", 0])) == "yes"
    assert plugin.call("process") != pid
    assert plugin.restarts == 1


# --- workers that do not die, but do not go on either


def test_both_pipes_full_end_with_the_calls_time(plugin_from: Any) -> None:
    """The host can't write on, for the worker does not read; the worker can't, for the host does not."""
    later = """
    @hookimpl
    def later(path):
        def write():
            while not os.path.exists(path): pass
            while True: os.write(4, bytes(1 << 16))
        threading.Thread(target=write, daemon=True).start()
    """
    plugin = plugin_from(SOURCE + textwrap.dedent(later), limits=SHORT, permissions={"fs.write": ["${data}"]})
    path = plugin_from.folder / "data" / plugin.name / "go"
    plugin.call("later", path=str(path))
    path.touch()
    until(lambda: waiting_in(plugin._worker._wire.replies) >= 1 << 16)
    stop(plugin.pid)
    with pytest.raises(host.PluginTimeout):
        plugin.call("size", data=b"x" * 5_000_000)
    assert plugin.call("process") == plugin.pid


@pytest.mark.parametrize("size", [1, 5_000_000])
def test_a_stopped_worker_is_ended_with_the_calls_time(plugin_from: Any, size: int) -> None:
    plugin = plugin_from(SOURCE, limits=SHORT)
    stop(plugin.pid)
    handle = os.pidfd_open(plugin.pid)
    with pytest.raises(host.PluginTimeout):
        plugin.call("size", data=b"x" * size)
    assert ended(handle)
    os.close(handle)
    assert plugin.call("size", data=b"x" * size) == size


def test_a_stopped_worker_is_closed_in_a_moment(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    stop(plugin.pid)
    thread, outcome = in_thread(plugin.close)
    thread.join(PATIENCE)
    assert outcome == [None]


def test_a_worker_that_hung_up_in_the_middle_has_ended(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, limits={"call_timeout": "60 s"})
    with pytest.raises(host.WorkerError):
        plugin.call("close_reply")
    assert plugin.call("process") == plugin.pid


def test_a_worker_that_went_deaf_is_replaced_without_an_error(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    pid = plugin.pid
    plugin.call("close_calls")
    assert plugin.call("process") == plugin.pid != pid


# --- closing, anyhow


def test_many_threads_may_close_at_once(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions={"fs.write": ["${tmp}"]})
    other = plugin_from(SOURCE, into=plugin._owner)
    begin = threading.Barrier(6)

    def close(number: int) -> None:
        begin.wait()
        (plugin, other, plugin._owner)[number % 3].close()

    running = [in_thread(lambda number=number: close(number)) for number in range(6)]
    for thread, outcome in running:
        thread.join(PATIENCE)
        assert outcome == [None]
    assert (plugin.state, other.state, list(plugin._owner)) == ("STOPPED", "STOPPED", [])


def test_closing_the_host_in_another_thread_ends_the_calls_of_all(plugin_from: Any) -> None:
    owner = plugin_from.host()
    plugins = [plugin_from(SOURCE, into=owner, plugin={"instances": n}) for n in (1, 2)]
    running = [in_thread(lambda plugin=plugin: plugin.call("wait")) for plugin in plugins]
    until(lambda: all(any(worker.busy for worker in plugin._workers()) for plugin in plugins))
    thread, outcome = in_thread(owner.close)
    thread.join(PATIENCE)
    assert outcome == [None]
    for thread, ends in running:
        thread.join(PATIENCE)
        assert [str(e) for e in ends] == ["the plugin was closed during the call"]


def test_a_signal_handler_may_close_the_host_in_the_middle_of_a_call(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, plugin={"instances": 2})
    before = signal.signal(signal.SIGUSR1, lambda *_: plugin._owner.close())
    thread, _ = in_thread(
        lambda: (until(lambda: any(worker.busy for worker in plugin._workers())), os.kill(os.getpid(), signal.SIGUSR1))
    )
    try:
        with pytest.raises(host.HostError, match="closed"):
            plugin.call("wait")
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert plugin._workers() == []


# --- applications that fork


def own_host(file: Path, data: Path) -> None:
    """What a child of a pre-forking server does: a host of its own."""
    with host.PluginHost("tests", grants="requested", data=data, start=START) as plugins:
        plugin = plugins.load(file)
        if plugin.call("process") != plugin.pid:
            raise AssertionError


def test_children_of_multiprocessing_have_hosts_of_their_own_beside_the_parents(
    plugin_from: Any, tmp_path: Path
) -> None:
    plugin = plugin_from(SOURCE)
    pid = plugin.pid
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=own_host, args=(plugin._manifest.file, tmp_path / str(n))) for n in range(2)]
    for child in children:
        child.start()
    assert plugin.call("process") == pid
    for child in children:
        child.join(PATIENCE)
        assert child.exitcode == 0
        child.close()
    assert (plugin.call("process"), plugin.restarts) == (pid, 0)


PRE_FORK: Final = """
import os, signal, sys
import host

# as an application that loads everything before it forks
parent = host.PluginHost("tests", grants="requested", start=sys.argv[2])
shared = parent.load(sys.argv[1])
for _ in range(3):
    if not os.fork():
        with host.PluginHost("tests", grants="requested", start=sys.argv[2]) as plugins:
            plugin = plugins.load(sys.argv[1])
            assert plugin.call("process") == plugin.pid
            os.write(1, f"{os.getpid()} {plugin.pid} {plugins._workers._spawner.pid}\\n".encode())
            signal.pause()
os.write(1, f"{os.getpid()} {shared.pid} {parent._workers._spawner.pid}\\n".encode())
signal.pause()
"""


def test_when_processes_of_a_pre_forking_server_are_killed_each_takes_its_own_workers_alone(plugin_from: Any) -> None:
    command = [sys.executable, "-c", PRE_FORK, str(plugin_from.manifest(SOURCE)), START]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rows = [[int(pid) for pid in process.stdout.readline().split()] for _ in range(4)]
        handles = {pid: os.pidfd_open(pid) for row in rows for pid in row}
        try:
            rows.sort(key=lambda row: row[0] == process.pid)  # the parent last
            for number, row in enumerate(rows):
                signal.pidfd_send_signal(handles[row[0]], signal.SIGKILL)
                assert all(ended(handles[pid], PATIENCE) for pid in row), "its worker and spawner die with it"
                assert not any(ended(handles[pid]) for later in rows[number + 1 :] for pid in later)
        finally:
            for handle in handles.values():
                signal.pidfd_send_signal(handle, signal.SIGKILL) if not ended(handle) else None
                os.close(handle)
