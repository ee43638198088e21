"""Promises of a plugin with several workers: calls run side by side, each worker's fate is its own, but quarantine."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pluggy
import psutil
import pytest
from until import PATIENCE, until

import host
from host.model import events
from host.run.pidfd import ended

SOURCE: Final = """
import os
@hookimpl
def process(): return os.getpid()
@hookimpl
def leave(): os._exit(3)
@hookimpl
def wait(path):
    open(path + ".begun." + str(os.getpid()), "w").close()
    while not os.path.exists(path): pass
    return os.getpid()
@hookimpl
def drop_then_read(path):
    from sandbox_worker.plugin_api import permissions
    permissions.drop("fs.read", path)
    return os.getpid()
@hookimpl
def read(path): return open(path).read()
"""
DATA: Final = {"fs.write": ["${data}"]}
QUICK: Final = host.RestartPolicy(failures=3, first_pause=0.001, longest_pause=0.001)


def pool_of(count: int, plugin_from: Any, **options: Any) -> Any:
    return plugin_from(
        SOURCE, plugin={"instances": count}, limits={"call_timeout": "60 s"}, **{"permissions": DATA} | options
    )


class Waiting:
    """So many calls that wait in workers until `go`."""

    def __init__(self, plugin: Any, folder: Any, count: int) -> None:
        self.path = folder / "data" / plugin.name / "go"
        self.pool = ThreadPoolExecutor(count)
        self.calls = [self.pool.submit(plugin.call, "wait", path=str(self.path)) for _ in range(count)]
        until(lambda: len(self.pids()) == count)

    def pids(self) -> list[int]:
        return [int(path.suffix[1:]) for path in self.path.parent.glob("go.begun.*")]

    def go(self) -> list[int]:
        self.path.touch()
        with self.pool:  # its threads end with it
            return [call.result(PATIENCE) for call in self.calls]


def test_as_many_calls_run_side_by_side_as_there_are_workers(plugin_from: Any) -> None:
    plugin = pool_of(3, plugin_from)
    assert plugin.state == "READY"
    pids = {worker.pid for worker in plugin._workers()}
    assert len(pids) == 3
    waiting = Waiting(plugin, plugin_from.folder, 3)
    assert plugin.state == "BUSY"
    assert set(waiting.go()) == pids
    assert plugin.pid in pids
    assert plugin.restarts == 0


def test_all_of_them_are_there_once_it_is_loaded_and_gone_once_it_is_closed(plugin_from: Any) -> None:
    told: list[Any] = []
    plugin = pool_of(4, plugin_from, on_event=told.append)
    pids = [worker.pid for worker in plugin._workers()]
    plugin.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert [type(event) for event in told] == [events.WorkerStarted] * 4 + [events.WorkerExited] * 4
    assert plugin.state == "STOPPED"


def test_a_call_queues_while_all_are_busy_and_goes_to_the_first_that_is_free(plugin_from: Any) -> None:
    plugin = pool_of(2, plugin_from)
    waiting = Waiting(plugin, plugin_from.folder, 2)
    with ThreadPoolExecutor(4) as pool:
        queued = [pool.submit(plugin.call, "process") for _ in range(4)]
        until(lambda: len(plugin._turns._waiting) == 4)
        pids = set(waiting.go())
        assert {call.result(PATIENCE) for call in queued} <= pids


def test_the_death_of_one_does_not_touch_the_calls_of_the_others(plugin_from: Any) -> None:
    plugin = pool_of(2, plugin_from)
    waiting = Waiting(plugin, plugin_from.folder, 2)
    victim = waiting.pids()[0]
    os.kill(victim, signal.SIGKILL)
    [survivor] = set(waiting.pids()) - {victim}
    until(lambda: any(call.done() for call in waiting.calls))
    assert plugin.call("process") not in (victim, survivor), "the place of the dead one has a new worker"
    waiting.path.touch()
    outcomes = [call.exception(PATIENCE) or call.result() for call in waiting.calls]
    assert survivor in outcomes
    assert [type(outcome) for outcome in outcomes if outcome != survivor] == [host.PluginCrashed]
    assert plugin.restarts == 1


def test_while_one_pauses_calls_go_to_the_others_at_once(plugin_from: Any) -> None:
    plugin = pool_of(2, plugin_from, restart_policy=host.RestartPolicy(first_pause=3000, longest_pause=3000))
    for _ in range(2):
        with pytest.raises(host.PluginCrashed):
            plugin.call("leave")
    assert sorted(lane.state.value for lane in plugin._lanes) in (["BACKOFF", "READY"], ["BACKOFF", "STOPPED"])
    assert plugin.call("process") == plugin.call("process")


def kill_all(plugin: Any) -> None:
    workers = plugin._workers()
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
    for worker in workers:
        assert ended(worker.pidfd, PATIENCE)


def test_a_call_finds_as_many_dead_as_there_are(plugin_from: Any) -> None:
    """Nobody looks at idle workers all the time: each is found dead by the call that would have had it."""
    plugin = pool_of(4, plugin_from)
    plugin._owner._workers._watcher.close()
    kill_all(plugin)
    assert plugin.call("process") == plugin.pid
    kill_all(plugin)
    assert asyncio.run(plugin.acall("process")) == plugin.pid


def test_an_idle_one_that_died_is_replaced_and_no_call_is_lost(plugin_from: Any) -> None:
    plugin = pool_of(2, plugin_from)
    kill_all(plugin)
    assert plugin.call("process") == plugin.pid
    waiting = Waiting(plugin, plugin_from.folder, 2)
    assert len(set(waiting.go())) == 2


def test_quarantine_is_of_all_and_ends_the_idle_ones(plugin_from: Any) -> None:
    plugin = pool_of(3, plugin_from, restart_policy=QUICK)
    for _ in range(3):
        with pytest.raises(host.PluginCrashed):
            plugin.call("leave")
    assert plugin.state == "QUARANTINED"
    assert plugin._workers() == []
    with pytest.raises(host.PluginQuarantined):
        plugin.call("process")
    plugin.restart()
    assert len(plugin._workers()) == 3
    assert plugin.call("process")


def test_a_call_that_runs_when_the_others_are_quarantined_is_answered(plugin_from: Any) -> None:
    plugin = pool_of(2, plugin_from, restart_policy=QUICK)
    waiting = Waiting(plugin, plugin_from.folder, 1)
    for _ in range(3):
        with pytest.raises(host.PluginCrashed):
            plugin.call("leave")
    assert plugin.state == "QUARANTINED"
    assert waiting.go() == waiting.pids()
    waiting.pool.shutdown()
    assert plugin._workers() == []


def test_a_permission_that_one_gives_up_is_gone_for_all_from_the_next_call_on(plugin_from: Any, tmp_path: Any) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    plugin = pool_of(3, plugin_from, permissions={"fs.read": [str(secret)]} | DATA)
    assert {plugin.call("read", path=str(secret)) for _ in range(6)} == {"secret"}
    dropper = plugin.call("drop_then_read", path=str(secret))
    for _ in range(6):
        with pytest.raises(host.PermissionDenied):
            plugin.call("read", path=str(secret))
    waiting = Waiting(plugin, plugin_from.folder, 3)
    assert len(set(waiting.go())) == 3
    assert dropper in waiting.pids(), "whoever dropped it need not be replaced"
    assert (plugin.state, plugin._supervisor.quarantined, len(plugin._supervisor.failures)) == ("READY", False, 0)


def test_pluggy_sees_one_plugin(plugin_from: Any) -> None:
    plugin = pool_of(2, plugin_from)
    manager = pluggy.PluginManager("tests")
    manager.register(plugin)
    assert len(manager.hook.process()) == 1


def test_each_has_a_private_tmp(plugin_from: Any) -> None:
    source = """
    import os
    @hookimpl
    def put():
        open(os.environ['TMPDIR'] + '/x', 'x').close()
        return os.environ['TMPDIR']
    """
    plugin = plugin_from(source, plugin={"instances": 2}, permissions={"fs.write": ["${tmp}"]})
    first, second = plugin._lanes
    folders = []
    for lane in (first, second):
        plugin._turns.begin(lane)
        try:
            folders.append(lane.call("put", {}))
        finally:
            plugin._turns.end(lane)
    assert len(set(folders)) == 2
    assert not plugin.denials()


def test_closing_in_the_middle_ends_every_call(plugin_from: Any) -> None:
    plugin = pool_of(3, plugin_from)
    waiting = Waiting(plugin, plugin_from.folder, 3)
    plugin.close()
    assert [str(call.exception(PATIENCE)) for call in waiting.calls] == ["the plugin was closed during the call"] * 3
    waiting.pool.shutdown()


def test_ctrl_c_in_one_call_leaves_the_others_alone(plugin_from: Any) -> None:
    plugin = pool_of(2, plugin_from)
    waiting = Waiting(plugin, plugin_from.folder, 1)

    def press() -> None:
        until(lambda: len(waiting.pids()) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        plugin.call("wait", path=str(waiting.path))
    thread.join()
    assert waiting.go()[0] in waiting.pids()
    waiting.pool.shutdown()
    assert plugin.call("process")


def test_many_threads_on_a_few_workers_get_each_its_own_answer(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef echo(value): return value", plugin={"instances": 3})

    def calls(thread: int) -> bool:
        return all(plugin.call("echo", value=[thread, n]) == [thread, n] for n in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(calls, range(8)))
    assert plugin._turns._waiting == []
    assert len(plugin._turns._free) == 3


@pytest.mark.parametrize("count", [0, 17, 1.5, True, "2"])
def test_instances_is_a_whole_number_from_1_to_16(plugin_from: Any, count: object) -> None:
    with pytest.raises(host.ManifestError, match=r"plugin\.instances"):
        plugin_from(SOURCE, plugin={"instances": count})


def test_one_that_fails_to_start_fails_the_load_and_leaves_none(plugin_from: Any) -> None:
    owner = plugin_from.host(data=plugin_from.folder)
    source = "import os\nos.mkdir(DATA)\n".replace("DATA", repr(str(plugin_from.folder / "one" / "x"))) + SOURCE
    file = plugin_from.manifest(source, plugin={"instances": 2, "name": "one"}, permissions=DATA)
    with pytest.raises(host.PluginStartError):
        owner.load(file)
    assert list(owner) == []
