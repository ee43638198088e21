"""Promises of discovery: what pluggy would find is found, what can't serve says why, and nothing odd gets through."""

from __future__ import annotations

import functools
import sys
import types
from typing import TYPE_CHECKING, Any, Final

import pluggy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pluggy._hooks import varnames

from sandbox_worker import messages
from sandbox_worker.discovery import NotAPlugin, from_functions, from_plugin, parameters, resolve
from sandbox_worker.plugin_api import HookimplMarker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

hookimpl: Final = HookimplMarker("tests")


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module `probe` that can be imported."""
    made = types.ModuleType("probe")
    monkeypatch.setitem(sys.modules, "probe", made)
    return made


def plain(a: int, b: str = "x") -> None:
    """Both of its parameters are pluggy's business."""


def keyword_only(a: int, *, b: int = 1) -> None:
    """pluggy passes `a` alone."""


def variable(a: int, *args: int, **kwargs: int) -> None:
    """pluggy passes `a` alone."""


def positional_only(a: int, b: int, /) -> None:
    """pluggy passes both, by position."""


def nothing() -> None:
    """Takes nothing."""


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as everybody writes it."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


class Maker:
    """A class as a hook: pluggy reads its `__init__`."""

    def __init__(self, a: int, b: int = 2) -> None:
        self.sum = a + b

    def method(self, x: int, y: int = 1) -> int:
        """A bound method once an instance is asked for it."""
        return x + y

    @functools.lru_cache  # noqa: B019 - one instance, one test
    def cached(self, x: int) -> int:
        """A method behind a C object that wraps it."""
        return x

    @classmethod
    def of_class(cls, x: int) -> int:
        """Bound to the class."""
        return x

    @staticmethod
    def static(x: int) -> int:
        """Bound to nothing."""
        return x

    def __call__(self, text: str) -> str:
        return text


class Heir(Maker):
    """Inherits its `__init__`."""


CALLABLES: Final = {
    "function": plain,
    "keyword only": keyword_only,
    "variable": variable,
    "positional only": positional_only,
    "nothing": nothing,
    "lambda": lambda q: q,
    "decorated": decorated(plain),
    "decorated twice": decorated(decorated(plain)),
    "cached": functools.lru_cache(plain),
    "class": Maker,
    "heir": Heir,
    "method": Maker(1).method,
    "cached method": Maker(1).cached,
    "class method": Maker.of_class,
    "static method": Maker.static,
    "object": Maker(1),
}


@pytest.mark.parametrize("name", CALLABLES)
def test_parameters_are_those_that_pluggy_passes(name: str) -> None:
    required, optional = varnames(CALLABLES[name])
    found = parameters(CALLABLES[name])
    assert [parameter for parameter, _ in found] == [*required, *optional]
    assert [parameter for parameter, default in found if default is not None] == list(optional)


@pytest.mark.parametrize("function", [len, dict.get, functools.partial(plain, 1)], ids=["len", "dict.get", "partial"])
def test_what_has_no_python_signature_is_refused_with_a_reason(function: object) -> None:
    with pytest.raises(NotAPlugin, match="no Python signature"):
        parameters(function)


def test_a_function_that_claims_to_wrap_itself_ends() -> None:
    def loop(a: int) -> None: ...

    loop.__wrapped__ = loop  # type: ignore[attr-defined]  # that is the lie
    assert parameters(loop) == [["a", None]]


class Odd:
    """A default whose repr is hostile."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __repr__(self) -> str:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # whatever it is


@pytest.mark.parametrize(
    "answer",
    [ValueError("x"), "\ud800", "x" * 10_000, "\x1b[2J", None],
    ids=["raises", "surrogate", "long", "escape", "none"],
)
def test_a_default_is_described_whatever_its_repr_does(answer: object) -> None:
    def hook(p: object = Odd(answer)) -> None: ...

    [[name, default]] = parameters(hook)
    assert name == "p"
    assert isinstance(default, str)
    assert len(default) <= messages.NAME_LIMIT
    default.encode()


def test_hooks_are_found_by_either_marker(module: Any) -> None:
    @hookimpl(tryfirst=True, specname="other")
    def ours(a: int) -> None: ...

    @pluggy.HookimplMarker("tests")(trylast=True, optionalhook=True)
    def theirs(b: int = 3) -> None: ...

    @HookimplMarker("elsewhere")
    def foreign() -> None: ...

    module.ours, module.theirs, module.foreign = ours, theirs, foreign
    hooks, described = from_plugin(module, "tests")
    assert described == [
        ["ours", [["a", None]], [True, False, False, "other"]],
        ["theirs", [["b", "3"]], [False, True, True, None]],
    ]
    assert hooks == {"ours": (ours, ("a",)), "theirs": (theirs, ("b",))}


@given(st.fixed_dictionaries({}, optional={n: st.booleans() for n in ("tryfirst", "trylast", "optionalhook")}))
def test_both_markers_set_the_same(options: dict[str, Any]) -> None:
    def mine() -> None: ...

    def theirs() -> None: ...

    HookimplMarker("tests")(**options)(mine)
    pluggy.HookimplMarker("tests")(**options)(theirs)
    assert mine.tests_impl == theirs.tests_impl  # type: ignore[attr-defined]  # set by the markers


def test_every_description_is_one_that_the_host_accepts(module: Any) -> None:
    for index, function in enumerate(CALLABLES.values()):
        setattr(module, f"hook{index}", types.SimpleNamespace())
        if isinstance(function, types.FunctionType):
            setattr(module, f"hook{index}", hookimpl(function))
    _, described = from_plugin(module, "tests")
    assert len(messages.hooks_of([messages.HOOKS, described])) == len(described)


@pytest.mark.parametrize("option", ["wrapper", "hookwrapper"])
def test_a_wrapper_is_refused_by_name(module: Any, option: str) -> None:
    def around() -> Iterator[None]:
        yield

    options: dict[str, Any] = {option: True}
    module.around = pluggy.HookimplMarker("tests")(**options)(around)
    with pytest.raises(NotAPlugin, match="around is a hook wrapper"):
        from_plugin(module, "tests")


def test_a_plugin_without_hooks_says_which_marker_it_lacks(module: Any) -> None:
    with pytest.raises(NotAPlugin, match=r"HookimplMarker\('tests'\)"):
        from_plugin(module, "tests")


def test_an_attribute_that_raises_is_passed_over(module: Any) -> None:
    class Plugin:
        @property
        def broken(self) -> int:
            raise RuntimeError

        @hookimpl
        def fine(self) -> int:
            return 1

    hooks, _ = from_plugin(Plugin(), "tests")
    assert list(hooks) == ["fine"]


@pytest.mark.parametrize("name", ["\ud800", "x" * 300])
def test_a_hook_that_the_host_would_refuse_is_the_plugins_fault(module: Any, name: str) -> None:
    setattr(module, name, hookimpl(lambda: None))
    with pytest.raises(NotAPlugin, match="hook"):
        from_plugin(module, "tests")


def test_too_many_hooks_are_the_plugins_fault(module: Any) -> None:
    for index in range(messages.HOOKS_LIMIT + 1):
        setattr(module, f"hook{index}", hookimpl(lambda: None))
    with pytest.raises(NotAPlugin, match="more than"):
        from_plugin(module, "tests")


def test_options_that_are_no_dict_mark_nothing(module: Any) -> None:
    def fake() -> None: ...

    fake.tests_impl = types.MappingProxyType({})  # type: ignore[attr-defined]  # not what a marker sets
    module.fake = fake
    with pytest.raises(NotAPlugin):
        from_plugin(module, "tests")


def test_an_entry_names_a_module_or_an_object_in_it(module: Any) -> None:
    module.inner = types.SimpleNamespace(plugin=plain)
    assert resolve("probe") is module
    assert resolve("probe:inner.plugin") is plain


def test_functions_are_found_and_described(module: Any) -> None:
    module.slug = plain
    hooks, described = from_functions({"slugify": "probe:slug"})
    assert hooks == {"slugify": (plain, ("a", "b"))}
    assert described == [["slugify", [["a", None], ["b", "'x'"]], [False, False, False, None]]]


def test_a_function_that_is_none_says_so(module: Any) -> None:
    module.slug = 3
    with pytest.raises(NotAPlugin, match="probe:slug is no callable"):
        from_functions({"slugify": "probe:slug"})
