"""Promises of the generated functions: pluggy reads from them what it would read from the plugin's own."""

from __future__ import annotations

import inspect
import keyword
from typing import TYPE_CHECKING, Any, Final

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.service.proxy import BadHook, Omitted, check, function
from sandbox_worker.messages import Hook

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS: Final = [False, False, False, None]
NAMES: Final = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True).filter(lambda name: not keyword.iskeyword(name))


def hook(name: str, *parameters: tuple[str, str | None], options: Sequence[object] = OPTIONS) -> Hook:
    return Hook([name, [list(parameter) for parameter in parameters], list(options)])


def made(hook: Hook) -> tuple[Any, list[tuple[str, dict[str, Any]]]]:
    calls: list[tuple[str, dict[str, Any]]] = []
    return function(hook, "p", "tests", lambda name, arguments: calls.append((name, arguments))), calls


def test_a_call_passes_the_arguments_by_name() -> None:
    proxy, calls = made(hook("render", ("text", None), ("width", None)))
    proxy("hi", width=3)
    assert calls == [("render", {"text": "hi", "width": 3})]


def test_an_omitted_default_is_not_sent_so_that_the_plugins_own_applies() -> None:
    proxy, calls = made(hook("render", ("text", None), ("width", "80")))
    proxy("hi")
    proxy("hi", 7)
    assert calls == [("render", {"text": "hi"}), ("render", {"text": "hi", "width": 7})]


def test_a_default_shows_as_the_plugin_wrote_it() -> None:
    proxy, _ = made(hook("render", ("text", None), ("width", "80")))
    assert str(inspect.signature(proxy)) == "(text, width=80)"
    assert repr(Omitted("[1, 2]")) == "[1, 2]"


@given(NAMES, st.lists(NAMES, unique=True, max_size=8), st.integers(0, 8))
def test_pluggy_reads_the_plugins_own_parameters(name: str, parameters: list[str], defaults: int) -> None:
    first = max(0, len(parameters) - defaults)
    described = hook(name, *((p, None if i < first else "1") for i, p in enumerate(parameters)))
    proxy, _ = made(described)
    assert pluggy._hooks.varnames(proxy) == (tuple(parameters[:first]), tuple(parameters[first:]))
    assert (proxy.__name__, proxy.__qualname__) == (name, name)


def test_pluggys_options_are_carried() -> None:
    proxy, _ = made(hook("render", options=[True, False, True, "other"]))
    assert proxy.tests_impl == {
        "wrapper": False,
        "hookwrapper": False,
        "optionalhook": True,
        "tryfirst": True,
        "trylast": False,
        "specname": "other",
    }


def test_a_traceback_through_it_names_the_plugin() -> None:
    def fail(_name: str, _arguments: dict[str, Any]) -> None:
        raise LookupError

    proxy = function(hook("render"), "csv-stats", "tests", fail)
    with pytest.raises(LookupError) as caught:
        proxy()
    assert "csv-stats" in str(caught.traceback[1].path)


@pytest.mark.parametrize(
    "bad",
    [
        hook("class"),
        hook("None"),
        hook("two words"),
        hook("a.b"),
        hook(""),
        hook("ünicode"),
        hook("_private"),
        hook("__init__"),
        hook("close"),
        hook("render", ("import", None)),
        hook("render", ("a b", None)),
        hook("render", ("", None)),
        hook("render", ("a", None), ("a", None)),
        hook("render", options=[False, False, False, "lambda"]),
        hook("render", options=[False, False, False, "x()"]),
    ],
    ids=lambda bad: f"{bad.name}-{[p.name for p in bad.parameters]}-{bad.specname}",
)
def test_a_name_that_is_no_plain_identifier_or_is_taken_is_refused(bad: Hook) -> None:
    with pytest.raises(BadHook):
        check([hook("fine"), bad], frozenset(["close"]))


def test_the_same_hook_twice_is_refused() -> None:
    with pytest.raises(BadHook, match="twice"):
        check([hook("render"), hook("render")], frozenset())


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_passes_the_check_becomes_a_function_and_nothing_else_is_compiled(name: str, parameter: str) -> None:
    described = hook(name, (parameter, None))
    try:
        check([described], frozenset())
    except BadHook:
        return
    proxy, calls = made(described)
    proxy(1)
    assert calls == [(name, {parameter: 1})]
