"""Promises under many threads: one call at a time, waiting costs nobody else, no lock is held around foreign code."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from until import PATIENCE, until

import host
from host.model.events import PermissionDecision, WorkerExited

SOURCE: Final = """
import os, threading
running = 0
@hookimpl
def echo(value):
    global running
    running += 1
    try:
        assert running == 1
        return value
    finally: running -= 1
@hookimpl
def wait(path, name=""):
    open(path + name + ".begun", "w").close()
    while not os.path.exists(path): pass
    return os.getpid()
@hookimpl
def leave(): os._exit(1)
@hookimpl
def snoop(path): open(path)
"""
DATA: Final = {"fs.write": ["${data}"], "fs.read": ["${data}"]}


def test_eight_threads_with_two_hundred_calls_each_get_their_own_answers(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)

    def calls(thread: int) -> bool:
        return all(plugin.call("echo", value=[thread, number]) == [thread, number] for number in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(calls, range(8)))
    assert plugin.restarts == 0


def test_threads_whose_calls_end_the_worker_harm_only_themselves(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=host.RestartPolicy(failures=20, first_pause=0.001, longest_pause=0.001))

    def calls(thread: int) -> int:
        crashed = 0
        for number in range(10):
            if thread == 0:
                with pytest.raises(host.PluginCrashed):
                    plugin.call("leave")
                crashed += 1
            else:
                assert plugin.call("echo", value=number) == number
        return crashed

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(calls, range(4))) == 10


def test_a_queued_call_goes_to_the_next_worker_when_the_one_before_it_dies(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions=DATA, limits={"call_timeout": "60 s"})
    path = plugin_from.folder / "data" / plugin.name / "go"
    first = plugin.pid
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(plugin.call, "wait", path=str(path))
        until(path.with_name("go.begun").exists)
        queued = [pool.submit(plugin.call, "echo", value=number) for number in range(2)]
        os.kill(first, 9)
        with pytest.raises(host.PluginCrashed):
            running.result(PATIENCE)
        assert [call.result(PATIENCE) for call in queued] == [0, 1]
    assert plugin.restarts == 1


def test_time_in_the_queue_does_not_count_for_call_timeout(plugin_from: Any) -> None:
    """Two calls of 1.5 s each, begun together, with 2.5 s for each."""
    source = """
    import time
    @hookimpl
    def spin():
        end = time.monotonic() + 1.5
        while time.monotonic() < end: pass
        return 1
    """
    plugin = plugin_from(source, limits={"call_timeout": "2500 ms"})
    with ThreadPoolExecutor(2) as pool:
        assert [call.result(PATIENCE) for call in [pool.submit(plugin.call, "spin") for _ in range(2)]] == [1, 1]
    assert plugin.restarts == 0


def test_plugins_run_at_the_same_time(plugin_from: Any) -> None:
    owner = plugin_from.host()
    one, two = (plugin_from(SOURCE, into=owner, permissions=DATA) for _ in range(2))
    path = plugin_from.folder / "data" / one.name / "go"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(one.call, "wait", path=str(path))
        until(path.with_name("go.begun").exists)
        assert two.call("echo", value=1) == 1
        assert (one.state, two.state) == ("BUSY", "READY")
        path.touch()
        running.result(PATIENCE)


def test_a_call_from_inside_a_call_of_the_same_plugin_is_refused_not_a_deadlock(plugin_from: Any) -> None:
    """From a signal handler, say, that runs while the thread waits for the reply."""
    import signal

    plugin = plugin_from(SOURCE, permissions=DATA)
    path = plugin_from.folder / "data" / plugin.name / "go"
    errors: list[Exception] = []

    def handler(*_: object) -> None:
        try:
            plugin.call("echo", value=1)
        except host.HostError as e:
            errors.append(e)
        path.touch()

    def interrupt() -> None:
        until(path.with_name("go.begun").exists)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handler)
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        assert plugin.call("wait", path=str(path)) == plugin.pid
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert [type(e) for e in errors] == [host.HostError]
    assert "in the middle of a call" in str(errors[0])


# --- on_event


def test_on_event_runs_with_no_lock_held(plugin_from: Any) -> None:
    """Not even another thread that calls the very plugin, while on_event waits for it, is held up."""
    answers: list[Any] = []
    holder: list[host.SandboxedPlugin] = []

    def listen(event: Any) -> None:
        if holder and not answers:
            with ThreadPoolExecutor(1) as pool:
                answers.append(pool.submit(holder[0].call, "echo", value=event.event).result(PATIENCE))

    plugin = plugin_from(SOURCE, on_event=listen)
    holder.append(plugin)
    plugin.restart()
    assert answers == ["worker.exited"]


def test_on_event_may_call_the_plugin(plugin_from: Any) -> None:
    answers: list[Any] = []
    holder: list[host.SandboxedPlugin] = []

    def listen(event: Any) -> None:
        if isinstance(event, PermissionDecision):
            answers.append(holder[0].call("echo", value=event.permission.target))

    holder.append(plugin_from(SOURCE, on_event=listen))
    with pytest.raises(host.PermissionDenied):
        holder[0].call("snoop", path="/etc/hostname")
    assert answers == ["/etc/hostname"]


def test_on_event_may_close_the_host(plugin_from: Any) -> None:
    def listen(event: Any) -> None:
        if isinstance(event, PermissionDecision):
            plugin._owner.close()

    plugin = plugin_from(SOURCE, on_event=listen)
    with pytest.raises(host.PermissionDenied):
        plugin.call("snoop", path="/etc/hostname")
    assert plugin.state == "STOPPED"


def test_events_that_on_event_causes_come_after_the_one_it_is_told(plugin_from: Any) -> None:
    told: list[str] = []
    holder: list[host.SandboxedPlugin] = []

    def listen(event: Any) -> None:
        told.append(f"{event.event} begins")
        if isinstance(event, PermissionDecision):
            holder[0].restart()
        told.append("ends")

    holder.append(plugin_from(SOURCE, on_event=listen))
    with pytest.raises(host.PermissionDenied):
        holder[0].call("snoop", path="/etc/hostname")
    assert told[::2] == [
        f"{name} begins" for name in ("worker.started", "permission.decision", "worker.exited", "worker.started")
    ]
    assert set(told[1::2]) == {"ends"}


def test_what_on_event_raises_is_logged_and_changes_nothing(plugin_from: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_event: Any) -> None:
        raise IndexError("of the application's own")

    plugin = plugin_from(SOURCE, on_event=fail)
    assert plugin.call("echo", value=1) == 1
    plugin.restart()
    assert "of the application's own" in caplog.text


def test_events_come_in_order_on_the_thread_that_called(plugin_from: Any) -> None:
    seen: list[tuple[int, int]] = []
    plugin = plugin_from(SOURCE, on_event=lambda event: seen.append((event.seq, threading.get_ident())))
    for path in ("/etc/a", "/etc/b", "/etc/a"):
        with pytest.raises(host.PermissionDenied):
            plugin.call("snoop", path=path)
    with pytest.raises(host.PluginCrashed):
        plugin.call("leave")
    plugin.call("echo", value=1)
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert {thread for _, thread in seen} == {threading.get_ident()}


def test_an_event_is_told_once_however_many_threads_call(plugin_from: Any) -> None:
    seen: list[Any] = []
    plugin = plugin_from(SOURCE, on_event=seen.append)

    def snoop(number: int) -> None:
        with pytest.raises(host.PermissionDenied):
            plugin.call("snoop", path=f"/etc/{number % 50}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(snoop, range(200)))
    targets = [event.permission.target for event in seen if isinstance(event, PermissionDecision)]
    assert sorted(targets) == sorted(f"/etc/{number}" for number in range(50))
    assert len({event.seq for event in seen}) == len(seen)
    assert not any(isinstance(event, WorkerExited) for event in seen)


def test_a_plugins_thread_is_not_the_main_one_whatever_imports_threading_first(plugin_from: Any) -> None:
    """Event loops set up signals on the main thread, which the interpreter lets no other thread do."""
    plugin = plugin_from(
        """
        import threading, asyncio, os
        @hookimpl
        def look():
            main, here = threading.main_thread(), threading.current_thread()
            started = threading.Thread(target=lambda: None)
            started.start()
            started.join()
            return [here is main, main.native_id == os.getpid(), main in threading.enumerate(), started.daemon]
        @hookimpl
        def signals():
            import signal
            async def main():
                asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
            asyncio.run(main())
        """
    )
    assert plugin.call("look") == [False, True, True, False]
    with pytest.raises(RuntimeError, match="main thread"):
        plugin.call("signals")
