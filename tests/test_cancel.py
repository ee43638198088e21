"""Promises of cancelling: the plugin is asked first and has a moment, then its worker is ended; nothing else is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from until import PATIENCE, stop, until

import host
from host.run import worker
from host.service.ticket import Ticket

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SOURCE: Final = """
import threading, time
from sandbox_worker.plugin_api import context, host, Cancelled
def began():
    try: host.call("test.began")
    except Cancelled: pass  # it may come before the answer
@hookimpl
def stubborn():
    began(); threading.Event().wait()
@hookimpl
def deaf(): threading.Event().wait()
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
    while True:
        try:
            began()
            while True: host.call("test.nothing")
        except Cancelled: pass
@hookimpl
def waits_in_function(): return ask("test.forever")
@hookimpl
def ask(name): return host.call(name)
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
        self.ended = threading.Event()
        self.owner = owner = plugin_from.host()
        owner.function("test.began")(self.began.set)
        owner.function("test.nothing")(lambda: None)

        @owner.function("test.forever")
        async def forever() -> None:
            self.began.set()
            try:
                await forever_on_any_loop()
            finally:
                self.ended.set()

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
        assert self.began.wait(PATIENCE)
        at = time.monotonic()
        act()
        thread.join()
        return found[0], time.monotonic() - at


async def forever_on_any_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio

        await trio.sleep_forever()
    else:
        await asyncio.Event().wait()


LONG: Final = 25.0
"""Seconds below any that a test has to wait in vain: a function's own time is 30, a call's below 60."""


@pytest.fixture
def scene(plugin_from: Any) -> Scene:
    """With time enough that no deadline comes."""
    return Scene(plugin_from, call_timeout="50 s")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grace that a slow machine keeps too, for plugins that do stop."""
    monkeypatch.setattr(worker, "GRACE", LONG)


@pytest.mark.usefixtures("patient")
def test_a_plugin_that_looks_may_end_its_call_itself(scene: Scene) -> None:
    assert scene.outcome("polite", scene.plugin.cancel)[0] == "stopped"
    assert scene.plugin.call("is_cancelled") is False
    assert scene.plugin.restarts == 0


@pytest.mark.usefixtures("patient")
def test_its_threads_see_it_too(scene: Scene) -> None:
    assert scene.outcome("from_thread", scene.plugin.cancel)[0] == [True]


@pytest.mark.usefixtures("patient")
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
    assert 0.2 < took < LONG
    assert scene.plugin.call("echo", value=1) == 1
    assert scene.plugin.restarts == 1


def test_without_a_call_there_is_nothing_to_cancel(scene: Scene) -> None:
    scene.plugin.cancel()
    assert scene.plugin.call("is_cancelled") is False
    scene.plugin.close()
    scene.plugin.cancel()


@pytest.mark.usefixtures("patient")
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


@pytest.mark.usefixtures("patient")
def test_at_the_deadline_the_plugin_is_asked_first_and_its_worker_lives(plugin_from: Any) -> None:
    scene = Scene(plugin_from, call_timeout="1 s")
    for hook in ("polite", "asking"):
        with pytest.raises(host.PluginTimeout):
            scene.plugin.call(hook)
    assert scene.plugin.restarts == 0
    assert scene.plugin.call("how_often") == 1


def test_one_that_does_not_stop_then_is_ended(plugin_from: Any) -> None:
    scene = Scene(plugin_from, call_timeout="1 s")
    for hook in ("deaf", "swallows"):
        with pytest.raises(host.PluginTimeout):
            scene.plugin.call(hook)
    assert scene.plugin.call("echo", value=1) == 1
    assert scene.plugin.restarts == 2


# --- coroutines


def run_cancelled(scene: Scene, hook: str) -> float:
    """Cancel an `acall` once it has begun; the seconds that it took to end."""

    async def main() -> float:
        task = asyncio.create_task(scene.plugin.acall(hook))
        await asyncio.to_thread(scene.began.wait, PATIENCE)
        running = scene.plugin._worker
        while running is not None and running.deadline is None:
            await asyncio.sleep(0)  # until `began` is answered: a cancel that comes before ends the call there
        at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - at

    return asyncio.run(main())


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("hook", ["polite", "asking"])
def test_a_cancelled_coroutine_stops_its_call(scene: Scene, hook: str) -> None:
    assert run_cancelled(scene, hook) < LONG
    assert scene.plugin.call("echo", value=1) == 1
    assert scene.plugin.restarts == 0


@pytest.mark.parametrize("hook", ["stubborn", "swallows"])
def test_a_cancelled_coroutine_ends_a_worker_that_does_not_stop(scene: Scene, hook: str) -> None:
    assert run_cancelled(scene, hook) < LONG
    assert scene.plugin.call("echo", value=1) == 1
    assert scene.plugin.restarts == 1


@pytest.mark.usefixtures("patient")
def test_asyncio_timeout_reaches_the_plugin(scene: Scene) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await scene.plugin.acall("polite")
        assert await scene.plugin.acall("echo", value=1) == 1

    asyncio.run(main())
    assert scene.plugin.restarts == 0


@pytest.mark.usefixtures("patient")
def test_a_call_that_is_cancelled_before_its_turn_is_never_made(scene: Scene) -> None:
    async def main() -> None:
        first = asyncio.create_task(scene.plugin.acall("polite"))
        await asyncio.to_thread(scene.began.wait, PATIENCE)
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


# --- functions of the application


async def cancelled(scene: Scene, hook: str) -> None:
    """An `acall` that is cancelled as soon as its function has begun, and its end."""
    task = asyncio.ensure_future(scene.plugin.acall(hook))
    while not scene.began.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_on_trio(scene: Scene, hook: str) -> None:
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.plugin.acall, hook)
        while not scene.began.is_set():
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


def seconds(run: Callable[[], object]) -> float:
    at = time.monotonic()
    run()
    return time.monotonic() - at


def test_a_cancelled_coroutine_stops_the_function_that_its_call_waits_for(scene: Scene) -> None:
    assert seconds(lambda: asyncio.run(cancelled(scene, "waits_in_function"))) < LONG
    assert scene.ended.is_set()


def test_on_trio_too(scene: Scene) -> None:
    trio = pytest.importorskip("trio")
    assert seconds(lambda: trio.run(cancelled_on_trio, scene, "waits_in_function")) < LONG
    assert scene.ended.is_set()


def test_a_blocking_call_leaves_an_async_function_that_it_waits_for(scene: Scene) -> None:
    error, took = scene.outcome("waits_in_function", scene.plugin.cancel)
    assert type(error) is host.HostError
    assert took < LONG
    assert scene.ended.is_set()


class Hurried(asyncio.SelectorEventLoop):
    """Where what another thread hands in is over before that thread goes on, as a busy machine may have it."""

    over: threading.Event | None = None

    def call_soon_threadsafe(self, *given: Any, **named: Any) -> Any:
        handle = super().call_soon_threadsafe(*given, **named)
        if self.over is not None and threading.get_ident() != self._thread_id:  # type: ignore[attr-defined]
            assert self.over.wait(PATIENCE)
        return handle


def test_a_function_that_is_cancelled_in_its_first_step_stops(scene: Scene) -> None:
    over = threading.Event()

    @scene.owner.function("test.first_step")
    async def first_step() -> None:
        scene.plugin.cancel()
        over.set()
        try:
            await asyncio.Event().wait()
        finally:
            scene.ended.set()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Hurried)
        loop.over = over
        with pytest.raises(host.HostError):
            await scene.plugin.acall("ask", name="test.first_step")

    with asyncio.Runner(loop_factory=Hurried) as runner:
        assert seconds(lambda: runner.run(main())) < LONG
    assert scene.ended.is_set()


def test_for_a_call_that_was_asked_to_stop_no_async_function_begins(scene: Scene) -> None:
    """The cancel comes between the ask and the function's first step."""
    begun = []

    async def late() -> None:
        begun.append(True)
        await asyncio.Event().wait()

    @scene.owner.function("test.late")
    def prepared() -> Coroutine[Any, Any, None]:
        scene.plugin.cancel()
        return late()

    async def main() -> None:
        with pytest.raises(host.HostError):
            await scene.plugin.acall("ask", name="test.late")

    assert seconds(lambda: asyncio.run(main())) < LONG
    with pytest.raises(host.HostError):
        scene.plugin.call("ask", name="test.late")
    assert begun == []


def test_a_function_that_waits_for_others_of_the_same_plugin_is_stopped_after_them(scene: Scene) -> None:
    @scene.owner.function("test.quick")
    async def quick() -> int:
        return 1

    @scene.owner.function("test.outer")
    async def outer() -> None:
        assert await scene.plugin.acall("ask", name="test.quick") == 1
        scene.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            scene.ended.set()

    @scene.owner.function("test.both")
    async def both() -> None:
        await scene.plugin.acall("waits_in_function")

    async def main(name: str) -> None:
        task = asyncio.ensure_future(scene.plugin.acall("ask", name=name))
        while not scene.began.is_set():
            await asyncio.sleep(0.001)
        scene.plugin.cancel()
        with pytest.raises(host.HostError):
            await task

    for name in ("test.outer", "test.both"):
        assert seconds(lambda name=name: asyncio.run(main(name))) < LONG
        assert scene.ended.is_set()
        scene.began.clear()
        scene.ended.clear()


@pytest.mark.usefixtures("patient")
def test_a_cancel_reaches_no_function_of_the_next_call(scene: Scene) -> None:
    @scene.owner.function("test.slow")
    async def slow() -> int:
        late = threading.Thread(target=lane.cancel, args=(1,))
        late.start()
        while late.is_alive():
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        return 5

    lane = scene.plugin._lanes[0]
    scene.plugin.call("echo", value=1)
    assert scene.plugin.call("ask", name="test.slow") == 5


# --- hostile


def test_a_full_pipe_never_makes_cancelling_wait(plugin_from: Any) -> None:
    """A worker that reads nothing of a long call: the note can't be written, the grace counts all the same."""
    plugin = plugin_from(
        """
        @hookimpl
        def echo(value): return value
        """,
        limits={"call_timeout": "50 s"},
    )
    stop(plugin.pid)
    errors: list[Exception] = []

    def call() -> None:
        try:
            plugin.call("echo", value=b"x" * (1 << 20))
        except host.HostError as e:
            errors.append(e)

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: plugin._worker.busy)  # before that there is no call to cancel
    plugin.cancel()
    thread.join(PATIENCE)
    assert "cancelled" in str(errors[0])
