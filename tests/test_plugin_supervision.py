"""Promises of supervision with real workers: one failure costs nothing, a loop of them ends, and can be begun anew."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from cli_driver import plughold
from until import PATIENCE, until

import host
from host.model import events
from host.run.pidfd import ended
from host.store.quarantine import FOLDER

if TYPE_CHECKING:
    from pathlib import Path

SOURCE: Final = """
import os
@hookimpl
def process(): return os.getpid()
@hookimpl
def leave(status): os._exit(status)
@hookimpl
def spin():
    while True: pass
"""
QUICK: Final = host.RestartPolicy(failures=3, first_pause=0.001, longest_pause=0.001)
LONG: Final = host.RestartPolicy(failures=3, first_pause=3000.0, longest_pause=3000.0)


def crash(plugin: Any, times: int) -> None:
    for _ in range(times):
        with pytest.raises(host.PluginCrashed):
            plugin.call("leave", status=3)


def kill(plugin: Any) -> None:
    handle = os.pidfd_open(plugin.pid)
    os.kill(plugin.pid, signal.SIGKILL)
    assert ended(handle, PATIENCE)
    os.close(handle)


# --- back-off


def test_after_a_first_failure_the_next_call_starts_a_worker_at_once(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=LONG)
    crash(plugin, 1)
    assert plugin.state == "STOPPED"
    assert plugin.call("process") == plugin.pid


def test_a_plugin_that_answers_as_often_as_it_fails_goes_on_at_once_for_ever(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=LONG)
    for restarts in range(1, 8):
        kill(plugin)
        assert plugin.call("process") == plugin.pid
        assert plugin.restarts == restarts


def test_after_a_second_failure_in_a_row_the_next_call_waits_out_a_pause_and_is_answered(plugin_from: Any) -> None:
    told: list[Any] = []
    policy = host.RestartPolicy(first_pause=2, longest_pause=2)
    plugin = plugin_from(SOURCE, restart_policy=policy, on_event=told.append)
    crash(plugin, 1)
    before = time.monotonic()
    crash(plugin, 1)
    assert plugin.state == "BACKOFF"
    assert plugin.call("process") == plugin.pid
    [paused] = [event for event in told if isinstance(event, events.PluginPaused)]
    assert 1 <= paused.seconds <= 2
    assert time.monotonic() - before >= paused.seconds
    assert (paused.failures, paused.event) == (2, "plugin.paused")
    assert plugin.state == "READY"


def test_restart_ends_a_pause(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=LONG)
    crash(plugin, 2)
    plugin.restart()
    assert plugin.call("process") == plugin.pid


def test_closing_ends_the_waiting_of_every_call(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=LONG)
    crash(plugin, 2)
    errors: list[str] = []

    def call() -> None:
        with pytest.raises(host.HostError) as caught:
            plugin.call("process")
        errors.append(str(caught.value))

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(plugin._turns._waiting) == 3)
    plugin.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == [f"plugin {plugin.name} is closed"] * 3


def test_ctrl_c_ends_the_waiting_and_costs_the_others_nothing(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=LONG)
    crash(plugin, 2)

    def press() -> None:
        until(lambda: plugin._turns._waiting)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        plugin.call("process")
    thread.join()
    assert plugin._turns._waiting == []
    plugin.restart()
    assert plugin.call("process") == plugin.pid


# --- quarantine


def test_too_many_failures_in_a_row_quarantine_a_plugin_and_the_error_says_what_to_do(plugin_from: Any) -> None:
    told: list[Any] = []
    plugin = plugin_from(SOURCE, restart_policy=QUICK, on_event=told.append)
    crash(plugin, 3)
    assert (plugin.state, plugin.pid) == ("QUARANTINED", None)
    for _ in range(2):
        with pytest.raises(host.PluginQuarantined) as caught:
            plugin.call("process")
    text = str(caught.value)
    assert f"plugin {plugin.name} is quarantined since 20" in text
    assert "after 3 failures" in text
    assert "PluginCrashed: died during the call (exit status 3)" in text
    assert f"`plughold clear {plugin.name} --data {plugin_from.folder / 'data'}` or restart()" in text
    assert (caught.value.plugin, caught.value.hook, type(caught.value).status) == (plugin.name, "process", 12)
    [quarantined] = [event for event in told if isinstance(event, events.PluginQuarantined)]
    assert (quarantined.event, quarantined.failures, quarantined.error) == ("plugin.quarantined", 3, "PluginCrashed")
    assert [type(event) for event in told].count(events.WorkerStarted) == 3, "nothing is started any more"


@pytest.mark.parametrize("hook", ["spin", "leave"])
def test_timeouts_count_as_crashes_do(plugin_from: Any, hook: str) -> None:
    plugin = plugin_from(SOURCE, restart_policy=QUICK, limits={"call_timeout": "50 ms"})
    arguments = {"status": 1} if hook == "leave" else {}
    for _ in range(3):
        with pytest.raises((host.PluginTimeout, host.PluginCrashed)):
            plugin.call(hook, **arguments)
    with pytest.raises(host.PluginQuarantined):
        plugin.call(hook, **arguments)


def test_what_the_plugin_raises_is_no_failure(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef wrong(): raise ValueError('wrong')", restart_policy=QUICK)
    for _ in range(5):
        with pytest.raises(ValueError, match="wrong"):
            plugin.call("wrong")
    assert (plugin.state, plugin.restarts) == ("READY", 0)


def test_a_plugin_that_dies_at_its_import_is_quarantined_over_all_attempts_to_load_it(plugin_from: Any) -> None:
    owner = plugin_from.host(restart_policy=QUICK)
    file = plugin_from.manifest("import os; os._exit(3)")
    for _ in range(3):
        with pytest.raises(host.PluginStartError):
            owner.load(file)
    with pytest.raises(host.PluginQuarantined, match="PluginStartError: died while it started"):
        owner.load(file)
    assert list(owner) == []


def test_a_plugin_that_does_not_come_back_is_quarantined(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=QUICK)
    (plugin._manifest.path / "plugin.py").write_text("raise ValueError('a\\x1bb')")
    crash(plugin, 1)
    for _ in range(2):
        with pytest.raises(host.PluginStartError):
            plugin.call("process")
    with pytest.raises(host.PluginQuarantined, match="PluginStartError: could not be imported"):
        plugin.call("process")


def test_the_end_of_the_spawner_is_not_the_plugins_failure(plugin_from: Any) -> None:
    plugin = plugin_from("import os\n@hookimpl\ndef process(): return os.getpid()", restart_policy=LONG)
    if plugin.tier == "hooked":
        pytest.skip("without a spawner")
    for _ in range(4):
        os.kill(plugin._owner._workers._spawner.pid, signal.SIGKILL)
        until(lambda: plugin.pid is None)
        lane = plugin._turns.begin()
        try:
            lane.live()  # no call, which would make up for a failure
        finally:
            plugin._turns.end(lane)
    assert plugin.restarts == 4
    assert len(plugin._supervisor.failures) == 0


def test_in_a_hook_call_a_quarantined_plugin_is_skipped(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=QUICK)
    crash(plugin, 3)
    assert plugin.process() is None


def test_other_plugins_do_not_notice(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=QUICK)
    other = plugin_from(SOURCE, into=plugin._owner)
    pid = other.pid
    crash(plugin, 3)
    assert other.call("process") == pid


# --- and out of it


def test_restart_clears_it(plugin_from: Any) -> None:
    told: list[Any] = []
    plugin = plugin_from(SOURCE, restart_policy=QUICK, on_event=told.append)
    crash(plugin, 3)
    plugin.restart()
    assert plugin.call("process") == plugin.pid
    crash(plugin, 2)
    assert plugin.state == "BACKOFF", "the count begins anew"
    assert [event.by for event in told if isinstance(event, events.PluginCleared)] == ["restart"]
    assert list((plugin_from.folder / "data" / FOLDER).iterdir()) == []


def test_it_outlives_the_process_and_the_command_clears_it_in_all(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=QUICK)
    file, data = plugin._manifest.file, plugin_from.folder / "data"
    crash(plugin, 3)
    with plugin_from.host() as other, pytest.raises(host.PluginQuarantined, match=f"clear {plugin.name}"):
        other.load(file)
    ran = plughold("call", file, "process", "--grants", "requested", "--data", data, "--json")
    assert (ran.status, ran.document["error"]["type"]) == (12, "PluginQuarantined")
    ran = plughold("clear", plugin.name, "--data", data, "--json")
    assert ran.status == 0
    [cleared] = ran.document["cleared"]
    assert (cleared["name"], cleared["version"], cleared["failures"]) == (plugin.name, "1.0", 3)
    assert plugin.call("process") == plugin.pid, "the host that runs has noticed"
    with plugin_from.host() as other:
        assert other.load(file).call("process") != plugin.pid


def test_the_command_finds_it_in_every_projects_default_place(
    plugin_from: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    plugin = plugin_from(SOURCE, restart_policy=QUICK, data=None)
    crash(plugin, 3)
    with pytest.raises(host.PluginQuarantined, match=f"`plughold clear {plugin.name}`"):
        plugin.call("process")
    assert "no plugin" in plughold("clear", plugin.name, "--project", "other").err
    ran = plughold("clear", plugin.name)
    assert (ran.status, ran.err) == (0, "")
    assert f"cleared {plugin.name} 1.0" in ran.out
    assert "the last: PluginCrashed: died during the call (exit status 3)" in ran.out
    assert plugin.call("process") == plugin.pid
    assert "no plugin" in plughold("clear", plugin.name).err


@pytest.mark.parametrize("arguments", [("../x",), ("x", "--project", "../.."), ("x", "--data", ".", "--project", "p")])
def test_the_command_takes_names_not_paths(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ran = plughold("clear", *arguments, XDG_DATA_HOME=str(tmp_path))
    assert (ran.status, ran.out) == (2, "")


def test_another_version_or_another_manifest_of_that_name_starts_without_a_past(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, restart_policy=QUICK, plugin={"name": "same"})
    crash(plugin, 3)
    plugin.close()
    owner = plugin._owner
    with pytest.raises(host.PluginQuarantined):
        owner.load(plugin._manifest.file)
    other = owner.load(plugin_from.manifest(SOURCE, plugin={"name": "same"}))
    assert other.call("process") == other.pid
    other.close()
    file = plugin._manifest.file
    file.write_text(file.read_text().replace('version = "1.0"', 'version = "1.1"'))
    assert owner.load(file).call("process")


def test_where_it_can_not_be_kept_it_holds_in_this_host(plugin_from: Any, caplog: Any) -> None:
    data = plugin_from.folder / "data"
    data.write_text("no folder")
    plugin = plugin_from(SOURCE, restart_policy=QUICK)
    crash(plugin, 3)
    with pytest.raises(host.PluginQuarantined, match=r"mended, restart\(\) of the plugin starts it anew"):
        plugin.call("process")
    assert "kept in memory alone" in caplog.text
    plugin.restart()
    assert plugin.call("process") == plugin.pid


def test_what_it_keeps_is_no_claim_of_the_plugins_and_for_the_user_alone(plugin_from: Any) -> None:
    """Nor is it what the plugin printed or raised: that may hold what the application gave it."""
    source = "import sys\nfor module in ('secret-of-mine',): raise ValueError(module)"
    owner = plugin_from.host(restart_policy=QUICK)
    file = plugin_from.manifest(source)
    for _ in range(3):
        with pytest.raises(host.PluginStartError, match="secret-of-mine"):
            owner.load(file)
    [kept] = (plugin_from.folder / "data" / FOLDER).iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "secret" not in kept.read_text()
    assert json.loads(kept.read_text())["reason"] == "PluginStartError: could not be imported"


def test_a_plugin_can_neither_read_nor_write_what_is_kept_about_it(plugin_from: Any) -> None:
    """With all of its own data folder granted."""
    source = SOURCE + "@hookimpl\ndef reach(path): return open(path).read()\n"
    plugin = plugin_from(source, restart_policy=QUICK, permissions={"fs.write": ["${data}"]})
    crash(plugin, 3)
    plugin.restart()
    crash(plugin, 3)
    kept = plugin_from.folder / "data" / FOLDER / f"{plugin.name}.json"
    other = plugin_from(source, into=plugin._owner, permissions={"fs.write": ["${data}"]})
    with pytest.raises(host.PermissionDenied):
        other.call("reach", path=str(kept))


def test_the_audit_log_tells_the_whole_story(plugin_from: Any, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    plugin = plugin_from(SOURCE, restart_policy=QUICK, audit=audit)
    crash(plugin, 3)
    plugin.restart()
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["event"] for line in lines] == [
        "worker.started", "worker.exited", "worker.started", "plugin.paused", "worker.exited",
        "worker.started", "plugin.quarantined", "worker.exited", "plugin.cleared", "worker.started",
    ]  # fmt: skip
    assert [line["seq"] for line in lines] == sorted(line["seq"] for line in lines)
    quarantined = lines[6]
    assert (quarantined["plugin"]["name"], quarantined["failures"]) == (plugin.name, 3)
    assert quarantined["error"] == "PluginCrashed"


def test_what_lies_where_a_quarantine_should_is_said_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".quarantine/csv-stats.json").mkdir(parents=True)
    ran = plughold("clear", "csv-stats", "--data", tmp_path)
    assert ran.status == 2
    assert ".quarantine" in ran.err
    assert "unexpected" not in ran.err
    assert (tmp_path / ".quarantine/csv-stats.json").is_dir()
