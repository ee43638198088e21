"""Promises of the audit hook: it decides as the rules do, fails closed, and nothing it uses can be replaced."""

from __future__ import annotations

import contextlib
import dis
import gc
import os
import threading
import types
from typing import TYPE_CHECKING, Any, Final

import pytest
from built_hook import Built
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sandbox_worker import audit_hook, permissions
from sandbox_worker.errors import PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def build() -> Iterator[Callable[..., Built]]:
    """Builds hooks and closes their pipes."""
    with contextlib.ExitStack() as stack:

        def make(*args: Any, **options: Any) -> Built:
            built = Built(*args, **options)
            stack.callback(built.close)
            return built

        yield make


# --- its shape


def parts(function: Any) -> Iterator[types.FunctionType]:
    """A function and every function that it holds, as defaults."""
    yield function
    pending = list(function.__defaults__ or ())
    while pending:
        value = pending.pop()
        if type(value) is tuple:
            pending += value
        elif type(value) is types.FunctionType:
            yield from parts(value)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def is_immutable(value: object) -> bool:
    """Whether nothing in `value` can be exchanged: constants, classes, C functions, functions of such."""
    if type(value) in (tuple, frozenset):
        return all(map(is_immutable, value))  # type: ignore[call-overload]  # a tuple or frozenset
    return type(value) in (str, int, bool, type, types.BuiltinFunctionType, types.FunctionType)


@pytest.mark.parametrize("kernel", [True, False])
def test_the_hook_loads_no_name_that_somebody_could_rebind(build: Callable[..., Built], kernel: bool) -> None:
    found = {part.__name__: part for part in parts(build(["/"], kernel=kernel).hook)}
    assert len(found) >= 10
    for name, part in found.items():
        for code in codes(part.__code__):
            for instruction in dis.get_instructions(code):
                assert not instruction.opname.startswith(
                    (
                        "LOAD_GLOBAL",
                        "LOAD_NAME",
                        "LOAD_DEREF",
                        "LOAD_CLASSDEREF",
                        "LOAD_FROM_DICT",
                        "STORE_GLOBAL",
                        "IMPORT",
                    )
                ), f"{name}: {instruction.opname} {instruction.argval}"


@pytest.mark.parametrize("kernel", [True, False])
def test_the_hook_holds_nothing_that_can_be_changed(build: Callable[..., Built], kernel: bool) -> None:
    for part in parts(build(["/"], kernel=kernel).hook):
        assert part.__closure__ is None
        assert part.__kwdefaults__ is None
        assert part.__globals__ == {"__builtins__": {}}
        for value in part.__defaults__ or ():
            assert is_immutable(value), (part.__name__, value)


def test_no_part_of_the_hook_shares_its_globals_with_another(build: Callable[..., Built]) -> None:
    found = list({id(part): part for part in parts(build(["/"]).hook)}.values())
    assert len({id(part.__globals__) for part in found}) == len(found)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", ["__code__", "__defaults__", "__kwdefaults__"])
def test_the_functions_of_the_hook_cannot_be_rewritten(build: Callable[..., Built], kernel: bool, name: str) -> None:
    """The hook itself is held by the interpreter alone; its parts are seen in the frames of a refusal."""
    built = build(["/"], kernel=kernel)
    for part in parts(built.hook):
        if part is not built.hook:
            assert built.refuses("object.__setattr__", part, name, None), part.__name__


@pytest.mark.parametrize("name", ["__code__", "__defaults__", "__kwdefaults__", "__class__", "__bases__"])
def test_a_plugin_may_rewrite_its_own_functions(build: Callable[..., Built], name: str) -> None:
    assert not build().refuses("object.__setattr__", is_immutable, name, None)


# --- it decides as the rules do

NAMES: Final = st.sampled_from(["a", "b", "ab", "a b", "ä", "..", ".", "", "proc", "dev", "self", "*"])
PATHS: Final = st.lists(NAMES, max_size=6).map(lambda names: "/" + "/".join(names))
RULES: Final = st.lists(PATHS, max_size=3)


@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(RULES, RULES, PATHS | st.text(max_size=20).map(lambda text: "/" + text), st.booleans())
def test_the_hook_agrees_with_the_decision_for_every_path(
    allow: list[str], deny: list[str], path: str, write: bool
) -> None:
    kind = "fs.write" if write else "fs.read"
    try:
        rules = [permissions.parse_rule(kind, text) for text in allow]
        denies = [permissions.parse_rule(kind, text) for text in deny]
        expected = permissions.decide(kind, rules, denies, path).allowed
    except (permissions.RuleError, permissions.RequestError):
        assume(False)
    built = Built(allow, allow, deny)
    try:
        mode, flags = ("w", os.O_WRONLY | os.O_CREAT) if write else ("r", os.O_RDONLY)
        assert built.refuses("open", path, mode, flags) != expected
        assert built.refuses("open", os.fsencode(path) if path.isascii() else path, None, flags) != expected
        reported = built.reported()
        assert (reported == []) == expected
    finally:
        built.close()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders, files and links: out of the grant, into it, in a circle, to nothing."""
    root = tmp_path_factory.mktemp("tree").resolve()
    for folder in ("in/sub", "out/sub"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").touch()
    links: dict[str, str | Path] = {
        "in/out": "../out",
        "in/abs": root / "out",
        "out/in": "../in/sub",
        "in/loop": "loop",
        "in/none": "gone/x",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return root


STEPS: Final = st.sampled_from(["in", "out", "sub", "file", "abs", "loop", "none", "..", ".", "", "missing"])


@given(steps=st.lists(STEPS, max_size=7))
def test_without_a_kernel_layer_the_hook_judges_where_links_lead(tree: Path, steps: list[str]) -> None:
    """It refuses at least what leads out of the grant; what it refuses beyond has no object to lead to."""
    path = "/".join([str(tree / "in"), *steps])
    rule = permissions.parse_rule("fs.read", str(tree / "in"))
    allowed = permissions.decide("fs.read", [rule], [], os.path.realpath(path)).allowed
    built = Built([str(tree / "in")], kernel=False)
    try:
        refused = built.refuses("open", path, "r", os.O_RDONLY)
        if not allowed:
            assert refused
        elif os.path.exists(path):
            assert not refused
    finally:
        built.close()


# --- it fails closed


def test_a_full_event_pipe_loses_the_report_and_never_the_refusal(build: Callable[..., Built]) -> None:
    built = build()
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(built.pipe, bytes(4096))
    assert built.refuses("open", "/etc/passwd", "r", 0)


def test_a_closed_event_pipe_loses_the_report_and_never_the_refusal() -> None:
    built = Built()
    built.close()
    assert built.refuses("open", "/etc/passwd", "r", 0)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("event", sorted(audit_hook.JUDGED - {"object.__setattr__"}))
def test_a_judged_event_with_arguments_of_another_shape_never_passes_for_granted(
    build: Callable[..., Built], event: str, kernel: bool
) -> None:
    """A later version may change an event's arguments: with too few, the hook raises, whatever it raises."""
    with pytest.raises(Exception):  # noqa: B017 - any exception refuses
        build([], [], kernel=kernel).hook(event, ())


@pytest.mark.parametrize("attribute", ["__new__", "__init__"])
@pytest.mark.parametrize("patch", [lambda *_: None, lambda *_: [], lambda *_: 1 / 0], ids=["none", "list", "raises"])
def test_a_patched_exception_class_makes_nothing_pass(
    build: Callable[..., Built], monkeypatch: pytest.MonkeyPatch, attribute: str, patch: object
) -> None:
    """On a copy of the class: what `__new__` was set on once never is the same again (CPython keeps its slot)."""
    monkeypatch.setattr(audit_hook, "PermissionDenied", type("Denied", (PermissionDenied,), {attribute: patch}))
    with pytest.raises(BaseException):  # noqa: B017 - any exception refuses
        build().hook("open", ("/etc/passwd", "r", 0))


def test_a_hook_inside_a_hook_is_the_whole_hook(build: Callable[..., Built]) -> None:
    """A gc callback runs between any two instructions, also the hook's own: what it does is judged like everything."""
    built = build(["/srv"])
    inner: list[bool] = []

    def during(_phase: str, _info: object) -> None:
        inner.append(built.refuses("open", "/etc/passwd", "r", 0))
        inner.append(not built.refuses("open", "/srv/x", "r", 0))

    before = gc.get_threshold()
    gc.callbacks.append(during)
    try:
        gc.set_threshold(1)
        for _ in range(200):
            assert built.refuses("open", "/etc/shadow", "r", 0)
            assert not built.refuses("open", "/srv/y", "r", 0)
    finally:
        gc.callbacks.remove(during)
        gc.set_threshold(*before)
    assert inner
    assert all(inner)


def test_a_second_thread_meets_the_whole_hook(build: Callable[..., Built]) -> None:
    built = build(["/srv"])
    wrong: list[str] = []

    def work() -> None:
        for _ in range(2000):
            if not built.refuses("open", "/etc/passwd", "r", 0):
                wrong.append("passed")
            if built.refuses("open", "/srv/x", "r", 0):
                wrong.append("refused")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
