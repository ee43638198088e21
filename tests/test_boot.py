"""Promises of a worker's start: the settings are checked, the hook is proven before READY, and half a start is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from raw_worker import RawWorker

from sandbox_worker import boot, messages, serve, wire
from sandbox_worker.walls.steps import step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SOURCE = """
from sandbox_worker.plugin_api import HookimplMarker
@HookimplMarker("tests")
def add(a, b=2):
    return a + b
"""


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Callable[[str], RawWorker]]:
    """Starts raw workers and ends them."""
    started: list[RawWorker] = []

    def start(source: str = SOURCE) -> RawWorker:
        started.append(RawWorker(tmp_path / "plugin", source))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


def test_ready_says_version_pid_tier_modules_and_proofs(raw: Callable[..., RawWorker]) -> None:
    worker = raw()
    ready = messages.Ready(worker.start())
    assert (ready.version, ready.pid, ready.tier) == (wire.VERSION, worker.process.pid, "hooked")
    assert ready.proofs == ("audit_hook",)
    assert "plugin" not in ready.modules
    hooks = messages.hooks_of(worker.receive())
    assert [(hook.name, [p.name for p in hook.parameters]) for hook in hooks] == [("add", ["a", "b"])]


def test_nothing_of_the_plugin_runs_before_ready(raw: Callable[..., RawWorker]) -> None:
    """The plugin's import never ends, and READY is there all the same."""
    worker = raw("import threading; threading.Event().wait()")
    messages.Ready(worker.start())


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\1\xc0",
        b"\0\0\0\2\x91\x00",
        b"\0\0\0\3\x92\x01\x80",
        b"\0\0\0\1\xc1",
        b"\xff\xff\xff\xff",
        b"\0\0\0\3\x92\x00\x80",
    ],
)
def test_a_first_frame_that_is_no_init_ends_the_worker(raw: Callable[..., RawWorker], data: bytes) -> None:
    worker = raw()
    worker.send_raw(data)
    worker.hang_up()
    assert worker.ended() == boot.EXIT_NO_SETTINGS


def test_a_host_that_hangs_up_before_init_ends_the_worker(raw: Callable[..., RawWorker]) -> None:
    worker = raw()
    worker.hang_up()
    assert worker.ended() == boot.EXIT_NO_SETTINGS


def test_another_version_of_the_wire_ends_the_worker(raw: Callable[..., RawWorker]) -> None:
    worker = raw()
    assert worker.start(wire=wire.VERSION + 1) is None
    assert worker.ended() == boot.EXIT_NO_SETTINGS


@pytest.mark.parametrize("key", ["wire", "read", "write", "libraries", "trusted"])
def test_a_setting_that_is_missing_ends_the_worker(raw: Callable[..., RawWorker], key: str) -> None:
    worker = raw()
    del worker.settings[key]
    assert worker.start() is None
    assert worker.ended() == boot.EXIT_NO_SETTINGS


def test_a_hook_that_does_not_refuse_its_probe_ends_the_worker(raw: Callable[..., RawWorker]) -> None:
    worker = raw()
    assert worker.start(read=[["/"], ["/proc/"], []]) is None
    assert worker.ended() == boot.EXIT_HOOK


@pytest.mark.parametrize("tier", ["walled", "confined", "filtered"])
def test_a_worker_without_the_walls_of_its_tier_ends(raw: Callable[..., RawWorker], tier: str) -> None:
    """Started without a spawner, told that the walls stand: the first probe shows that they don't."""
    worker = raw()
    assert worker.start(tier=tier) is None
    assert worker.ended() == boot.EXIT_PROBE


def test_exit_codes_say_one_thing_each() -> None:
    codes = [boot.EXIT_NO_SETTINGS, boot.EXIT_PROBE, boot.EXIT_HOOK, serve.EXIT_DONE, serve.EXIT_BROKEN]
    assert len(set(codes)) == len(codes)
    assert [code for code in codes if step_of(code) is not None] == []
