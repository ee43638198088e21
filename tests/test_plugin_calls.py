"""Promises of one call: what crosses, what comes back, and how each failure arrives."""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import host

SOURCE: Final = """
import os
@hookimpl
def echo(value): return value
@hookimpl
def process(): return os.getpid()
@hookimpl
def defaults(a, b=2, c="three"): return [a, b, c]
@hookimpl
def fail(name, arguments):
    raise getattr(__import__("builtins"), name)(*arguments)
class Sold(LookupError):
    def __reduce__(self): os._exit(9)
@hookimpl
def sold_out(text): raise Sold(text)
@hookimpl
def unsendable(which):
    return {"object": object(), "set": {1}, "keys": {1: 2}, "big": 1 << 64, "nested": [{"a": object}],
            "text": "\\udc80",
            "bool": type("T", (int,), {})(3)}[which]
@hookimpl
def cyclic():
    value = []
    value.append(value)
    return value
@hookimpl
def shout():
    print("to stdout"); print("to stderr\\x1b[2J", file=__import__("sys").stderr)
@hookimpl
def bad_text():
    class Bad(Exception):
        def __str__(self): raise RuntimeError("no text")
    raise Bad
"""


@pytest.fixture
def plugin(plugin_from: Any) -> host.SandboxedPlugin:
    found: host.SandboxedPlugin = plugin_from(SOURCE)
    return found


PLAIN: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False)
    | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(value=PLAIN)
def test_plain_data_comes_back_as_it_went(plugin: host.SandboxedPlugin, value: Any) -> None:
    assert plugin.call("echo", value=value) == value


def test_a_tuple_arrives_as_a_list(plugin: host.SandboxedPlugin) -> None:
    assert plugin.call("echo", value=(1, ("a", None))) == [1, ["a", None]]


def test_megabytes_cross_both_ways(plugin: host.SandboxedPlugin) -> None:
    data = os.urandom(8 << 20)
    assert plugin.call("echo", value=data) == data


def test_large_values_cross_wherever_they_stand_and_short_ones_after_them(plugin: host.SandboxedPlugin) -> None:
    value = {"name": "é", "parts": [os.urandom(200_000), b"", os.urandom(3 << 20)], "last": [1, (os.urandom(1 << 17),)]}
    expected = value | {"last": [1, [value["last"][1][0]]]}
    assert plugin.call("echo", value=value) == expected
    assert plugin.call("defaults", a=value["parts"][2], b=value["parts"][0]) == [*value["parts"][2::-2], "three"]
    assert asyncio.run(plugin.acall("echo", value=value)) == expected
    assert plugin.call("echo", value=b"short") == b"short"


def test_the_plugins_own_defaults_apply(plugin: host.SandboxedPlugin) -> None:
    assert plugin.call("defaults", a=1) == [1, 2, "three"]
    assert plugin.call("defaults", a=1, c=None) == [1, 2, None]


def test_an_unknown_hook_is_an_attribute_error(plugin: host.SandboxedPlugin) -> None:
    with pytest.raises(AttributeError, match="no hook 'nothing'"):
        plugin.call("nothing")
    with pytest.raises(AttributeError):
        plugin.nothing  # type: ignore[attr-defined] # noqa: B018


@pytest.mark.parametrize("arguments", [{}, {"value": 1, "more": 2}, {"self": 1}, {"hook": 1}])
def test_arguments_that_do_not_fit_are_the_plugins_own_type_error(plugin: Any, arguments: dict[str, int]) -> None:
    with pytest.raises(TypeError) as caught:
        plugin.call("echo", **arguments)
    assert not isinstance(caught.value, host.HostError)


# --- arguments that can't cross


@pytest.mark.parametrize(
    ("value", "where", "type_name"),
    [
        (object(), "value", "builtins.object"),
        ([1, {"rows": [{2}]}], "value[1]['rows'][0]", "set"),
        ({1: 2}, "value", "key of type int"),
        (1 << 64, "value", "int beyond 64 bits"),
        ("\ud800", "value", "str"),
        (type("Rows", (list,), {})(), "value", "Rows"),
        (os.PathLike, "value", "ABCMeta"),
    ],
)
def test_an_argument_that_cannot_cross_names_hook_argument_and_type_and_nothing_is_sent(
    plugin: host.SandboxedPlugin, value: object, where: str, type_name: str
) -> None:
    worker = plugin._worker
    assert worker is not None
    sent = worker.call_id
    with pytest.raises(host.SerializationError) as caught:
        plugin.call("echo", value=value)
    text = str(caught.value)
    assert f"{plugin.name}.echo(value=" in text
    assert where in text
    assert type_name in text
    assert isinstance(caught.value, TypeError)
    assert (caught.value.plugin, caught.value.hook) == (plugin.name, "echo")
    assert worker.call_id == sent
    assert plugin.state == "READY"


def test_a_cyclic_argument_cannot_cross(plugin: host.SandboxedPlugin) -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(host.SerializationError, match="nested deeper"):
        plugin.call("echo", value=value)


# --- what a plugin raises


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ValueError", ["x", 3]), ("KeyError", ["k"]), ("ZeroDivisionError", []),
        ("RecursionError", ["deep"]), ("UnicodeDecodeError", ["utf-8", b"\xff", 0, 1, "r"]), ("AssertionError", []),
        ("NotImplementedError", ["later"]), ("OSError", ["text"]), ("TimeoutError", ["slow"]), ("EOFError", []),
        ("UserWarning", ["w"]), ("Exception", ["plain"]),
    ],
)  # fmt: skip
def test_a_builtin_exception_arrives_as_itself_with_the_remote_traceback_in_its_notes(
    plugin: host.SandboxedPlugin, name: str, arguments: list[object]
) -> None:
    with pytest.raises(Exception) as caught:
        plugin.call("fail", name=name, arguments=arguments)
    assert type(caught.value).__name__ == name
    assert type(caught.value).__module__ == "builtins"
    assert list(caught.value.args) == arguments
    (note,) = caught.value.__notes__
    assert "plugin.py" in note
    assert "in fail" in note
    assert "sandbox_worker" not in note


def test_a_class_of_the_plugins_own_arrives_as_plugin_error(plugin: host.SandboxedPlugin) -> None:
    with pytest.raises(host.PluginError, match="no more") as caught:
        plugin.call("sold_out", text="no more")
    assert caught.value.remote_type == "plugin.Sold"
    assert (caught.value.plugin, caught.value.hook) == (plugin.name, "sold_out")
    assert "in sold_out" in caught.value.__notes__[0]


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException"])
def test_what_would_end_the_application_arrives_as_plugin_error(plugin: host.SandboxedPlugin, name: str) -> None:
    with pytest.raises(host.PluginError) as caught:
        plugin.call("fail", name=name, arguments=[])
    assert caught.value.remote_type == name
    assert plugin.state == "READY"


def test_an_exception_whose_text_cannot_be_made_still_arrives(plugin: host.SandboxedPlugin) -> None:
    with pytest.raises(host.PluginError) as caught:
        plugin.call("bad_text")
    assert caught.value.remote_type is not None
    assert caught.value.remote_type.endswith("Bad")


def test_after_an_exception_the_same_worker_goes_on(plugin: host.SandboxedPlugin) -> None:
    before = plugin.call("process")
    for _ in range(3):
        with pytest.raises(ValueError, match="x"):
            plugin.call("fail", name="ValueError", arguments=["x"])
    assert plugin.call("process") == before
    assert plugin.restarts == 0


@pytest.mark.parametrize("which", ["object", "set", "keys", "big", "nested", "text", "bool"])
def test_a_result_that_cannot_cross_is_plugin_error(plugin: host.SandboxedPlugin, which: str) -> None:
    with pytest.raises(host.PluginError) as caught:
        plugin.call("unsendable", which=which)
    assert caught.value.remote_type == "SerializationError"
    assert plugin.restarts == 0


def test_a_cyclic_result_is_plugin_error(plugin: host.SandboxedPlugin) -> None:
    with pytest.raises(host.PluginError) as caught:
        plugin.call("cyclic")
    assert caught.value.remote_type == "SerializationError"


# --- what it says


def test_what_it_prints_is_in_its_logs_made_visible_and_never_on_the_hosts_output(
    plugin: host.SandboxedPlugin, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin.call("shout")
    plugin.call("echo", value=1)
    assert plugin.logs() == ("to stdout", "to stderr\\x1b[2J")
    assert capfd.readouterr() == ("", "")


def test_logs_survive_a_restart_and_are_bounded(plugin_from: Any) -> None:
    plugin = plugin_from("@hookimpl\ndef say(text, times):\n for _ in range(times): print(text)")
    plugin.call("say", text="first", times=1)
    plugin.restart()
    plugin.call("say", text="second", times=1)
    assert plugin.logs() == ("first", "second")
    plugin.call("say", text="x" * 5000, times=200)
    assert len(plugin.logs()) <= 1000
    assert max(map(len, plugin.logs())) < 2100


# --- asyncio


def test_acall_is_call_from_a_coroutine(plugin: host.SandboxedPlugin) -> None:
    async def run() -> list[Any]:
        return await asyncio.gather(*(plugin.acall("echo", value=number) for number in range(20)))

    assert asyncio.run(run()) == list(range(20))


def test_acall_raises_what_call_raises(plugin: host.SandboxedPlugin) -> None:
    with pytest.raises(KeyError):
        asyncio.run(plugin.acall("fail", name="KeyError", arguments=["k"]))


def test_async_with_closes_the_plugins(plugin_from: Any) -> None:
    async def run() -> host.SandboxedPlugin:
        async with plugin_from.host() as plugins:
            plugin: host.SandboxedPlugin = plugin_from(SOURCE, into=plugins)
            assert await plugin.acall("echo", value=3) == 3
            return plugin

    plugin = asyncio.run(run())
    assert (plugin.state, plugin.pid) == ("STOPPED", None)


def test_the_loop_goes_on_while_a_call_runs(plugin_from: Any) -> None:
    plugin = plugin_from("import os\n@hookimpl\ndef wait(path):\n while not os.path.exists(path): pass\n return 1")
    folder = plugin._manifest.path

    async def run() -> object:
        call = asyncio.ensure_future(plugin.acall("wait", path=str(folder / "go")))
        while plugin.state != "BUSY":
            await asyncio.sleep(0)
        (folder / "go").touch()
        return await call

    assert asyncio.run(run()) == 1
