"""Promises of cancelling: the plugin is asked first and has a moment, then its worker is ended; nothing else is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from until import until

import host
from host.service.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE: Final = """
import threading, time
from sandbox_worker.plugin_api import context, host, Cancelled
def began(): host.call("test.began")
@hookimpl
def stubborn():
    began(); threading.Event().wait()
@hookimpl
def polite():
    began()
    while not context.cancelled(): time.sleep(0.01)
    return "stopped"
@hookimpl
def asking():
    try:
        began()
        while True: host.call("test.nothing")
    finally: host_free.append(1)
host_free = []
@hookimpl
def swallows():
    began()
    while True:
        try:
            while True: host.call("test.nothing")
        except Cancelled: pass
@hookimpl
def waits_in_function(): return host.call("test.forever")
@hookimpl
def how_often(): return len(host_free)
@hookimpl
def is_cancelled(): return context.cancelled()
@hookimpl
def from_thread():
    found = []
    def look():
        while not context.cancelled(): time.sleep(0.01)
        found.append(True)
    thread = threading.Thread(target=look); thread.start(); began(); thread.join()
    return found
@hookimpl
def echo(value): return value
"""


class Scene:
    """A plugin, and a flag that its `began` sets."""

    def __init__(self, plugin_from: Any, **limits: str) -> None:
        self.began = threading.Event()
        owner = plugin_from.host()
        owner.function("test.began")(self.began.set)
        owner.function("test.nothing")(lambda: None)

        @owner.function("test.forever")
        async def forever() -> None:
            self.began.set()
            await asyncio.Event().wait()

        self.plugin = plugin_from(SOURCE, into=owner, permissions={"host": ["test.*"]}, limits=limits)

    def outcome(self, hook: str, act: Callable[[], object]) -> tuple[Any, float]:
        """What a call gives or raises when `act` follows its beginning, and the seconds from then on."""
        found: list[Any] = []

        def call() -> None:
            try:
                found.append(self.plugin.call(hook))
            except host.HostError as e:
                found.append(e)

        thread = threading.Thread(target=call)
        thread.start()
        assert self.began.wait(20)
        at = time.monotonic()
        act()
        thread.join()
        return found[0], time.monotonic() - at


@pytest.fixture
def scene(plugin_from: Any) -> Scene:
    """With time enough that no deadline comes."""
    return Scene(plugin_from, call_timeout="20 s")


def test_a_plugin_that_looks_may_end_its_call_itself(scene: Scene) -> None:
    assert scene.outcome("polite", scene.plugin.cancel)[0] == "stopped"
    assert scene.plugin.call("is_cancelled") is False
    assert scene.plugin.restarts == 0


def test_its_threads_see_it_too(scene: Scene) -> None:
    assert scene.outcome("from_thread", scene.plugin.cancel)[0] == [True]


def test_one_that_asks_for_a_function_is_stopped_there_and_cleans_up(scene: Scene) -> None:
    error, _ = scene.outcome("asking", scene.plugin.cancel)
    assert type(error) is host.HostError
    assert "asked to stop" in str(error)
    assert scene.plugin.call("how_often") == 1
    assert scene.plugin.restarts == 0


@pytest.mark.parametrize("hook", ["stubborn", "swallows"])
def test_one_that_goes_on_is_ended_after_the_grace(scene: Scene, hook: str) -> None:
    error, took = scene.outcome(hook, scene.plugin.cancel)
    assert type(error) is host.HostError
    assert "cancelled" in str(error)
    assert 0.2 < took < 3
    assert scene.plugin.call("echo", value=1) == 1
    assert scene.plugin.restarts == 1


def test_without_a_call_there_is_nothing_to_cancel(scene: Scene) -> None:
    scene.plugin.cancel()
    assert scene.plugin.call("is_cancelled") is False
    scene.plugin.close()
    scene.plugin.cancel()


def test_a_cancel_that_comes_too_late_touches_no_other_call(scene: Scene) -> None:
    for number in range(50):
        thread = threading.Thread(target=scene.plugin.cancel)
        thread.start()
        try:
            assert scene.plugin.call("echo", value=number) == number
        finally:
            thread.join()
    assert scene.plugin.call("is_cancelled") is False
    assert scene.plugin.restarts == 0


# --- the deadline


def test_at_the_deadline_the_plugin_is_asked_first_and_its_worker_lives(plugin_from: Any) -> None:
    scene = Scene(plugin_from, call_timeout="200 ms")
    for hook in ("polite", "asking"):
        with pytest.raises(host.PluginTimeout):
            scene.plugin.call(hook)
    assert scene.plugin.restarts == 0
    assert scene.plugin.call("how_often") == 1


def test_one_that_does_not_stop_then_is_ended(plugin_from: Any) -> None:
    scene = Scene(plugin_from, call_timeout="200 ms")
    for hook in ("stubborn", "swallows"):
        with pytest.raises(host.PluginTimeout):
            scene.plugin.call(hook)
    assert scene.plugin.call("echo", value=1) == 1
    assert scene.plugin.restarts == 2


# --- coroutines


def run_cancelled(scene: Scene, hook: str) -> float:
    """Cancel an `acall` once it has begun; the seconds that it took to end."""

    async def main() -> float:
        task = asyncio.create_task(scene.plugin.acall(hook))
        await asyncio.to_thread(scene.began.wait, 20)
        worker = scene.plugin._worker
        while hook != "waits_in_function" and worker is not None and worker.deadline is None:
            await asyncio.sleep(0)  # until `began` is answered: a cancel that comes before ends the call there
        at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - at

    return asyncio.run(main())


@pytest.mark.parametrize(("hook", "restarts"), [("polite", 0), ("asking", 0), ("stubborn", 1), ("swallows", 1)])
def test_a_cancelled_coroutine_stops_its_call(scene: Scene, hook: str, restarts: int) -> None:
    assert run_cancelled(scene, hook) < 3
    assert scene.plugin.call("echo", value=1) == 1
    assert scene.plugin.restarts == restarts


def test_a_cancelled_coroutine_stops_the_function_that_its_call_waits_for(scene: Scene) -> None:
    assert run_cancelled(scene, "waits_in_function") < 3


def test_asyncio_timeout_reaches_the_plugin(scene: Scene) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await scene.plugin.acall("polite")
        assert await scene.plugin.acall("echo", value=1) == 1

    asyncio.run(main())
    assert scene.plugin.restarts == 0


def test_a_call_that_is_cancelled_before_its_turn_is_never_made(scene: Scene) -> None:
    async def main() -> None:
        first = asyncio.create_task(scene.plugin.acall("polite"))
        await asyncio.to_thread(scene.began.wait, 20)
        scene.began.clear()
        second = asyncio.create_task(scene.plugin.acall("asking"))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        scene.plugin.cancel()
        assert await first == "stopped"

    asyncio.run(main())
    assert scene.plugin.call("how_often") == 0
    assert not scene.began.is_set()


def test_a_ticket_is_good_once() -> None:
    ended: list[int] = []
    ticket = Ticket()
    ticket.begin(lambda: ended.append(1))
    ticket.end()
    assert ticket.cancel() is False
    with pytest.raises(host.HostError):
        ticket.begin(lambda: ended.append(2))
    assert ended == []


# --- hostile


def test_a_full_pipe_never_makes_cancelling_wait(plugin_from: Any) -> None:
    """A worker that reads nothing of a long call: the note can't be written, the grace counts all the same."""
    plugin = plugin_from(
        """
        import os, threading
        @hookimpl
        def deaf(): os.set_blocking(3, True); threading.Event().wait()
        @hookimpl
        def echo(value): return value
        """,
        limits={"call_timeout": "20 s"},
    )
    import signal

    pid = plugin.pid
    import os

    os.kill(pid, signal.SIGSTOP)
    errors: list[Exception] = []

    def call() -> None:
        try:
            plugin.call("echo", value=b"x" * (1 << 20))
        except host.HostError as e:
            errors.append(e)

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: plugin.state == "BUSY")
    at = time.monotonic()
    plugin.cancel()
    assert time.monotonic() - at < 0.2
    thread.join()
    assert "cancelled" in str(errors[0])
