"""Promises of a plugin in a real pluggy manager: what held for it in this process holds for it in its worker."""

from __future__ import annotations

import logging
from typing import Any, Final

import pluggy
import pytest

import host
from host.model.events import PluginFailed

hookspec: Final = pluggy.HookspecMarker("tests")
hookimpl: Final = pluggy.HookimplMarker("tests")


class Specs:
    @hookspec
    def render(self, text: str, width: int, live: object) -> object: ...

    @hookspec(firstresult=True)
    def first(self, number: int) -> object: ...

    @hookspec(historic=True)
    def began(self, name: str) -> object: ...


RENDER: Final = "@hookimpl\ndef render(text): return ['{}', text]\n"


@pytest.fixture
def manager() -> pluggy.PluginManager:
    made = pluggy.PluginManager("tests")
    made.add_hookspecs(Specs)
    return made


def render(manager: pluggy.PluginManager, **arguments: Any) -> Any:
    return manager.hook.render(**{"text": "hi", "width": 80, "live": object()} | arguments)


def test_an_implementation_gets_only_the_arguments_it_asks_for(plugin_from: Any, manager: pluggy.PluginManager) -> None:
    """So a hook with a live object among its arguments still works for those that don't want it."""
    manager.register(plugin_from(RENDER.format("one")))
    assert render(manager) == [["one", "hi"]]


def test_an_implementation_that_asks_for_a_live_object_is_told_which(plugin_from: Any, manager: Any) -> None:
    manager.register(plugin_from("@hookimpl\ndef render(live): return 1"))
    with pytest.raises(host.SerializationError, match=r"render\(live=…\)"):
        render(manager)


def test_a_default_of_the_implementation_applies_where_pluggy_passes_nothing(plugin_from: Any) -> None:
    manager = pluggy.PluginManager("tests")
    manager.register(plugin_from("@hookimpl\ndef render(text, extra=[7]): return [text, extra]"))
    assert manager.hook.render(text="hi") == [["hi", [7]]]


def test_several_plugins_answer_in_pluggys_order_and_none_is_no_answer(plugin_from: Any, manager: Any) -> None:
    first = plugin_from(RENDER.format("one"))
    manager.register(first)
    manager.register(plugin_from("@hookimpl\ndef render(): return None", into=first._owner))

    class Local:
        @hookimpl
        def render(self, text: str) -> list[str]:
            return ["local", text]

    manager.register(Local())
    manager.register(plugin_from(RENDER.format("two"), into=first._owner))
    assert render(manager) == [["two", "hi"], ["local", "hi"], ["one", "hi"]]


def test_tryfirst_and_trylast_are_honoured(plugin_from: Any, manager: Any) -> None:
    owner = plugin_from.host()
    for name, options in (("last", "trylast=True"), ("plain", ""), ("first", "tryfirst=True"), ("later", "")):
        manager.register(plugin_from(f"@hookimpl({options})\ndef render(text): return '{name}'", into=owner))
    assert render(manager) == ["first", "later", "plain", "last"]


def test_firstresult_stops_at_the_first_answer(plugin_from: Any, manager: Any) -> None:
    plugins = [
        plugin_from(f"calls = 0\n@hookimpl\ndef first(number):\n global calls; calls += 1; return {answer}\n"
                    "@hookimpl\ndef count(): return calls")
        for answer in ("'never'", "number + 1", "None")
    ]  # fmt: skip
    for plugin in plugins:
        manager.register(plugin)
    assert manager.hook.first(number=1) == 2
    assert [plugin.call("count") for plugin in plugins] == [0, 1, 1]


def test_specname_gives_a_function_another_hook(plugin_from: Any, manager: Any) -> None:
    plugin = plugin_from("@hookimpl(specname='render')\ndef draw(text): return text")
    manager.register(plugin)
    assert render(manager) == ["hi"]
    assert plugin.call("draw", text="direct") == "direct"


def test_an_optional_hook_may_be_unknown(plugin_from: Any, manager: Any) -> None:
    manager.register(
        plugin_from("@hookimpl(optionalhook=True)\ndef nobody_calls(): return 1", plugin={"name": "optional"})
    )
    manager.check_pending()
    manager.register(plugin_from("@hookimpl\ndef nobody_calls_either(): return 1", plugin={"name": "other"}))
    with pytest.raises(pluggy.PluginValidationError):
        manager.check_pending()


def test_an_argument_that_the_hook_does_not_have_is_refused_at_registration(plugin_from: Any, manager: Any) -> None:
    with pytest.raises(pluggy.PluginValidationError, match="nonsense"):
        manager.register(plugin_from("@hookimpl\ndef render(nonsense): return 1"))


def test_a_historic_hook_reaches_a_plugin_that_is_registered_later(plugin_from: Any, manager: Any) -> None:
    results: list[object] = []
    manager.hook.began.call_historic(result_callback=results.append, kwargs={"name": "app"})
    manager.register(plugin_from("@hookimpl\ndef began(name): return name.upper()"))
    assert results == ["APP"]


def test_an_unregistered_plugin_is_not_called_and_still_lives(plugin_from: Any, manager: Any) -> None:
    plugin = plugin_from(RENDER.format("one"))
    name = manager.register(plugin)
    assert name == plugin.name
    assert manager.is_registered(plugin)
    assert manager.unregister(plugin) is plugin
    assert render(manager) == []
    assert plugin.call("render", text="direct") == ["one", "direct"]


def test_one_plugin_serves_two_managers(plugin_from: Any, manager: Any) -> None:
    other = pluggy.PluginManager("tests")
    plugin = plugin_from(RENDER.format("one"))
    manager.register(plugin)
    other.register(plugin)
    assert render(manager) == other.hook.render(text="hi") == [["one", "hi"]]


def test_a_plain_library_is_a_plugin_by_its_functions_table(plugin_from: Any, manager: Any) -> None:
    plugin = plugin_from(
        """
        def shout(text, mark="!"): return text.upper() + mark
        class Loud:
            def __call__(self, text): return text * 2
        double = Loud()
        """,
        functions={"render": "plugin:shout", "twice": "plugin:double"},
    )
    manager.register(plugin)
    assert render(manager) == ["HI!"]
    assert plugin.call("twice", text="ab") == "abab"


def test_an_object_in_a_module_can_be_the_plugin(plugin_from: Any, manager: Any) -> None:
    source = "class P:\n    @hookimpl\n    def render(self, text): return text[::-1]\nobject_ = P()"
    manager.register(plugin_from(source, plugin={"entry": "plugin:object_"}))
    assert render(manager, text="abc") == ["cba"]


def test_pluggys_own_marker_works_in_a_worker(plugin_from: Any, manager: Any) -> None:
    manager.register(plugin_from("import pluggy\n@pluggy.HookimplMarker('tests')\ndef render(text): return text"))
    assert render(manager) == ["hi"]


def test_only_what_is_marked_for_the_project_is_a_hook(plugin_from: Any) -> None:
    plugin = plugin_from(
        "@HookimplMarker('other')\ndef foreign(): pass\ndef unmarked(): pass\n@hookimpl\ndef mine(): return 1"
    )
    assert not hasattr(plugin, "foreign")
    assert not hasattr(plugin, "unmarked")
    assert plugin.mine() == 1


def test_a_property_that_raises_is_passed_over(plugin_from: Any) -> None:
    source = """
    class P:
        @property
        def hostile(self): raise RuntimeError
        @hookimpl
        def mine(self): return 1
    object_ = P()
    """
    assert plugin_from(source, plugin={"entry": "plugin:object_"}).call("mine") == 1


def test_tracing_and_monitoring_see_remote_calls(plugin_from: Any, manager: Any) -> None:
    manager.register(plugin_from(RENDER.format("one")))
    seen: list[object] = []
    undo = manager.add_hookcall_monitoring(
        lambda name, *_: seen.append(name), lambda outcome, *_: seen.append(outcome.get_result())
    )
    render(manager)
    undo()
    assert seen == ["render", [["one", "hi"]]]


def test_a_hook_of_a_subset_of_plugins_leaves_one_out(plugin_from: Any, manager: Any) -> None:
    plugin = plugin_from(RENDER.format("one"))
    manager.register(plugin)
    assert manager.subset_hook_caller("render", [plugin])(text="hi", width=1, live=1) == []


def test_a_local_wrapper_around_a_remote_call_sees_its_exception(plugin_from: Any, manager: Any) -> None:
    class Wrapper:
        @hookimpl(wrapper=True)
        def render(self) -> Any:
            try:
                return (yield)
            except LookupError as e:
                return [f"caught {e.args[0]}"]

    manager.register(Wrapper())
    manager.register(plugin_from("@hookimpl\ndef render(text): raise LookupError(text)"))
    assert render(manager) == ["caught hi"]


# --- on_failure

DIES: Final = "import os\n@hookimpl\ndef render(): os._exit(3)"
FAILURES: Final = {
    "crash": (DIES, {}, host.PluginCrashed),
    "timeout": ("@hookimpl\ndef render():\n while True: pass", {"call_timeout": "1 s"}, host.PluginTimeout),
    "limit": ("@hookimpl\ndef render(): return b'x' * 2000000", {"result_size": "1 MiB"}, host.ResourceLimitExceeded),
    "violation": ("import os\n@hookimpl\ndef render(): os.write(4, b'xxxxxxx')", {}, host.ProtocolViolation),
    "denial": ("@hookimpl\ndef render(): open('/etc/hostname')", {}, host.PermissionDenied),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_plugin_that_fails_is_skipped_told_and_logged_and_the_others_answer(
    plugin_from: Any, manager: Any, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    source, limits, error = FAILURES[what]
    events: list[Any] = []
    owner = plugin_from.host(on_event=events.append)
    manager.register(plugin_from(RENDER.format("one"), into=owner))
    bad = plugin_from(source, into=owner, limits=limits)
    manager.register(bad)
    manager.register(plugin_from(RENDER.format("two"), into=owner))
    with caplog.at_level(logging.WARNING, logger="host"):
        assert render(manager) == [["two", "hi"], ["one", "hi"]]
    (failed,) = [event for event in events if isinstance(event, PluginFailed)]
    assert (failed.plugin.name, failed.hook) == (bad.name, "render")
    assert failed.error == error.__name__
    assert [record.name for record in caplog.records] == ["host"]
    assert bad.name in caplog.text
    with pytest.raises(error):
        bad.call("render")


@pytest.mark.parametrize("what", FAILURES)
def test_with_raise_a_failure_ends_the_hook_call(plugin_from: Any, manager: Any, what: str) -> None:
    source, limits, error = FAILURES[what]
    manager.register(plugin_from(source, limits=limits, on_failure="raise"))
    with pytest.raises(error):
        render(manager)


def test_an_exception_of_the_plugins_own_code_always_propagates(plugin_from: Any, manager: Any) -> None:
    manager.register(plugin_from(RENDER.format("one")))
    manager.register(plugin_from("@hookimpl\ndef render(): return {}['absent']"))
    with pytest.raises(KeyError, match="absent"):
        render(manager)


def test_a_failed_restart_is_skipped_too(plugin_from: Any, manager: Any) -> None:
    source = "import os\nopen('../mark') if os.path.exists('mark') else None\n" + DIES
    plugin = plugin_from(source)
    manager.register(plugin)
    (plugin._manifest.path / "mark").touch()
    assert render(manager) == []
    assert render(manager) == []
    with pytest.raises(host.PluginStartError) as caught:
        plugin.call("render")
    assert caught.value.hook == "render"
    assert plugin.state == "BACKOFF"
    (plugin._manifest.path / "mark").unlink()
    with pytest.raises(host.PluginCrashed):
        plugin.call("render")
