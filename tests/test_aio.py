"""Promises of `acall`: a loop waits for many workers at once and for none alone; what `call` promises holds."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pluggy
import pytest
from until import PATIENCE, until

import host
from host.run.pidfd import ended

try:
    import uvloop

    uvloop.new_event_loop().close()  # libuv keeps a pipe from its first loop on
except ImportError:
    pass

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SOURCE: Final = """
import os, threading
from sandbox_worker.plugin_api import host
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
def ask(name, arguments): return host.call(name, **arguments)
@hookimpl
def leave(): os._exit(1)
@hookimpl
def hang():
    host.call("test.began")
    threading.Event().wait()
@hookimpl
def flood(): os.write(4, b"\\xff" * 100)
@hookimpl
def snoop(path): open(path)
"""


class Scene:
    """A plugin that may call what the test offers, and a flag that `test.began` sets."""

    def __init__(self, plugin_from: Any, **options: Any) -> None:
        self.owner = plugin_from.host()
        self.began = threading.Event()
        self.owner.function("test.began")(self.began.set)
        self.plugin = plugin_from(SOURCE, into=self.owner, permissions={"host": ["test.*"]}, **options)

    async def until_begun(self) -> None:
        while not self.began.is_set():
            await asyncio.sleep(0.001)


@pytest.fixture
def scene(plugin_from: Any) -> Scene:
    return Scene(plugin_from, limits={"call_timeout": "20 s"})


def on_asyncio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(main())


def on_uvloop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def on_trio(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return pytest.importorskip("trio").run(main)


LOOPS: Final = pytest.mark.parametrize("run", [on_asyncio, on_uvloop, on_trio], ids=["asyncio", "uvloop", "trio"])


# --- on every loop


@LOOPS
def test_acall_is_call(scene: Scene, run: Any) -> None:
    plugin = scene.plugin

    async def main() -> None:
        assert await plugin.acall("echo", value=[1, {"a": b"b"}]) == [1, {"a": b"b"}]
        for size in (60_000, 200_000, 3_000_000):  # what a pipe holds, and more, both ways
            assert await plugin.acall("echo", value="x" * size) == "x" * size
        with pytest.raises(host.PermissionDenied):
            await plugin.acall("snoop", path="/etc/passwd")
        with pytest.raises(AttributeError):
            await plugin.acall("nothing")
        with pytest.raises(host.SerializationError):
            await plugin.acall("echo", value=object())
        with pytest.raises(host.SerializationError):
            await plugin.acall("echo", value="\ud800")
        with pytest.raises(host.PluginCrashed):
            await plugin.acall("leave")
        assert await plugin.acall("echo", value=1) == 1

    run(main)
    assert plugin.restarts == 1


@LOOPS
def test_functions_of_the_application_answer_an_acall(scene: Scene, run: Any) -> None:
    plain, loops = [], []

    @scene.owner.function("test.plain")
    def function(value: int) -> int:
        plain.append(threading.get_ident())
        return value + 1

    @scene.owner.function("test.again")
    async def again(value: int) -> Any:
        loops.append(threading.get_ident())
        return await scene.plugin.acall("echo", value=value)

    async def main() -> None:
        assert await scene.plugin.acall("ask", name="test.plain", arguments={"value": 1}) == 2
        assert await scene.plugin.acall("ask", name="test.again", arguments={"value": 5}) == 5

    run(main)
    assert plain != [threading.get_ident()]  # it may take long
    assert loops == [threading.get_ident()]


def test_an_error_of_what_ran_in_a_thread_is_raised_and_not_logged_as_well(scene: Scene) -> None:
    told: list[Any] = []

    @scene.owner.function("test.snoop")
    async def snoop() -> None:
        with pytest.raises(host.PermissionDenied):
            await scene.plugin.acall("snoop", path="/etc/passwd")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        await scene.plugin.acall("ask", name="test.snoop", arguments={})
        gc.collect()

    asyncio.run(main())
    assert told == []


@LOOPS
def test_a_worker_that_breaks_the_protocol_harms_its_own_call_alone(scene: Scene, run: Any) -> None:
    async def main() -> None:
        with pytest.raises(host.ProtocolViolation):
            await scene.plugin.acall("flood")
        assert await scene.plugin.acall("echo", value=1) == 1

    run(main)


def test_trio_cancels_a_call_that_runs_and_one_that_waits(scene: Scene) -> None:
    trio = pytest.importorskip("trio")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.plugin.acall, "hang")
            while not scene.began.is_set():
                await trio.sleep(0.001)
            with trio.move_on_after(0.05):
                await scene.plugin.acall("echo", value=1)
                raise AssertionError
            nursery.cancel_scope.cancel()
        assert await scene.plugin.acall("echo", value=2) == 2

    trio.run(main)
    assert scene.plugin.restarts == 1


# --- many at once


def test_one_loop_runs_two_hundred_workers_in_its_own_thread(plugin_from: Any) -> None:
    """All of them are in their calls at the same time: each waits for a file that is made when all have begun."""
    owner = plugin_from.host()
    source = """
    import os, time
    def meet(path, name):
        open(f"{path}/{name}", "w").close()
        while not os.path.exists(path + "/go"): time.sleep(0.2)
        return name
    """
    count = 200
    folder = plugin_from.folder / "meeting"
    folder.mkdir()
    one = plugin_from.manifest(
        source,
        functions={"meet": "plugin:meet"},
        permissions={"fs.write": [str(folder)], "fs.read": [str(folder)]},
        limits={"call_timeout": "50 s", "memory": "128 MiB"},
    )
    text = one.read_text()
    plugins = []
    for number in range(count):
        file = one.with_name(f"{number}.toml")
        file.write_text(text.replace('name = "plugin-1"', f'name = "many-{number}"'))
        plugins.append(owner.load(file))
    threads = threading.active_count()

    async def main() -> list[Any]:
        path = str(folder)
        calls = [asyncio.ensure_future(p.acall("meet", path=path, name=p.name)) for p in plugins]
        while len(os.listdir(folder)) < count:
            await asyncio.sleep(0.05)
        assert threading.active_count() <= threads
        (folder / "go").touch()
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == [plugin.name for plugin in plugins]


def test_a_thousand_calls_of_one_plugin_wait_their_turns_without_a_thread(scene: Scene) -> None:
    threads = threading.active_count()

    async def main() -> list[Any]:
        calls = [asyncio.ensure_future(scene.plugin.acall("echo", value=number)) for number in range(1000)]
        await asyncio.sleep(0)
        assert threading.active_count() <= threads
        return await asyncio.gather(*calls)

    assert asyncio.run(main()) == list(range(1000))


def test_threads_and_two_loops_share_a_plugin(scene: Scene) -> None:
    plugin = scene.plugin

    def calls(_number: int) -> list[Any]:
        return [plugin.call("echo", value=number) for number in range(100)]

    def loop(_number: int) -> list[Any]:
        async def main() -> list[Any]:
            return await asyncio.gather(*(plugin.acall("echo", value=number) for number in range(100)))

        return asyncio.run(main())

    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(work, 0) for work in (calls, loop, calls, loop, calls)]
        assert all(one.result(PATIENCE) == list(range(100)) for one in running)
    assert plugin.restarts == 0


def test_a_blocking_call_waits_for_no_task_of_its_own_loop(scene: Scene) -> None:
    async def main() -> None:
        running = asyncio.ensure_future(scene.plugin.acall("hang"))
        await scene.until_begun()
        with pytest.raises(host.HostError, match="in the middle of a call"):
            scene.plugin.call("echo", value=1)
        scene.plugin.cancel()
        with pytest.raises(host.HostError, match=r"cancelled|asked to stop"):
            await running
        assert scene.plugin.call("echo", value=1) == 1

    asyncio.run(main())


def test_a_blocking_call_is_made_though_tasks_of_its_loop_came_first(scene: Scene) -> None:
    """Another thread has the turn, a task waits, and then the loop's own thread waits: it is rung for as well."""
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(scene.plugin.call, "hang")
        assert scene.began.wait(PATIENCE)

        def cancel() -> None:
            until(lambda: len(scene.plugin._turns._waiting) == 2)
            scene.plugin.cancel()

        async def main() -> None:
            task = asyncio.ensure_future(scene.plugin.acall("echo", value="task"))
            await asyncio.sleep(0)
            pool.submit(cancel)
            assert scene.plugin.call("echo", value="thread") == "thread"
            assert await task == "task"

        asyncio.run(main())
        assert isinstance(other.exception(PATIENCE), host.HostError)


# --- its end


def test_a_worker_that_is_killed_ends_its_acall_alone(scene: Scene) -> None:
    async def main() -> None:
        running = asyncio.ensure_future(scene.plugin.acall("hang"))
        await scene.until_begun()
        waiting = asyncio.ensure_future(scene.plugin.acall("echo", value=1))
        await asyncio.sleep(0)
        assert scene.plugin.pid
        os.kill(scene.plugin.pid, signal.SIGKILL)
        with pytest.raises(host.PluginCrashed):
            await running
        assert await waiting == 1

    asyncio.run(main())
    assert scene.plugin.restarts == 1


def test_a_worker_that_died_before_it_read_anything_is_replaced_and_the_call_made(scene: Scene) -> None:
    assert scene.plugin.pid
    handle = os.pidfd_open(scene.plugin.pid)
    os.kill(scene.plugin.pid, signal.SIGKILL)
    assert ended(handle, PATIENCE)
    os.close(handle)

    async def main() -> None:
        assert await scene.plugin.acall("echo", value=1) == 1

    asyncio.run(main())


def test_call_timeout_holds_in_an_acall(plugin_from: Any) -> None:
    scene = Scene(plugin_from, limits={"call_timeout": "1 s"})
    with pytest.raises(host.PluginTimeout):
        asyncio.run(scene.plugin.acall("hang"))
    assert asyncio.run(scene.plugin.acall("echo", value=1)) == 1


def test_a_cancelled_caller_that_is_cancelled_again_leaves_and_the_turn_ends_all_the_same(scene: Scene) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(scene.plugin.acall("hang"))
        await scene.until_begun()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await scene.plugin.acall("echo", value=1) == 1

    asyncio.run(main())


def test_closing_from_the_loop_ends_its_calls_and_does_not_wait_for_them(scene: Scene) -> None:
    async def main() -> None:
        running = asyncio.ensure_future(scene.plugin.acall("hang"))
        await scene.until_begun()
        scene.owner.close()
        with pytest.raises(host.HostError, match="closed"):
            await running

    asyncio.run(main())
    assert scene.plugin.state == "STOPPED"


def test_leaving_async_with_ends_calls_that_run(plugin_from: Any) -> None:
    async def main() -> None:
        scene = Scene(plugin_from)
        async with scene.owner:
            running = asyncio.ensure_future(scene.plugin.acall("hang"))
            await scene.until_begun()
        with pytest.raises(host.HostError, match="closed"):
            await running

    asyncio.run(main())


def test_a_loop_that_is_gone_in_the_middle_of_a_call_leaves_the_plugin_usable(scene: Scene) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(scene.plugin.acall("hang"))
    loop.run_until_complete(scene.until_begun())
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    gc.collect()
    assert scene.plugin.call("echo", value=1) == 1


def test_closing_waits_for_no_loop_that_was_stopped_in_the_middle_of_a_call(scene: Scene) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(scene.plugin.acall("hang"))
    loop.run_until_complete(scene.until_begun())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(scene.owner.close).result(PATIENCE)
    assert (scene.plugin.state, scene.plugin.pid) == ("STOPPED", None)
    with pytest.raises(host.HostError, match="closed"):
        loop.run_until_complete(task)
    loop.close()


class Selectorless(asyncio.SelectorEventLoop):
    """As the Proactor loop: without add_reader for others."""

    def add_reader(self, *_: Any) -> Any:
        raise NotImplementedError


def test_a_loop_without_selectors_uses_threads(scene: Scene) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*(scene.plugin.acall("echo", value=number) for number in range(20)))

    with asyncio.Runner(loop_factory=Selectorless) as runner:
        assert runner.run(main()) == list(range(20))


# --- the warning


def test_a_blocking_hook_call_in_a_loop_warns_in_debug_mode_alone(scene: Scene) -> None:
    manager = pluggy.PluginManager("tests")
    manager.register(scene.plugin)

    async def main() -> None:
        manager.hook.echo(value=1)

    asyncio.run(main(), debug=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(main(), debug=True)
    assert [(one.category, one.filename) for one in seen] == [(RuntimeWarning, __file__)]
    assert "echo keeps the event loop waiting" in str(seen[0].message)


# --- a storm


def test_a_storm_of_cancelled_calls_and_killed_workers_loses_no_turn(plugin_from: Any) -> None:
    calm = host.RestartPolicy(failures=1000, first_pause=0.001, longest_pause=0.001)
    owner = plugin_from.host(restart_policy=calm)
    owner.function("test.began")(lambda: None)
    plugin = plugin_from(SOURCE, into=owner, permissions={"host": ["test.*"]}, plugin={"instances": 2})
    chance = random.Random(7)

    async def one(number: int) -> None:
        what = chance.choice(("echo", "echo", "echo", "leave", "hang"))
        arguments = {"value": number} if what == "echo" else {}
        with contextlib.suppress(host.HostError, TimeoutError):
            async with asyncio.timeout(chance.random() * (0.1 if what == "hang" else 0.5)):
                found = await plugin.acall(what, **arguments)
                assert found == number

    def beside() -> None:
        for number in range(40):
            with contextlib.suppress(host.HostError):
                assert plugin.call("echo", value=number) == number

    async def main() -> None:
        threads = [asyncio.to_thread(beside) for _ in range(2)]
        await asyncio.gather(*threads, *(one(number) for number in range(150)))
        for _ in range(4):
            assert await asyncio.gather(*(plugin.acall("echo", value=n) for n in range(4))) == [0, 1, 2, 3]

    asyncio.run(main())
    turns = plugin._turns
    assert (turns._waiting, turns._owners, len(turns._free)) == ([], {}, 2)
