"""What an application may get wrong, or do at an awkward moment, fails early and closed."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

import host


@pytest.mark.parametrize(
    "grants", [{"plugin-1": None}, {"plugin-1": "requested"}, {1: host.Grant()}, None, 3, ["requested"]]
)
def test_grants_of_another_type_are_refused_at_once(grants: Any) -> None:
    """None in a mapping must not mean "everything"."""
    with pytest.raises(TypeError, match="grants"):
        host.PluginHost("tests", grants=grants)


@pytest.mark.parametrize("options", [{"ceiling": {}}, {"ceiling": "x"}, {"on_event": 3}])
def test_other_options_of_another_type_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        host.PluginHost("tests", **options)


@pytest.mark.parametrize("name", [None, "", 3])
def test_a_project_needs_a_name(name: Any) -> None:
    with pytest.raises(TypeError, match="project_name"):
        host.PluginHost(name)


def test_a_stop_iteration_does_not_leave_an_awaiting_coroutine_hanging(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef stop(): raise StopIteration(1)")

    async def run() -> None:
        await asyncio.wait_for(plugin.acall("stop"), 20)

    with pytest.raises(host.PluginError) as caught:
        asyncio.run(run())
    assert caught.value.remote_type == "StopIteration"


def test_more_items_than_cross_are_refused_before_anything_is_sent(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef echo(x, y=None): return [0] * x if type(x) is int else x")
    for arguments in ({"x": [0.5] * (1 << 20)}, {"x": [0.5] * 600_000, "y": [0.5] * 600_000}):
        with pytest.raises(host.SerializationError, match="items"):
            plugin.call("echo", **arguments)
    with pytest.raises(host.PluginError) as caught:
        plugin.call("echo", x=1 << 20)
    assert caught.value.remote_type == "SerializationError"
    assert plugin.call("echo", x="still here") == "still here"


def test_close_from_a_signal_handler_ends_every_plugin(plugin_from: Any) -> None:
    owner = plugin_from.host()
    slow = plugin_from(
        "import time\n@hookimpl\ndef wait():\n    print('in it', flush=True)\n    time.sleep(60)", into=owner
    )
    other = plugin_from("@hookimpl\ndef answer(): return 42", into=owner)
    pids = [slow.pid, other.pid]
    before = signal.signal(signal.SIGALRM, lambda *_: owner.close())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(host.HostError):
            slow.call("wait")
    finally:
        signal.signal(signal.SIGALRM, before)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_failed_hook_leaves_no_argument_in_the_audit_log(plugin_from: Any, tmp_path: Any) -> None:
    import pluggy

    plugin = plugin_from("@hookimpl\ndef f(x): raise MemoryError('LEAK ' + x)", audit=tmp_path / "audit.jsonl")
    manager = pluggy.PluginManager("tests")
    manager.register(plugin)
    assert manager.hook.f(x="secretarg") == []
    assert "secretarg" not in (tmp_path / "audit.jsonl").read_text()


def test_a_worker_that_fails_at_its_start_is_on_record(plugin_from: Any, tmp_path: Any) -> None:
    with pytest.raises(host.PluginStartError):
        plugin_from("import os; os._exit(3)", audit=tmp_path / "audit.jsonl")
    assert '"worker.exited"' in (tmp_path / "audit.jsonl").read_text()


def test_memory_that_runs_out_at_import_is_the_limit_that_it_is(plugin_from: Any) -> None:
    with pytest.raises(host.ResourceLimitExceeded) as caught:
        plugin_from("x = bytearray(1 << 31)\n@hookimpl\ndef f(): pass", limits={"memory": "64 MiB"})
    assert caught.value.limit == "memory"
