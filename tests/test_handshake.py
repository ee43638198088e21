"""Promises of the start and of pings: each side refuses what it does not know, and nothing waits for ever."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from frames import frame
from raw_worker import RawWorker
from until import PATIENCE, stop, until

import host
from sandbox_worker import boot, messages, serve, wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCE = """
from sandbox_worker.plugin_api import HookimplMarker
hookimpl = HookimplMarker("tests")
@hookimpl
def answer(): return 42
"""
PLUGIN = """
import os, threading
@hookimpl
def answer(): return 42
@hookimpl
def wait(): threading.Event().wait()
@hookimpl
def write_later(data): threading.Timer(1.0, os.write, (4, data)).start()
"""


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[RawWorker]:
    """A worker without a host."""
    worker = RawWorker(tmp_path / "plugin", SOURCE)
    yield worker
    worker.close()


@pytest.mark.parametrize("version", [0, wire.VERSION - 1, wire.VERSION + 1, "2", None, 2.5])
def test_a_worker_refuses_a_wire_that_it_does_not_speak(raw: RawWorker, version: object) -> None:
    assert raw.start(wire=version) is None
    assert raw.ended() == boot.EXIT_NO_SETTINGS


@pytest.mark.parametrize("message", [[messages.CALL, 1, "answer", {}], [99, {}], [], 5, [messages.INIT], "init"])
def test_a_worker_refuses_a_start_that_is_none(raw: RawWorker, message: Any) -> None:
    raw.send_raw(frame(*message) if type(message) is list else wire.Encoder().encode(message))
    assert raw.receive() is None
    assert raw.ended() == boot.EXIT_NO_SETTINGS


@pytest.mark.parametrize(
    "message", [[99, 1], [messages.INIT, {}], [messages.ANSWER, 1, 2], [messages.REFUSAL, 1, "a", "b"]]
)
def test_a_worker_ends_at_a_message_that_it_does_not_know(raw: RawWorker, message: list[object]) -> None:
    raw.start()
    raw.receive()
    raw.send(*message)
    assert raw.receive() is None
    assert raw.ended() == serve.EXIT_BROKEN


def test_notes_about_calls_that_have_ended_are_passed_over(raw: RawWorker) -> None:
    raw.start()
    raw.receive()
    raw.send(messages.CANCEL, 1)
    raw.send(messages.MORE, 1, 5)
    assert raw.call(1, "answer")[2] == 42  # type: ignore[index]
    raw.send(messages.CANCEL, 1)
    assert raw.call(2, "answer")[2] == 42  # type: ignore[index]


def test_a_ping_is_answered_between_calls(raw: RawWorker) -> None:
    raw.start()
    raw.receive()
    raw.send(messages.PING, 7)
    assert messages.pong_of(raw.receive()) == 7


@pytest.mark.parametrize("version", [0, wire.VERSION - 1, wire.VERSION + 1])
def test_a_host_refuses_a_worker_that_speaks_another_wire(
    plugin_from: Any, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """The worker has this host's version in its settings; what its READY says is changed on the way."""
    plugins = plugin_from.host()
    real = messages.Ready

    class Other(real):  # type: ignore[misc,valid-type]
        def __init__(self, message: object) -> None:
            super().__init__(message)
            self.version = version

    monkeypatch.setattr(messages, "Ready", Other)
    with pytest.raises(host.ProtocolViolation):
        plugin_from(PLUGIN, into=plugins)


# --- pings


def test_a_worker_that_lives_answers(plugin_from: Any) -> None:
    plugin = plugin_from(PLUGIN)
    assert all(plugin.ping(PATIENCE) for _ in range(20))
    assert plugin.call("answer") == 42
    assert plugin.restarts == 0


def test_one_that_is_stopped_is_ended_in_time(plugin_from: Any) -> None:
    plugin = plugin_from(PLUGIN)
    stop(plugin.pid)
    begun = time.monotonic()
    assert plugin.ping(timeout=0.2) is False
    assert time.monotonic() - begun < PATIENCE
    assert plugin.state == "STOPPED"
    assert plugin.ping() is False
    assert plugin.call("answer") == 42


def test_one_that_runs_a_call_is_not_disturbed(plugin_from: Any) -> None:
    plugin = plugin_from(PLUGIN, limits={"call_timeout": "1 s"})
    errors: list[type[Exception]] = []

    def call() -> None:
        try:
            plugin.call("wait")
        except host.HostError as e:
            errors.append(type(e))

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: plugin.state == "BUSY")
    assert plugin.ping(timeout=0.01) is True
    thread.join()
    assert errors == [host.PluginTimeout]


@pytest.mark.parametrize("data", [frame(messages.PONG, 2), frame(messages.PONG, "1"), frame(messages.RESULT, 1, 1, 0)])
def test_a_pong_that_is_none_ends_the_worker(plugin_from: Any, data: bytes) -> None:
    plugin = plugin_from(PLUGIN)
    plugin.call("write_later", data=data)
    until(lambda: not plugin.ping())
    assert plugin.call("answer") == 42


def test_a_closed_plugin_answers_nothing(plugin_from: Any) -> None:
    plugin = plugin_from(PLUGIN)
    plugin.close()
    assert plugin.ping() is False
