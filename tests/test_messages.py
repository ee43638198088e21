"""Promises of the messages: a field that is not exactly as agreed is refused, and nothing else is ever raised."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Final

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox_worker import messages
from sandbox_worker.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

SCALARS: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=10)
    | st.sampled_from(["denied", "limit", "memory", "audit_hook", "import", "landlock", "fs.read"])
)
VALUES: Final = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=8) | st.dictionaries(st.text(max_size=5), v, max_size=4), max_leaves=25
)
KINDS: Final = st.sampled_from([0, 1, 16, 17, 18, 19, 20])
MESSAGES: Final = VALUES | st.tuples(KINDS, st.lists(VALUES, max_size=8)).map(lambda pair: [pair[0], *pair[1]])

PARSERS: Final[dict[str, Callable[[object], object]]] = {
    "kind_of": messages.kind_of,
    "reply_to": lambda message: messages.reply_to(1, message),
    "Ready": messages.Ready,
    "Hook": messages.Hook,
    "Parameter": messages.Parameter,
    "hooks_of": messages.hooks_of,
    "failure_of": messages.failure_of,
    "Error": messages.Error,  # type: ignore[dict-item]  # hostile input has any type
}


@pytest.mark.parametrize("name", PARSERS)
@given(message=MESSAGES)
def test_a_parser_raises_nothing_but_wire_error(name: str, message: object) -> None:
    with contextlib.suppress(WireError):
        PARSERS[name](message)


GOOD: Final[dict[str, list[object]]] = {
    "reply_to": [messages.ERROR, 1, "ValueError", ["a", 1], "a", "trace", ["denied", "fs.read", "/x", "landlock"], 3],
    "Ready": [messages.READY, [1, 42, "confined", ["sys"], ["landlock"]]],
    "hooks_of": [messages.HOOKS, [["render", [["text", None], ["n", "1"]], [False, True, False, "other"]]]],
    "failure_of": [messages.FAILED, "import", "text", "memory"],
}


def positions(value: object, at: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Where every field of a nested list stands."""
    if not isinstance(value, list):
        return [at]
    return [at, *(p for i, item in enumerate(value) for p in positions(item, (*at, i)))]


def replaced(value: object, at: tuple[int, ...], new: object) -> object:
    """A copy of nested lists with one field replaced."""
    if not at or not isinstance(value, list):
        return new
    return [replaced(item, at[1:], new) if i == at[0] else item for i, item in enumerate(value)]


MUTANTS: Final = [(name, at) for name, message in GOOD.items() for at in positions(message) if at and at[:1] != (0,)]


@pytest.mark.parametrize(("name", "at"), MUTANTS)
def test_a_field_of_a_type_that_no_field_has_is_refused(name: str, at: tuple[int, ...]) -> None:
    """Every single field is checked: none may be a map, and only an argument may be a float."""
    PARSERS[name](GOOD[name])
    with pytest.raises(WireError):
        PARSERS[name](replaced(GOOD[name], at, {}))
    if at[:2] != (3, 0) and at[:2] != (3, 1):
        with pytest.raises(WireError):
            PARSERS[name](replaced(GOOD[name], at, 1.5))


@given(st.sampled_from(MUTANTS), VALUES)
def test_a_good_message_with_one_strange_field_raises_nothing_but_wire_error(
    mutant: tuple[str, tuple[int, ...]], strange: object
) -> None:
    name, at = mutant
    with contextlib.suppress(WireError):
        PARSERS[name](replaced(GOOD[name], at, strange))


@given(VALUES, st.integers(0, (1 << 31) - 1))
def test_a_result_carries_its_value_untouched(value: object, denials: int) -> None:
    message = [messages.RESULT, 7, value, denials]
    assert messages.reply_to(7, message) is message
    assert message[2] is value


@pytest.mark.parametrize("call_id", [0, 2, -1, True, "1", 1.0, None])
def test_a_reply_to_another_call_is_refused(call_id: object) -> None:
    """True and 1.0 compare equal to 1: the type is part of the check."""
    with pytest.raises(WireError):
        messages.reply_to(1, [messages.RESULT, call_id, None, 0])


@pytest.mark.parametrize(
    "message",
    [
        [messages.RESULT, 1, None],
        [messages.RESULT, 1, None, 0, 0],
        [messages.RESULT, 1, None, -1],
        [messages.RESULT, 1, None, True],
        [messages.RESULT, 1, None, 1 << 31],
        [True, 1, None, 0],
        [messages.HOOKS, 1, None, 0],
        [messages.ERROR, 1, "E", [], "", "", None],
    ],
)
def test_a_reply_of_another_shape_is_refused(message: list[object]) -> None:
    with pytest.raises(WireError):
        messages.reply_to(1, message)


LONG: Final = {
    "an error's type": ("reply_to", (2,), "x" * (messages.NAME_LIMIT + 1)),
    "an error's arguments": ("reply_to", (3,), [0] * (messages.ARGUMENTS_LIMIT + 1)),
    "an error's argument": ("reply_to", (3, 0), "x" * (messages.TEXT_LIMIT + 1)),
    "an error's text": ("reply_to", (4,), "x" * (messages.TEXT_LIMIT + 1)),
    "a traceback": ("reply_to", (5,), "x" * (messages.TRACEBACK_LIMIT + 1)),
    "a denial's target": ("reply_to", (6, 2), "x" * (messages.TARGET_LIMIT + 1)),
    "a tier": ("Ready", (1, 2), "x" * (messages.NAME_LIMIT + 1)),
    "modules": ("Ready", (1, 3), ["m"] * 501),
    "proofs": ("Ready", (1, 4), ["p"] * 51),
    "hooks": ("hooks_of", (1,), [["h", [], [False, False, False, None]]] * (messages.HOOKS_LIMIT + 1)),
    "parameters": ("hooks_of", (1, 0, 1), [["p", None]] * (messages.PARAMETERS_LIMIT + 1)),
    "a hook's name": ("hooks_of", (1, 0, 0), "x" * (messages.NAME_LIMIT + 1)),
    "a failure's text": ("failure_of", (2,), "x" * (messages.TRACEBACK_LIMIT + 1)),
}


@pytest.mark.parametrize("what", LONG)
def test_every_text_and_list_is_bounded(what: str) -> None:
    name, at, long = LONG[what]
    with pytest.raises(WireError):
        PARSERS[name](replaced(GOOD[name], at, long))


def test_a_limit_that_no_worker_reports_is_refused() -> None:
    with pytest.raises(WireError):
        messages.reply_to(1, replaced(GOOD["reply_to"], (6,), ["limit", "call_timeout"]))


def test_a_restarted_worker_may_change_the_text_of_a_default_but_not_whether_there_is_one() -> None:
    def hook(default: str | None) -> messages.Hook:
        return messages.Hook(["h", [["p", default]], [False, False, False, None]])

    assert hook("<object at 0x1>").shape() == hook("<object at 0x2>").shape()
    assert hook("1").shape() != hook(None).shape()


# --- the event pipe

KIND_TEXT: Final = st.text(st.characters(codec="ascii"), max_size=20)
TARGET_TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=60)
RECORDS: Final = st.lists(st.tuples(KIND_TEXT, TARGET_TEXT, st.booleans()), max_size=8)


def read_in_pieces(data: bytes, cuts: list[int]) -> list[tuple[str, str, bool]]:
    """The records that come out of an event pipe that is read in pieces."""
    at = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    found, rest = [], b""
    for start, end in itertools.pairwise(at):
        records, rest = messages.events_of(rest + data[start:end])
        found += records
    assert rest == b""
    return found


@given(RECORDS, st.lists(st.integers(0, 600), max_size=10))
def test_denials_arrive_whole_however_the_pipe_is_read(records: list[tuple[str, str, bool]], cuts: list[int]) -> None:
    data = b"".join(messages.event_record(*record) for record in records)
    assert read_in_pieces(data, cuts) == records


@given(st.binary(max_size=3000))
@example(b"\x02\xff\xff\xff" + b"x" * 100)
@example(b"\x00\x00\x00\x00" * 50)
@example(b"\x01\x04\x00\x02\xff\xfe\xfd\xfc\xfb\xfa")
def test_any_bytes_on_the_event_pipe_are_read_without_an_error(data: bytes) -> None:
    found, rest = messages.events_of(data)
    assert len(rest) <= 4 + 255 + 65535
    assert all(len(kind) <= 4 * 255 and len(target) <= 4 * messages.TARGET_LIMIT for kind, target, _ in found)


def test_a_flood_of_denials_is_cut_off() -> None:
    data = messages.event_record("fs.read", "/x", deny_rule=False) * (messages.EVENTS_LIMIT + 5)
    found, rest = messages.events_of(data)
    assert (len(found), rest) == (messages.EVENTS_LIMIT, b"")


@given(kind=st.text(max_size=3000), target=st.text(max_size=3000), by_rule=st.booleans())
@example(kind="\udcff" * 2000, target="\ud800" * 2000, by_rule=True)
def test_a_denial_is_always_written_whole(kind: str, target: str, by_rule: bool) -> None:
    """At most PIPE_BUF bytes (pipe(7)), whatever the plugin asked for: writes of two threads can't mix."""
    record = messages.event_record(kind, target, by_rule)
    assert len(record) <= 4096
    [found], rest = messages.events_of(record)
    assert (found[2], rest) == (by_rule, b"")


def test_every_message_of_the_docstring_is_one_msgpack_value() -> None:
    for message in GOOD.values():
        assert msgpack.unpackb(msgpack.packb(message)) == message
