"""Ctrl-C may come at any moment of whatever a host does: the next call is answered, by a new worker where need be.

Python runs a signal's handler between two calls, of which a profile function hears too (sys.setprofile): each of these
moments is tried, one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest
from until import PATIENCE

import host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SOURCE: Final = """
from sandbox_worker.plugin_api import host
@hookimpl
def echo(x): return x
@hookimpl
def ask(): return host.call("double", x=2)
@hookimpl
def count(): yield from range(2)
"""
FOLDER: Final = os.path.dirname(host.__file__) + os.sep
PATHS: Final = {"PYTHONPATH": os.pathsep.join((os.path.dirname(FOLDER[:-1]), os.path.dirname(__file__)))}
LOOP: Final = os.path.dirname(asyncio.__file__) + os.sep
PATIENT: Final = host.RestartPolicy(failures=1000, first_pause=0.001, longest_pause=0.001)


def interrupted(action: Callable[[], object], moment: int, within: tuple[str, ...] = (FOLDER,)) -> bool:
    """Do `action`, with Ctrl-C at its `moment`, from 1 on, of those in files `within`; whether it had so many."""
    count = 0

    def profile(frame: FrameType, event: str, _arg: object) -> None:
        nonlocal count
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(within):
            count += 1
            if count == moment:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return count >= moment


def answered(plugin: Any) -> object:
    """What another thread is answered: it knows nothing of a turn that this one may have kept."""
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(plugin.call("echo", x=7))
        except Exception as e:
            answers.append(e)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answers[0] if answers else "nothing: it hangs"


@pytest.mark.parametrize(
    ("action", "step"),
    [
        (lambda plugin: plugin.call("echo", x=1), 1),
        (lambda plugin: plugin.call("ask"), 2),
        (lambda plugin: list(plugin.stream("count")), 1),
        (lambda plugin: plugin.ping(), 1),
    ],
    ids=["call", "ask", "stream", "ping"],
)
def test_a_plugin_answers_after_ctrl_c_at_any_moment(
    plugin_from: Any, action: Callable[[Any], object], step: int
) -> None:
    plugin = plugin_from(SOURCE, permissions={"host": ["double"]}, restart_policy=PATIENT)
    plugin._owner.function("double")(lambda x: 2 * x)
    moment = 1
    while interrupted(lambda: action(plugin), moment):
        assert (moment, answered(plugin), plugin.call("echo", x=8)) == (moment, 7, 8)
        moment += step
    assert moment > step


def once(plugin: Any, loop: asyncio.AbstractEventLoop, *, asks: bool = False) -> object:
    """One call from a coroutine, on a loop that nobody but the test ends."""
    return loop.run_until_complete(plugin.acall("ask") if asks else plugin.acall("echo", x=1))


@pytest.fixture
def loops() -> Iterator[Callable[[], asyncio.AbstractEventLoop]]:
    """Makes loops, which are closed when the test ends and not before."""
    with contextlib.ExitStack() as stack:

        def make() -> asyncio.AbstractEventLoop:
            made = asyncio.new_event_loop()
            made.set_exception_handler(lambda *_: None)  # what Ctrl-C leaves undone in a loop is said by the loop
            stack.callback(made.close)
            return made

        yield make


@pytest.mark.parametrize(("asks", "step"), [(False, 1), (True, 3)], ids=["call", "ask"])
def test_a_plugin_answers_after_ctrl_c_at_any_moment_of_a_coroutine(
    plugin_from: Any, loops: Callable[[], asyncio.AbstractEventLoop], asks: bool, step: int
) -> None:
    plugin = plugin_from(SOURCE, permissions={"host": ["double"]}, restart_policy=PATIENT)
    plugin._owner.function("double")(lambda x: 2 * x)
    moment = 1
    while True:
        loop = loops()
        if not interrupted(lambda: once(plugin, loop, asks=asks), moment):  # noqa: B023 - done at once
            break
        assert (moment, answered(plugin), plugin.call("echo", x=8)) == (moment, 7, 8)
        moment += step
    assert moment > step


@pytest.mark.filterwarnings("ignore:coroutine 'SandboxedPlugin.acall' was never awaited")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # which says the same
def test_a_plugin_answers_after_ctrl_c_at_any_moment_of_the_loop(
    plugin_from: Any, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Then nothing of ours runs: the call is left as it is, and whoever comes next ends it."""
    plugin = plugin_from(SOURCE, restart_policy=PATIENT)
    moment = 1
    while True:
        loop = loops()
        within = (FOLDER, LOOP, selectors.__file__)
        if not interrupted(lambda: once(plugin, loop), moment, within):  # noqa: B023 - done at once
            break
        assert (moment, plugin.call("echo", x=8)) == (moment, 8)
        moment += 3
    assert moment > 3


def stand_still(plugin: Any, loop: asyncio.AbstractEventLoop, hook: str, **arguments: object) -> asyncio.Task[Any]:
    """A call that has begun, on a loop that does not run any more."""

    async def begin() -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(plugin.acall(hook, **arguments))
        while not plugin._workers()[0].busy:
            await asyncio.sleep(0)
        return task

    return loop.run_until_complete(begin())


@pytest.mark.parametrize("hook", ["echo", "hang"])
def test_a_call_whose_loop_stands_still_keeps_no_other_thread_for_ever(
    plugin_from: Any, loops: Callable[[], asyncio.AbstractEventLoop], hook: str
) -> None:
    source = SOURCE + "@hookimpl\ndef hang(x):\n    import threading; threading.Event().wait()\n"
    plugin, loop = plugin_from(source, limits={"call_timeout": "0.5 s"}, restart_policy=PATIENT), loops()
    task = stand_still(plugin, loop, hook, x=1)
    assert answered(plugin) == 7
    with pytest.raises(host.HostError, match="event loop stood still"):
        loop.run_until_complete(task)
    assert loop.run_until_complete(plugin.acall("echo", x=3)) == 3


def test_a_call_of_another_loop_of_this_thread_is_answered_at_once(
    plugin_from: Any, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    plugin, first, second = plugin_from(SOURCE), loops(), loops()
    task = stand_still(plugin, first, "echo", x=1)
    assert second.run_until_complete(plugin.acall("echo", x=2)) == 2
    with pytest.raises(host.HostError, match="event loop stood still"):
        first.run_until_complete(task)
    assert first.run_until_complete(plugin.acall("echo", x=3)) == 3


def test_a_loop_that_is_run_a_little_at_a_time_loses_no_call(
    plugin_from: Any, loops: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    source = SOURCE + "@hookimpl\ndef rest(x):\n    import time; time.sleep(x)\n    return x\n"
    plugin, loop = plugin_from(source), loops()
    task = stand_still(plugin, loop, "rest", x=3)
    answers: list[object] = []
    thread = threading.Thread(target=lambda: answers.append(answered(plugin)))
    thread.start()
    while not task.done():
        loop.run_until_complete(asyncio.sleep(0))
        time.sleep(0.05)
    thread.join()
    assert (task.result(), answers) == (3, [7])


def test_trio_leaves_no_turn_either(plugin_from: Any) -> None:
    trio = pytest.importorskip("trio")
    plugin = plugin_from(SOURCE, restart_policy=PATIENT)

    async def main() -> None:
        await plugin.acall("echo", x=1)

    moment = 1
    while interrupted(lambda: trio.run(main), moment):
        assert (moment, answered(plugin), plugin.call("echo", x=8)) == (moment, 7, 8)
        moment += 1
    assert moment > 1


RESTARTS: Final = """
import sys
import psutil
import host
from test_interruptions import PATIENT, answered, interrupted
from until import until
file, step = sys.argv[1], int(sys.argv[2])
moment = 1
with host.PluginHost("tests", grants="requested", restart_policy=PATIENT) as plugins:
    plugin = plugins.load(file)
    def children():
        return [child.pid for child in psutil.Process(plugins._workers._spawner.pid).children(recursive=True)]
    count = len(children())
    while interrupted(plugin.restart, moment):
        assert (moment, answered(plugin), plugin.call("echo", x=8)) == (moment, 7, 8)
        print("moment", moment)  # the last line says after which one a worker was left
        until(lambda: len(children()) == count)
        moment += step
assert moment > step
assert psutil.Process().children(recursive=True) == []
"""


def test_ctrl_c_at_any_moment_of_a_restart_leaves_no_worker_behind(plugin_from: Any) -> None:
    """In a process of its own, for descriptors that are just being made are lost with it."""
    command = [sys.executable, "-c", RESTARTS, str(plugin_from.manifest(SOURCE)), "19"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=PATHS)
    assert done.returncode == 0, done.stdout[-20:] + done.stderr
