"""Promises of errors from a worker: known builtins as themselves, others as PluginError, nothing looked up by name."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import PermissionDenied, PluginError, ResourceLimitExceeded
from host.service.remote_errors import BUILTINS, rebuild
from sandbox_worker.messages import ERROR, Error

ARGUMENTS = st.lists(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9) | st.binary(max_size=9), max_size=6
)


def remote(
    type_name: str,
    arguments: tuple[object, ...] | list[object] = (),
    text: str = "",
    traceback: str = "",
    cause: Any = None,
) -> Exception:
    error = Error([ERROR, 1, type_name, list(arguments), text, traceback, cause, 0])
    return rebuild(error, "p", "render", 4711, "fs.read = [...]")


@pytest.mark.parametrize("name", sorted(BUILTINS))
def test_a_builtin_arrives_as_itself(name: str) -> None:
    arguments: list[object] = ["text"]
    if name == "UnicodeDecodeError":
        arguments = ["utf-8", b"\xff", 0, 1, "reason"]
    if name == "UnicodeEncodeError":
        arguments = ["utf-8", "\u20ac", 0, 1, "reason"]
    if name == "UnicodeTranslateError":
        arguments = ["\u20ac", 0, 1, "reason"]
    error = remote(name, arguments, "text")
    assert type(error) is getattr(builtins, name)
    assert list(error.args) == arguments


def test_only_exceptions_are_in_the_table() -> None:
    assert all(issubclass(kind, Exception) for kind in BUILTINS.values())
    assert not {"SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException", "ExceptionGroup"} & set(BUILTINS)


@pytest.mark.parametrize(
    "name",
    [
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "BaseException",
        "ExceptionGroup",
        "shop.Sold",
        "os.system",
        "print",
    ],
)
def test_any_other_class_arrives_as_plugin_error_with_its_name(name: str) -> None:
    error = remote(name, ["x"], "the text")
    assert isinstance(error, PluginError)
    assert (error.remote_type, error.plugin, error.hook) == (name, "p", "render")
    assert "the text" in str(error)


@pytest.mark.parametrize("name", ["StopIteration", "StopAsyncIteration", "SyntaxError", "IndentationError"])
def test_what_would_mean_something_else_in_the_host_arrives_as_plugin_error(name: str) -> None:
    """A StopIteration would end a caller's loop silently, a SyntaxError's fields are indexes that CPython trusts."""
    error = remote(name, ["x"])
    assert isinstance(error, PluginError)
    assert error.remote_type == name


@pytest.mark.parametrize(("start", "end"), [(-1, 1), (0, 0), (1, 0), (0, 2), (1 << 62, 1 << 63), (5, 6)])
def test_a_unicode_error_whose_range_lies_outside_its_object_is_plugin_error(start: int, end: int) -> None:
    assert isinstance(remote("UnicodeDecodeError", ["utf-8", b"\xff", start, end, "r"]), PluginError)


def test_arguments_that_a_builtin_does_not_take_make_it_a_plugin_error() -> None:
    error = remote("UnicodeDecodeError", ["only text"], "only text")
    assert isinstance(error, PluginError)
    assert error.remote_type == "UnicodeDecodeError"


def test_a_file_error_keeps_errno_text_and_name() -> None:
    error = remote("FileNotFoundError", [2, "No such file or directory", "/srv/x"])
    assert isinstance(error, FileNotFoundError)
    assert (error.errno, error.filename) == (2, "/srv/x")


def test_the_remote_traceback_is_in_the_notes_and_names_the_plugin() -> None:
    error = remote("ValueError", ["x"], "x", "Traceback:\n  line 1\n")
    assert error.__notes__ == ["in plugin p:\nTraceback:\n  line 1\n"]


def test_text_is_made_visible_before_it_can_reach_a_terminal() -> None:
    error = remote("ValueError", ["\x1b[2J\u202e"], "\x1b[2J", "\x1b]0;title\x07")
    assert "\x1b" not in f"{error}{error.__notes__}"
    assert "\u202e" not in str(error)
    assert "\x1b" not in str(remote("a\x1bb", [], "\x1b"))


def test_a_denial_is_permission_denied_with_all_its_fields() -> None:
    error = remote("PermissionError", [], "refused", cause=["denied", "fs.read", "/etc/shadow", "landlock"])
    assert isinstance(error, PermissionDenied)
    assert isinstance(error, PermissionError)
    assert (error.permission, error.target, error.layer) == ("fs.read", "/etc/shadow", "landlock")
    assert (error.hint, error.plugin, error.hook, error.errno) == ("fs.read = [...]", "p", "render", 13)


@pytest.mark.parametrize("limit", ["memory", "open_files", "file_size", "result_size"])
def test_a_limit_is_resource_limit_exceeded_with_its_name(limit: str) -> None:
    error = remote("MemoryError", [], "no more", cause=["limit", limit])
    assert isinstance(error, ResourceLimitExceeded)
    assert (error.limit, error.plugin, error.hook, error.pid) == (limit, "p", "render", 4711)


@given(st.sampled_from(sorted(BUILTINS)) | st.text(max_size=30), ARGUMENTS, st.text(max_size=30), st.text(max_size=30))
def test_whatever_a_worker_claims_becomes_an_exception_to_raise(
    name: str, arguments: list[object], text: str, traceback: str
) -> None:
    error = remote(name, arguments, text, traceback)
    assert isinstance(error, Exception)
    assert type(error) in (BUILTINS.get(name), PluginError) or isinstance(error, OSError)
    str(error)


HUGE = 1 << 40


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("UnicodeDecodeError", ["utf-8", b"x", -HUGE, -HUGE + 1, "r"]),
        ("UnicodeDecodeError", ["utf-8", b"x", -1, 0, "r"]),
        ("UnicodeDecodeError", ["utf-8", b"x", 0, HUGE, "r"]),
        ("UnicodeEncodeError", ["utf-8", "x", 5, 6, "r"]),
        ("UnicodeTranslateError", ["x", -3, 1, "r"]),
        ("UnicodeDecodeError", ["utf-8", b"x", 1 << 63, (1 << 63) + 1, "r"]),
        ("SyntaxError", ["m", "abcd"]),
        ("SyntaxError", ["m", "f"]),
        ("StopIteration", [1]),
        ("StopAsyncIteration", []),
    ],
)
def test_a_builtin_whose_fields_could_do_harm_arrives_as_a_plugin_error(name: str, arguments: list[object]) -> None:
    """CPython reads memory at a Unicode error's start, wherever that is: str() of such an error killed the host."""
    fields = [ERROR, 1, name, arguments, "text", "", None, 0]
    made = rebuild(Error(fields), "plugin", "hook", 1, "")
    assert type(made) is PluginError
    assert made.remote_type == name
    assert "text" in str(made)


def test_a_unicode_error_in_range_arrives_as_itself() -> None:
    fields = [ERROR, 1, "UnicodeDecodeError", ["utf-8", b"a\xff", 1, 2, "invalid"], "text", "", None, 0]
    made = rebuild(Error(fields), "plugin", "hook", 1, "")
    assert type(made) is UnicodeDecodeError
    assert (made.start, made.end, made.object) == (1, 2, b"a\xff")
