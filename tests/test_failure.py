"""Promises of failure reports: any exception becomes bounded plain data that the host accepts, and nothing escapes."""

from __future__ import annotations

import errno
import itertools
import os
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker import messages, wire
from sandbox_worker.errors import ImportDenied, InterpreterDenied, PermissionDenied, Unsendable
from sandbox_worker.failure import describe

if TYPE_CHECKING:
    from pathlib import Path

NO_RULES: Final[dict[str, Any]] = {"read": ((), (), ()), "write": ((), (), ())}


def report(error: BaseException, rules: dict[str, Any] | None = None) -> messages.Error:
    """What the host makes of the report, after it crossed."""
    message = [messages.ERROR, 1, *describe(error, rules or NO_RULES), 0]
    reply = messages.reply_to(1, wire.decode(wire.Encoder().encode(message)[wire.HEADER :]))
    assert isinstance(reply, messages.Error)
    return reply


def raised(error: BaseException) -> BaseException:
    """The error as it comes out of a plugin: through a frame of the loop and one of the plugin."""

    def plugin() -> None:
        raise error

    try:
        plugin()
    except BaseException as caught:
        return caught
    raise AssertionError


ARGUMENTS: Final = st.lists(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=50)
    | st.binary(max_size=50)
    | st.builds(object),
    max_size=20,
)


@given(ARGUMENTS)
def test_any_arguments_give_a_report_that_the_host_accepts(arguments: list[object]) -> None:
    found = report(ValueError(*arguments))
    assert found.type_name == "ValueError"
    assert len(found.arguments) <= messages.ARGUMENTS_LIMIT


@given(st.text(max_size=20_000))
def test_any_text_crosses_bounded(text: str) -> None:
    assert len(report(ValueError(text)).text) <= messages.TEXT_LIMIT


@given(st.lists(st.none() | st.booleans() | st.integers(-5, 5) | st.text("abc", max_size=9), max_size=5))
def test_plain_arguments_arrive_as_they_were(arguments: list[object]) -> None:
    assert report(LookupError(*arguments)).arguments == tuple(arguments)


class Hostile(Exception):
    """Everything that a report looks at raises, lies, or has no bounds."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __str__(self) -> str:
        return self.get()  # type: ignore[return-value]  # that is the lie

    def get(self) -> object:
        """Raise or return the answer."""
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    args = property(get)


class Text(str):
    """Says whatever when it is cut or encoded."""

    __slots__ = ()

    def __getitem__(self, _: object) -> Any:
        return object()

    def encode(self, *_: object) -> Any:
        """No bytes."""
        return object()


ANSWERS: Final = [
    ValueError(),
    SystemExit(3),
    KeyboardInterrupt(),
    RecursionError(),
    MemoryError(),
    None,
    7,
    "\ud800" * 10_000,
    Text("x"),
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: type(a).__name__)
def test_an_exception_whose_own_code_misbehaves_still_arrives(answer: object) -> None:
    found = report(raised(Hostile(answer)))
    assert found.type_name.endswith("Hostile")
    assert type(found.text) is str


@pytest.mark.parametrize("value", [[], {}, object(), "13", 13.0, 1 << 70])
def test_an_oserror_with_a_strange_number_still_arrives(value: object) -> None:
    error = OSError(13, "x")
    error.errno = value  # type: ignore[assignment]  # nothing keeps a plugin from it
    assert report(error).cause is None or value == 13.0


@pytest.mark.parametrize("name", ["a\0b", b"\xff", "\ud800", 7, object(), "x" * 10_000])
def test_a_permission_error_with_a_strange_name_still_arrives(name: object) -> None:
    assert report(PermissionError(13, "x", name)).type_name == "PermissionError"


def test_a_class_without_a_readable_name_still_arrives() -> None:
    class Odd(Exception):
        __module__ = 7  # type: ignore[assignment]  # nothing keeps a plugin from it

    Odd.__qualname__ = "x" * 5000
    assert len(report(Odd()).type_name) <= messages.NAME_LIMIT


def test_a_builtin_goes_by_its_name_and_any_other_class_by_module_and_name() -> None:
    assert report(KeyError("k")).type_name == "KeyError"
    assert report(Hostile("x")).type_name == f"{__name__}.Hostile"


def test_a_value_that_cannot_cross_goes_by_the_contracts_name() -> None:
    found = report(Unsendable("rows[3]", "datetime.date"))
    assert found.type_name == "SerializationError"
    assert "rows[3] is of type datetime.date" in found.text


def test_an_oserror_keeps_its_file_name() -> None:
    assert report(FileNotFoundError(2, "No such file", "/srv/x")).arguments == (2, "No such file", "/srv/x")


@pytest.mark.parametrize(
    "error",
    [
        PermissionDenied("fs.read", "/etc/passwd"),
        ImportDenied("native", "ctypes"),
        InterpreterDenied("interpreter", "x"),
    ],
)
def test_a_denial_carries_what_was_denied(error: Any) -> None:
    assert report(error).cause == ("denied", error.permission, error.target, "audit_hook")


def test_a_denial_with_an_endless_target_is_cut() -> None:
    cause = report(PermissionDenied("fs.read", "/" + "x" * 100_000)).cause
    assert cause is not None
    assert len(cause[2]) <= messages.TARGET_LIMIT


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("can't start new thread"), "threads"),
        (OSError(errno.EMFILE, "x"), "open_files"),
        (OSError(errno.EFBIG, "x"), "file_size"),
    ],
)
def test_the_errors_of_a_limit_say_which_limit(error: BaseException, limit: str) -> None:
    assert report(error).cause == ("limit", limit)


def rules(folder: Path) -> dict[str, Any]:
    """Reading and writing allowed in `folder`."""
    prefixes = ((str(folder) + "/",), (), ())
    return {"read": prefixes, "write": prefixes}


def test_what_the_kernel_refused_outside_the_rules_is_a_denial(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "/etc/shadow")
    assert report(error, rules(tmp_path)).cause == ("denied", "fs.read", "/etc/shadow", "landlock")


def test_what_the_kernel_refused_inside_the_rules_is_an_ordinary_error(tmp_path: Path) -> None:
    """An unreadable file in a granted folder: its mode refuses it, no rule does."""
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "x"))
    assert report(error, rules(tmp_path.resolve())).cause is None


def test_a_link_that_leads_out_is_judged_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/shadow")
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "link"))
    assert report(error, rules(tmp_path.resolve())).cause == ("denied", "fs.read", "/etc/shadow", "landlock")


def test_the_second_name_of_a_move_is_judged_too(tmp_path: Path) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a"), None, "/else/b")
    assert report(error, rules(tmp_path.resolve())).cause == ("denied", "fs.read", "/else/b", "landlock")


def test_the_traceback_begins_in_the_plugin_and_is_bounded() -> None:
    found = report(raised(ValueError("x" * 100_000)))
    assert len(found.traceback) <= messages.TRACEBACK_LIMIT
    text = report(raised(ValueError("why"))).traceback
    assert "in plugin" in text
    assert "in raised" not in text
    assert text.endswith("ValueError: why\n")


def test_an_endless_recursion_is_reported() -> None:
    def deep() -> None:
        deep()

    try:
        deep()
    except RecursionError as error:
        found = report(error)
    assert found.type_name == "RecursionError"
    assert len(found.traceback) <= messages.TRACEBACK_LIMIT


def test_chained_exceptions_are_in_the_traceback() -> None:
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")
    assert "inner" in report(raised(error)).traceback


def test_an_exception_group_arrives_by_name() -> None:
    assert report(raised(ExceptionGroup("many", [ValueError("a"), KeyError("b")]))).type_name == "ExceptionGroup"


def test_the_longest_report_fits_the_frames_that_control_messages_may_have() -> None:
    worst = "\U0001f600" * messages.TRACEBACK_LIMIT
    error = raised(OSError(*itertools.repeat(worst, messages.ARGUMENTS_LIMIT)))
    message = [messages.ERROR, 1, *describe(error, NO_RULES), 0]
    assert len(wire.Encoder().encode(message)) <= wire.CONTROL_LIMIT
    assert os.path.exists("/")
