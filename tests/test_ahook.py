"""Promises of `ahook`: the results that pluggy would give, and workers that run at the same time where order allows."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

import pluggy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import host
from host.model.events import PluginFailed

if TYPE_CHECKING:
    from collections.abc import Generator

hookspec: Final = pluggy.HookspecMarker("tests")
hookimpl: Final = pluggy.HookimplMarker("tests")

SOURCE: Final = """
import os
from sandbox_worker.plugin_api import host
@hookimpl
def every(value): return value + [NAME] if value is not None else None
@hookimpl
def first(value): return NAME if NAME in value else None
@hookimpl
def meet(): return host.call("test.meet", name=NAME)
@hookimpl
def fail(value):
    if value == NAME: raise KeyError(value)
    return NAME
@hookimpl
def leave(value):
    if value == NAME: os._exit(1)
    return NAME
@hookimpl
def kept(): return NAME
"""


class Specs:
    """What is called."""

    @hookspec
    def every(self, value: Any) -> Any: ...
    @hookspec(firstresult=True)
    def first(self, value: Any) -> Any: ...
    @hookspec
    def meet(self) -> Any: ...
    @hookspec
    def fail(self, value: Any) -> Any: ...
    @hookspec
    def leave(self, value: Any) -> Any: ...
    @hookspec(historic=True)
    def kept(self) -> Any: ...


class Local:
    """An implementation of the application's own, which notes that it ran."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ran = 0

    @hookimpl
    def every(self, value: Any) -> Any:
        self.ran += 1
        return None if value is None else [*value, self.name]

    @hookimpl
    def first(self, value: Any) -> Any:
        return self.name if self.name in value else None

    @hookimpl
    def fail(self, value: Any) -> Any:
        self.ran += 1
        return self.name


class Wraps:
    """A wrapper of the new kind around `every` and `fail`."""

    @hookimpl(wrapper=True)
    def every(self, value: Any) -> Generator[None, Any, Any]:
        return ["wrapped", *(yield)]

    @hookimpl(wrapper=True)
    def fail(self) -> Generator[None, Any, Any]:
        try:
            return (yield)
        except KeyError as e:
            return ["taken", *e.args]


class WrapsOld:
    """One of the old kind."""

    @hookimpl(hookwrapper=True)
    def every(self, value: Any) -> Generator[None, Any, None]:
        outcome = yield
        outcome.force_result(["old", *outcome.get_result()])


class Scene:
    """A manager with the plugins that are named: in workers ``a`` to ``c``, in the application ``x`` and ``y``."""

    def __init__(self, plugin_from: Any, **options: Any) -> None:
        self.events: list[Any] = []
        self.owner = plugin_from.host(on_event=self.events.append, **options)
        self.workers = {
            name: plugin_from(f"NAME = {name!r}\n{SOURCE}", into=self.owner, permissions={"host": ["test.*"]})
            for name in "abc"
        }

    def manager(self, names: str, *more: object) -> pluggy.PluginManager:
        manager = pluggy.PluginManager("tests")
        manager.add_hookspecs(Specs)
        for name in names:
            manager.register(self.workers[name] if name in self.workers else Local(name))
        for plugin in more:
            manager.register(plugin)
        return manager

    def call(self, manager: pluggy.PluginManager, hook: str, **arguments: Any) -> Any:
        async def main() -> Any:
            return await getattr(self.owner.ahook(manager), hook)(**arguments)

        return asyncio.run(main())


@pytest.fixture
def scene(plugin_from: Any) -> Scene:
    return Scene(plugin_from)


@given(st.permutations("abcxy"), st.integers(0, 5), st.sampled_from(["", "x", "b", "ca", "ybc"]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_results_are_those_of_pluggy(scene: Scene, order: list[str], many: int, wanted: str) -> None:
    manager = scene.manager("".join(order[:many]))
    for hook, value in (("every", ["v"]), ("every", None), ("first", wanted)):
        assert scene.call(manager, hook, value=value) == getattr(manager.hook, hook)(value=value)


def test_wrappers_in_the_application_run_as_in_pluggy(scene: Scene) -> None:
    manager = scene.manager("axb", WrapsOld(), Wraps())
    assert scene.call(manager, "every", value=[]) == manager.hook.every(value=[])
    assert scene.call(manager, "every", value=[])[:2] == ["wrapped", "old"]
    assert scene.call(manager, "fail", value="a") == ["taken", "a"] == manager.hook.fail(value="a")


def test_plugins_in_workers_run_at_the_same_time(scene: Scene) -> None:
    """Each waits in a function of the application until all have come."""
    barrier = asyncio.Barrier(3)

    @scene.owner.function("test.meet")
    async def meet(name: str) -> str:
        await asyncio.wait_for(barrier.wait(), 20)
        return name

    assert scene.call(scene.manager("abc"), "meet") == ["c", "b", "a"]


def test_those_of_the_application_run_in_between_on_the_loop(scene: Scene) -> None:
    threads = []

    class Notes:
        @hookimpl
        def meet(self) -> str:
            threads.append(threading.get_ident())
            return "here"

    scene.owner.function("test.meet")(lambda name: f"{name}{len(threads)}")
    manager = scene.manager("a", Notes())
    manager.register(scene.workers["b"])
    assert scene.call(manager, "meet") == ["b0", "here", "a1"]
    assert threads == [threading.get_ident()]


def test_an_exception_of_a_plugin_is_raised_and_later_ones_do_not_run(scene: Scene) -> None:
    local = Local("x")
    with pytest.raises(KeyError):
        scene.call(scene.manager("ya", local, scene.workers["b"]), "fail", value="b")
    assert local.ran == 0


def test_the_first_exception_in_order_counts(scene: Scene) -> None:
    class Both:
        @hookimpl
        def fail(self, value: Any) -> Any:
            raise LookupError("mine")

    manager = scene.manager("", Both())
    manager.register(scene.workers["a"])
    with pytest.raises(KeyError):
        scene.call(manager, "fail", value="a")


def test_a_plugin_that_crashes_is_skipped(scene: Scene) -> None:
    assert scene.call(scene.manager("abc"), "leave", value="b") == ["c", "a"]
    assert [event.error for event in scene.events if isinstance(event, PluginFailed)] == ["PluginCrashed"]


def test_a_plugin_that_crashes_raises_where_that_was_asked_for(plugin_from: Any) -> None:
    scene = Scene(plugin_from, on_failure="raise")
    with pytest.raises(host.PluginCrashed):
        scene.call(scene.manager("abc"), "leave", value="b")


def test_what_ahook_does_not_do_it_says(scene: Scene) -> None:
    manager = scene.manager("ax")
    with pytest.raises(host.HostError, match="historic"):
        scene.call(manager, "kept")
    with pytest.raises(pluggy.HookCallError, match="'value'"):
        scene.call(manager, "every")
    with pytest.raises(AttributeError):
        scene.call(manager, "nothing")


def test_it_runs_on_trio(scene: Scene) -> None:
    trio = pytest.importorskip("trio")
    manager = scene.manager("axbc")

    async def main() -> Any:
        return await scene.owner.ahook(manager).every(value=[])

    assert trio.run(main) == manager.hook.every(value=[])
