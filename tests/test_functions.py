"""Promises of the application's functions: who may call them, what crosses, whose time it is, and how calls nest."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from until import until

import host
from host.service import functions, turn

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE: Final = """
import threading
from sandbox_worker import plugin_api
from sandbox_worker.plugin_api import host
@hookimpl
def ask(name, arguments): return host.call(name, **arguments)
@hookimpl
def caught(name, arguments):
    try: return host.call(name, **arguments)
    except BaseException as e:
        fields = [getattr(e, name, None) for name in ("errno", "permission", "target", "hint")]
        return [type(e).__name__, str(e), *fields]
@hookimpl
def echo(value): return value
@hookimpl
def wait(): threading.Event().wait()
@hookimpl
def die(): import os; os._exit(3)
@hookimpl
def ask_and_wait(name):
    host.call(name); threading.Event().wait()
@hookimpl
def in_threads(name, count):
    found = []
    def one(n): found.append(host.call(name, value=n))
    threads = [threading.Thread(target=one, args=(n,)) for n in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return found
@hookimpl
def afterwards(name):
    def late():
        go.wait()
        try: host.call(name)
        except Exception as e: print(f"{type(e).__name__}: {e}")
    go = threading.Event()
    threading.Thread(target=late, daemon=True).start()
    threading.Timer(1.0, go.set).start()
@hookimpl
def drop(name): plugin_api.permissions.drop("host", name)
@hookimpl
def burn(name, rounds):
    for _ in range(rounds):
        host.call(name)
"""
ALL: Final = {"host": ["*"]}


@pytest.fixture
def plugins(plugin_from: Any) -> host.PluginHost:
    """A host whose functions are `double`, `fail` and one that is granted to nobody."""
    made: host.PluginHost = plugin_from.host()
    made.function("math.double")(lambda value: value * 2)
    made.function("secret.key")(lambda: "secret")
    return made


@pytest.fixture
def plugin(plugin_from: Any, plugins: host.PluginHost) -> host.SandboxedPlugin:
    """One that may call everything in `math`, and what the tests add to it."""
    return plugin_from(SOURCE, into=plugins, permissions={"host": ["math.*", "nothing.here"]})  # type: ignore[no-any-return]


# --- who may


def test_what_is_granted_is_called_and_answered(plugin: Any) -> None:
    assert plugin.call("ask", name="math.double", arguments={"value": [1, "x"]}) == [1, "x", 1, "x"]


def test_large_values_cross_in_questions_and_answers(plugin: Any) -> None:
    value = bytes(range(256)) * (1 << 12)
    assert plugin.call("ask", name="math.double", arguments={"value": value}) == 2 * value


def test_what_is_not_granted_is_refused_whether_it_exists_or_not(plugin: Any) -> None:
    told = [plugin.call("caught", name=name, arguments={}) for name in ("secret.key", "secret.no", "math.double.x.y")]
    secret, absent, _ = told
    assert secret[0] == "PermissionDenied"
    assert [str(field).replace("secret.key", "secret.no") for field in secret] == [str(field) for field in absent]
    assert secret[2:] == [13, "host", "secret.key", 'host = ["secret.key"]']


def test_a_refusal_is_recorded_as_the_hosts_own_word(plugin: Any) -> None:
    plugin.call("caught", name="secret.key", arguments={})
    [record] = plugin.denials()
    assert (record.permission.kind, record.permission.target) == ("host", "secret.key")
    assert (record.layer, record.origin, record.call.hook) == ("broker", "host", "caught")


def test_a_refusal_that_leaves_the_plugin_is_a_permission_denied(plugin: Any) -> None:
    with pytest.raises(host.PermissionDenied, match=r'host of secret\.key by broker \(host = \["secret\.key"\]\)'):
        plugin.call("ask", name="secret.key", arguments={})
    with pytest.raises(host.PermissionDenied, match="the application has to offer it"):
        plugin.call("ask", name="nothing.here", arguments={})


def test_a_deny_rule_wins(plugin_from: Any, plugins: host.PluginHost) -> None:
    plugin = plugin_from(SOURCE, into=plugins, permissions=ALL, deny={"host": ["secret.*"]})
    assert plugin.call("ask", name="math.double", arguments={"value": 2}) == 4
    with pytest.raises(host.PermissionDenied, match="deny rule"):
        plugin.call("ask", name="secret.key", arguments={})


def test_what_the_plugin_gave_up_it_calls_no_more(plugin: Any) -> None:
    plugin.call("drop", name="math.double")
    assert "gave it up" in plugin.call("caught", name="math.double", arguments={"value": 1})[1]


@pytest.mark.parametrize("name", ["", "x" * 201, "a b", "../x", "*", "math.*", "math.double\n"])
def test_a_name_that_is_none_is_refused(plugin: Any, name: str) -> None:
    expected = "ValueError" if len(name) > 200 else "PermissionDenied"
    assert plugin.call("caught", name=name, arguments={})[0] == expected
    assert plugin.restarts == 0


def test_a_name_is_offered_once_and_has_to_be_one(plugins: host.PluginHost) -> None:
    for name, error in (("math.double", "already"), ("no name", "name"), ("a.*", "name")):
        with pytest.raises(ValueError, match=error):
            plugins.function(name)(lambda: None)
    with pytest.raises(ValueError, match="timeout"):
        plugins.function("a.b", timeout=0)
    with pytest.raises(TypeError):
        plugins.function("a.b")(None)  # type: ignore[type-var]


# --- what crosses


@pytest.mark.parametrize("value", [{1, 2}, object, 1 << 64, [[[object]]]], ids=str)
def test_an_answer_that_can_not_cross_is_the_applications_error(plugin: Any, plugins: Any, value: object) -> None:
    plugins.function("math.odd")(lambda: value)
    name, text, *_ = plugin.call("caught", name="math.odd", arguments={})
    assert (name, "can't cross" in text) == ("HostFunctionError", True)


def test_an_argument_that_can_not_cross_is_a_type_error_in_the_plugin(plugin_from: Any, plugins: Any) -> None:
    source = SOURCE + "@hookimpl\ndef odd():\n    return host.call('math.double', value={1})\n"
    plugin = plugin_from(source, into=plugins, permissions=ALL)
    with pytest.raises(host.PluginError, match="set, which can't cross"):
        plugin.call("odd")
    assert plugin.restarts == 0


class OwnError(ValueError):
    """An application's class, which has a builtin for its base."""


class Odd(Exception):
    """Has no builtin base that crosses, and no text."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no such row"), ["ValueError", "no such row"]),
        (KeyError("x"), ["KeyError", "'x'"]),
        (OwnError("see /srv/app/secret.toml for 3"), ["ValueError", "see … for 3"]),
        (RuntimeError("in '/home/an user/x y' and conf/a"), ["RuntimeError", "in … and …"]),
        (FileNotFoundError(2, "No such file", "/srv/x"), ["FileNotFoundError", "No such file"]),
        (Odd(), ["HostFunctionError", ""]),
        (MemoryError("all"), ["HostFunctionError", "all"]),
        (PermissionError(13, "Permission denied", "/srv/x"), ["PermissionError", "Permission denied"]),
        (ValueError("x" * 5000), ["ValueError", "x" * 1000]),
        (ValueError("\x1b[2J"), ["ValueError", "\\x1b[2J"]),
        (
            host.PluginTimeout("other took /long"),
            ["HostFunctionError", "a plugin that the function called failed (PluginTimeout)"],
        ),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_an_error_crosses_as_a_builtin_and_a_text_without_paths(
    plugin: Any, plugins: Any, error: Exception, expected: list[str]
) -> None:
    def fail() -> None:
        raise error

    plugins.function("math.fail")(fail)
    assert [part[:1000] for part in plugin.call("caught", name="math.fail", arguments={})[:2]] == expected
    assert plugin.restarts == 0


@given(st.text(max_size=300))
def test_no_text_with_a_slash_is_told(text: str) -> None:
    name, told = functions._told(ValueError(text))
    assert name == "ValueError"
    assert "/" not in told


def test_an_error_that_leaves_the_plugin_again_is_the_plugins_and_names_no_file_of_the_host(
    plugin: Any, plugins: Any
) -> None:
    plugins.function("math.fail")(lambda: {}["x"])
    with pytest.raises(KeyError) as caught:
        plugin.call("ask", name="math.fail", arguments={})
    assert __file__ not in "".join(caught.value.__notes__)


def test_what_is_no_exception_ends_the_worker_and_is_raised(plugin: Any, plugins: Any) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    plugins.function("math.stop")(interrupted)
    with pytest.raises(KeyboardInterrupt):
        plugin.call("ask", name="math.stop", arguments={})
    assert plugin.call("echo", value=1) == 1
    assert plugin.restarts == 1


# --- whose time it is


def test_time_in_a_function_is_not_the_plugins(plugin_from: Any, plugins: Any) -> None:
    plugin = plugin_from(SOURCE, into=plugins, permissions=ALL, limits={"call_timeout": "1 s"})
    plugins.function("math.slow")(lambda: threading.Event().wait(2))
    assert plugin.call("ask", name="math.slow", arguments={}) is False
    assert plugin.restarts == 0


def test_after_a_function_the_plugins_own_time_goes_on(plugin_from: Any, plugins: Any) -> None:
    plugin = plugin_from(SOURCE, into=plugins, permissions=ALL, limits={"call_timeout": "1 s"})
    plugins.function("math.quick")(lambda: None)
    with pytest.raises(host.PluginTimeout):
        plugin.call("ask_and_wait", name="math.quick")


def test_an_async_function_is_cancelled_at_its_timeout_and_the_next_is_refused(plugin: Any, plugins: Any) -> None:
    ended = []

    @plugins.function("math.forever", timeout=0.1)
    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    assert plugin.call("caught", name="math.forever", arguments={})[0] == "TimeoutError"
    assert ended == [True]
    with pytest.raises(TimeoutError):
        plugin.call("burn", name="math.forever", rounds=3)


def test_what_one_call_may_wait_is_the_timeout_over_all_its_functions(plugin: Any, plugins: Any) -> None:
    calls = []
    plugins.function("math.some", timeout=2)(lambda: (calls.append(1), threading.Event().wait(1.2))[1])
    with pytest.raises(TimeoutError, match="more than 2 s together"):
        plugin.call("burn", name="math.some", rounds=5)
    assert len(calls) == 2
    assert plugin.call("burn", name="math.some", rounds=1) is None


def test_cpu_time_of_nested_calls_is_the_outermost_calls(plugin_from: Any, plugins: Any) -> None:
    """A plugin gets no fresh budget by having itself called."""
    source = SOURCE + "@hookimpl\ndef work():\n    for _ in range(3_000_000): pass\n"
    plugin = plugin_from(source, into=plugins, permissions=ALL, limits={"cpu_time": "500 ms", "call_timeout": "10 s"})
    plugins.function("math.again")(lambda: plugin.call("work"))
    with pytest.raises(host.ResourceLimitExceeded) as caught:
        plugin.call("burn", name="math.again", rounds=500)
    assert caught.value.limit == "cpu_time"


# --- where it runs


def test_an_async_function_of_an_acall_runs_on_its_loop(plugin: Any, plugins: Any) -> None:
    loops = []

    @plugins.function("math.loop")
    async def loop() -> int:
        loops.append(asyncio.get_running_loop())
        return 5

    async def main() -> None:
        assert await plugin.acall("ask", name="math.loop", arguments={}) == 5
        assert loops == [asyncio.get_running_loop()]

    asyncio.run(main())


def test_an_async_function_has_a_loop_of_its_own_otherwise(plugin: Any, plugins: Any) -> None:
    @plugins.function("math.loop")
    async def loop() -> int:
        return len(asyncio.all_tasks())

    async def blocking() -> Any:
        return plugin.call("ask", name="math.loop", arguments={})

    assert plugin.call("ask", name="math.loop", arguments={}) > 0
    assert asyncio.run(blocking()) > 0


def test_threads_of_the_plugin_may_ask_while_a_hook_runs(plugin: Any) -> None:
    found = plugin.call("in_threads", name="math.double", count=8)
    assert sorted(found) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_outside_a_hook_nothing_can_be_asked(plugin: Any) -> None:
    plugin.call("afterwards", name="math.double")
    until(plugin.logs)
    [line] = plugin.logs()
    assert line == "RuntimeError: the application's functions can be called while one of the plugin's hooks runs"


def test_at_its_import_a_plugin_can_ask_for_nothing(plugin_from: Any, plugins: Any) -> None:
    with pytest.raises(host.PluginStartError, match="while one of the plugin's hooks runs"):
        plugin_from(SOURCE + "host.call('math.double', value=1)\n", into=plugins, permissions=ALL)


# --- re-entry


@pytest.mark.parametrize("depth", [1, 3, turn.DEEPEST])
def test_a_function_may_call_the_plugin_that_waits_for_it(plugin: Any, plugins: Any, depth: int) -> None:
    @plugins.function("math.down")
    def down(left: int) -> int:
        return 1 + plugin.call("ask", name="math.down", arguments={"left": left - 1}) if left > 1 else 1

    assert plugin.call("ask", name="math.down", arguments={"left": depth}) == depth


def test_functions_nest_no_deeper_than_that(plugin: Any, plugins: Any) -> None:
    @plugins.function("math.down")
    def down() -> Any:
        return plugin.call("ask", name="math.down", arguments={})

    with pytest.raises(host.PluginError, match="HostFunctionError"):
        plugin.call("ask", name="math.down", arguments={})
    assert plugin.call("echo", value=1) == 1


def test_an_async_function_may_call_it_too_even_twice_at_once(plugin: Any, plugins: Any) -> None:
    @plugins.function("math.both")
    async def both() -> Any:
        return await asyncio.gather(*(plugin.acall("ask", name="math.double", arguments={"value": n}) for n in (1, 2)))

    async def main() -> Any:
        return await plugin.acall("ask", name="math.both", arguments={})

    assert asyncio.run(main()) == [2, 4]
    assert plugin.call("ask", name="math.both", arguments={}) == [2, 4]


def test_two_plugins_may_call_each_other_through_the_application(plugin_from: Any, plugin: Any, plugins: Any) -> None:
    other = plugin_from(SOURCE, into=plugins, permissions=ALL)

    @plugins.function("math.other")
    def to_other(left: int) -> Any:
        target, name = (other, "math.other") if left % 2 else (plugin, "math.other")
        return target.call("ask", name=name, arguments={"left": left - 1}) if left else "end"

    assert plugin.call("ask", name="math.other", arguments={"left": 6}) == "end"


def test_a_nested_call_that_ends_the_worker_ends_the_outer_one_too(plugin_from: Any, plugins: Any) -> None:
    plugin = plugin_from(SOURCE, into=plugins, permissions=ALL, limits={"call_timeout": "1 s"})
    seen: list[type[BaseException]] = []

    def nested(hook: str) -> None:
        try:
            plugin.call(hook)
        except host.HostError as e:
            seen.append(type(e))
        with pytest.raises(host.HostError, match="ended meanwhile"):
            plugin.call("echo", value=1)

    plugins.function("math.nested")(nested)
    for hook, error in (("die", host.PluginCrashed), ("wait", host.PluginTimeout)):
        with pytest.raises(error):
            plugin.call("ask", name="math.nested", arguments={"hook": hook})
        assert seen.pop() is error
        assert plugin.call("echo", value=1) == 1


@pytest.mark.parametrize("how", ["close", "restart"])
def test_a_function_that_ends_its_own_caller_waits_for_nobody(plugin: Any, plugins: Any, how: str) -> None:
    @plugins.function("math.end")
    async def end() -> None:
        await asyncio.to_thread(getattr(plugin, how))

    def attempt() -> Any:
        return plugin.call("caught", name="math.end", arguments={})

    if how == "close":
        with pytest.raises(host.HostError, match="closed"):
            attempt()
    else:
        assert attempt()[0] == "HostFunctionError"


def test_another_thread_waits_until_the_whole_call_is_done(plugin: Any, plugins: Any) -> None:
    """A function keeps the turn: calls of others never come between."""
    order: list[str] = []
    began = threading.Event()
    results: list[Any] = []

    def other() -> None:
        began.wait()
        results.append(plugin.call("echo", value="other"))
        order.append("other")

    thread = threading.Thread(target=other)
    thread.start()

    @plugins.function("math.block")
    def block() -> None:
        began.set()
        thread.join(0.2)
        order.append("function")

    plugin.call("ask", name="math.block", arguments={})
    thread.join()
    assert (order, results) == (["function", "other"], ["other"])


def test_functions_that_wait_for_each_others_plugins_give_up(
    plugin_from: Any, plugin: Any, plugins: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn, "PATIENCE", 0.3)
    other = plugin_from(SOURCE, into=plugins, permissions=ALL)
    both = threading.Barrier(2)

    def crossing(target: Callable[[], Any]) -> Callable[[], Any]:
        def cross() -> Any:
            both.wait()
            return target()

        return cross

    plugins.function("math.to_other")(crossing(lambda: other.call("echo", value=1)))
    plugins.function("math.to_first")(crossing(lambda: plugin.call("echo", value=1)))
    told: list[Any] = []
    thread = threading.Thread(target=lambda: told.append(other.call("caught", name="math.to_first", arguments={})))
    thread.start()
    told.append(plugin.call("caught", name="math.to_other", arguments={}))
    thread.join()
    assert "HostFunctionError" in {answer[0] for answer in told if isinstance(answer, list)}


def test_in_a_hook_call_a_refusal_is_one_plugins_none(plugin_from: Any, plugins: Any) -> None:
    import pluggy

    manager = pluggy.PluginManager(plugins.project_name)
    manager.register(plugin_from(SOURCE, into=plugins))
    manager.register(plugin_from(SOURCE, into=plugins, permissions=ALL))
    assert manager.hook.ask(name="secret.key", arguments={}) == ["secret"]


def test_outside_a_worker_there_is_no_application() -> None:
    from sandbox_worker.plugin_api import host as application

    with pytest.raises(RuntimeError, match="no worker"):
        application.call("storage.get")
