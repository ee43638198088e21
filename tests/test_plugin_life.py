"""Promises of a plugin's life: what dies is replaced at the next call, a call is sent once, nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any, Final

import psutil
import pytest
from until import PATIENCE, until

import host
from host.model.events import WorkerExited, WorkerStarted
from host.run.pidfd import ended
from sandbox_worker import messages, wire

SOURCE: Final = """
import os
@hookimpl
def process(): return os.getpid()
@hookimpl
def leave(status): os._exit(status)
@hookimpl
def abort(): os.abort()
@hookimpl
def append(path, then_die):
    with open(path, "a") as file: file.write("x")
    if then_die: os._exit(7)
@hookimpl
def spin(path):
    open(path, "w").close()
    while True: pass
"""
DATA: Final = {"fs.write": ["${data}"]}


def test_a_new_plugin_is_ready_and_says_what_it_is(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, plugin={"name": "csv-stats", "version": "1.4.0"}, permissions={"env": ["LANG"]} | DATA)
    assert (plugin.name, plugin.__name__, plugin.version) == ("csv-stats", "csv-stats", "1.4.0")
    assert (plugin.state, plugin.restarts, plugin.denials(), plugin.logs()) == ("READY", 0, (), ())
    assert plugin.tier == plugin._owner.tier
    assert plugin.permissions == {"fs.write": (str(plugin_from.folder / "data" / "csv-stats"),), "env": ("LANG",)}
    assert repr(plugin) == "<SandboxedPlugin 'csv-stats' READY>"
    assert len({plugin, plugin}) == 1


def test_while_a_worker_starts_its_plugin_says_so(plugin_from: Any) -> None:
    owner = plugin_from.host()
    file = plugin_from.manifest("import os\nwhile not os.path.exists('go'): pass\n" + SOURCE)
    thread = threading.Thread(target=owner.load, args=(file,))
    thread.start()
    until(lambda: [plugin.state for plugin in owner] == ["STARTING"])
    file.with_name("go").touch()
    thread.join(PATIENCE)
    assert [plugin.state for plugin in owner] == ["READY"]


def test_pid_is_the_workers_own(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    assert plugin.pid == plugin.call("process") != os.getpid()


@pytest.mark.parametrize(
    ("hook", "arguments", "exit_code", "number"),
    [("leave", {"status": 3}, 3, None), ("leave", {"status": 0}, 0, None), ("abort", {}, None, signal.SIGABRT)],
)
def test_a_worker_that_ends_in_a_call_has_crashed_and_is_replaced_at_the_next(
    plugin_from: Any, hook: str, arguments: dict[str, int], exit_code: int | None, number: int | None
) -> None:
    plugin = plugin_from(SOURCE)
    pid = plugin.pid
    with pytest.raises(host.PluginCrashed) as caught:
        plugin.call(hook, **arguments)
    error = caught.value
    assert (error.pid, error.exit_code, error.signal, error.hook) == (pid, exit_code, number, hook)
    assert (plugin.state, plugin.restarts) == ("STOPPED", 0)
    assert plugin.call("process") == plugin.pid != pid
    assert (plugin.state, plugin.restarts) == ("READY", 1)


def test_the_error_of_a_crash_holds_the_last_it_said(plugin_from: Any) -> None:
    plugin = plugin_from(
        "import os, sys\n@hookimpl\ndef die():\n    print('last words\\x1b', file=sys.stderr); os._exit(1)"
    )
    with pytest.raises(host.PluginCrashed) as caught:
        plugin.call("die")
    assert caught.value.stderr_tail == "last words\\x1b"


def test_a_worker_that_was_killed_between_two_calls_is_replaced_without_an_error(plugin_from: Any) -> None:
    """Nothing of the call had run, so it may go to the next worker."""
    plugin = plugin_from(SOURCE)
    for restarts in (1, 2, 3):
        pid = plugin.pid
        handle = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert ended(handle, PATIENCE)
        os.close(handle)
        assert plugin.call("process") != pid
        assert plugin.restarts == restarts


def test_a_call_that_reached_its_worker_is_never_sent_again(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions=DATA)
    path = plugin_from.folder / "data" / plugin.name / "file"
    with pytest.raises(host.PluginCrashed):
        plugin.call("append", path=str(path), then_die=True)
    plugin.call("append", path=str(path), then_die=False)
    assert path.read_text() == "xx"


def test_a_worker_that_dies_before_it_reads_anything_is_not_started_for_ever(plugin_from: Any) -> None:
    """This one tells its hooks by hand and ends right behind them, so that no call is ever read."""
    hooks = wire.Encoder().encode([messages.HOOKS, [["answer", [], [False, False, False, None]]]])
    plugin = plugin_from(f"import os\nos.write(4, {hooks!r})\nos._exit(3)")
    with pytest.raises(host.PluginCrashed) as caught:
        plugin.call("answer")
    assert caught.value.exit_code == 3
    assert 1 <= plugin.restarts <= 2


def test_restart_replaces_the_worker_now(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    pid = plugin.pid
    plugin.restart()
    assert plugin.pid != pid
    assert plugin.restarts == 1


@pytest.mark.parametrize(
    "change",
    [
        "@hookimpl\ndef more(): pass",
        "del process",
        "process = hookimpl(lambda extra: 1)",
        "process = hookimpl(tryfirst=True)(lambda: 1)",
        "process = hookimpl(specname='other')(lambda: 1)",
    ],
)
def test_a_restarted_worker_must_report_the_same_hooks(plugin_from: Any, change: str) -> None:
    plugin = plugin_from(SOURCE)
    file = plugin._manifest.path / "plugin.py"
    text = file.read_text()
    file.write_text(f"{text}\n{change}\n")
    with pytest.raises(host.PluginStartError, match="other hooks"):
        plugin.restart()
    assert plugin.state == "STOPPED"
    file.write_text(text)
    assert plugin.call("process") == plugin.pid


def test_every_start_and_end_of_a_worker_is_an_event_with_its_reason(plugin_from: Any) -> None:
    events: list[Any] = []
    plugin = plugin_from(SOURCE, on_event=events.append)
    first = plugin.pid
    with pytest.raises(host.PluginCrashed):
        plugin.call("leave", status=4)
    plugin.call("process")
    second = plugin.pid
    plugin.close()
    assert [(type(event), event.worker.pid) for event in events] == [
        (WorkerStarted, first), (WorkerExited, first), (WorkerStarted, second), (WorkerExited, second),
    ]  # fmt: skip
    assert (events[1].exit_code, events[1].signal) == (4, None)
    assert (events[3].exit_code, events[3].reason) == (0, "closed")
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert events[0].tier == plugin.tier


# --- the end


def test_closing_is_idempotent_and_ends_the_worker(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    handle = os.pidfd_open(plugin.pid)
    plugin.close()
    assert ended(handle)
    os.close(handle)
    plugin.close()
    assert (plugin.state, plugin.pid) == ("STOPPED", None)
    for attempt in (lambda: plugin.call("process"), plugin.restart):
        with pytest.raises(host.HostError, match="closed"):
            attempt()


def test_a_closed_plugins_name_is_free_again(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    plugin.close()
    assert plugin._owner.load(plugin._manifest.file).call("process") != os.getpid()


def test_closing_ends_a_call_that_runs_in_another_thread(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions=DATA, limits={"call_timeout": "60 s"})
    path = plugin_from.folder / "data" / plugin.name / "spins"
    errors: list[Exception] = []

    def call() -> None:
        try:
            plugin.call("spin", path=str(path))
        except host.HostError as e:
            errors.append(e)

    thread = threading.Thread(target=call)
    thread.start()
    until(path.exists)
    assert plugin.state == "BUSY"
    plugin.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert [str(e) for e in errors] == ["the plugin was closed during the call"]


def test_ctrl_c_during_a_call_kills_that_worker_and_the_next_call_works(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions=DATA, limits={"call_timeout": "60 s"})
    other = plugin_from(SOURCE, into=plugin._owner)
    path, pid, others = plugin_from.folder / "data" / plugin.name / "spins", plugin.pid, other.pid
    handle = os.pidfd_open(pid)

    def press() -> None:
        until(path.exists)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        plugin.call("spin", path=str(path))
    thread.join()
    assert ended(handle, PATIENCE)
    os.close(handle)
    assert plugin.call("process") == plugin.pid != pid
    assert other.call("process") == others


def test_the_terminals_ctrl_c_does_not_reach_workers(plugin_from: Any) -> None:
    """It goes to the foreground process group: each worker has a group and a session of its own, the spawner too."""
    plugin = plugin_from(SOURCE)
    for process in psutil.Process().children(recursive=True):
        assert os.getpgid(process.pid) != os.getpgid(0)
        assert os.getsid(process.pid) != os.getsid(0)
    assert os.getpgid(plugin.pid) == plugin.pid


def test_twenty_plugins_one_after_the_other_leave_nothing(plugin_from: Any) -> None:
    def left() -> tuple[int, int, int]:
        process = psutil.Process()
        return process.num_fds(), threading.active_count(), len(process.children(recursive=True))

    file = plugin_from.manifest(SOURCE, permissions={"fs.write": ["${data}", "${tmp}"]})
    before = left()
    for number in range(20):
        with plugin_from.host() as plugins:
            plugin = plugins.load(file)
            plugin.call("process")
            if number % 4 == 1:
                with pytest.raises(host.PluginCrashed):
                    plugin.call("leave", status=1)
            if number % 4 == 2:
                plugin.restart()
            if number % 4 == 3:
                plugin.close()
    assert left() == before


def test_a_failed_start_leaves_nothing_and_the_name_is_free(plugin_from: Any) -> None:
    owner = plugin_from.host()
    bad = plugin_from.manifest("raise ValueError", plugin={"name": "same"}, permissions={"fs.write": ["${tmp}"]})
    good = plugin_from.manifest(SOURCE, plugin={"name": "same"})
    before = psutil.Process().num_fds()
    for _ in range(5):
        with pytest.raises(host.PluginStartError):
            owner.load(bad)
    until(lambda: psutil.Process().num_fds() <= before)  # the watcher may just be looking at /proc
    assert list(owner) == []
    assert owner.load(good).call("process")
