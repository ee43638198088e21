"""Sizes and durations as text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.model.units import (
    DURATION_MAX,
    DURATION_PATTERN,
    LEGAL_DURATION,
    LEGAL_SIZE,
    SIZE_MAX,
    SIZE_PATTERN,
    UnitError,
    describe,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1 B", 1), ("64 KiB", 65536), ("256 MiB", 256 << 20), ("1 GiB", 1 << 30), ("2TiB", 2 << 40), (4096, 4096)],
)
def test_a_size_is_a_number_of_bytes(text: int | str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("5 s", 5.0), ("500 ms", 0.5), ("2 min", 120.0), ("1.5s", 1.5), ("24 h", DURATION_MAX)]
)
def test_a_duration_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("256 MB", id="a decimal unit, which some read as a binary one"),
        pytest.param("256 mib", id="a unit in the wrong case"),
        pytest.param("256", id="a text without a unit"),
        pytest.param("1.5 GiB", id="a fraction"),
        pytest.param("-1 MiB", id="a sign"),
        pytest.param("0 B", id="nothing"),
        pytest.param(0, id="the number 0"),
        pytest.param(-1, id="a negative number"),
        pytest.param(True, id="a boolean"),
        pytest.param(1.0, id="a number with a fraction"),
        pytest.param("17 TiB", id="more than the maximum"),
        pytest.param(1 << 20000, id="a number too long to write"),
        pytest.param("1  MiB", id="two spaces"),
        pytest.param(" 1 MiB", id="a space in front"),
        pytest.param("1 MiB\n", id="a newline behind"),
        pytest.param("\u0661 MiB", id="digits of another script"),
        pytest.param("", id="an empty text"),
        pytest.param(None, id="no text at all"),
    ],
)
def test_what_is_no_size_is_refused_and_told_what_is(text: int | str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_size(text)

    assert caught.value.legal == LEGAL_SIZE
    assert caught.value.text == describe(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("5", id="a text without a unit"),
        pytest.param(5, id="a number without a unit"),
        pytest.param("5 sec", id="an unknown unit"),
        pytest.param("0 s", id="nothing"),
        pytest.param("0.0 ms", id="nothing, with a fraction"),
        pytest.param("-5 s", id="a sign"),
        pytest.param("1e3 s", id="an exponent"),
        pytest.param("nan s", id="no number"),
        pytest.param(".5 s", id="no digit before the point"),
        pytest.param("25 h", id="more than the maximum"),
        pytest.param("5 s\n", id="a newline behind"),
        pytest.param(True, id="a boolean"),
    ],
)
def test_what_is_no_duration_is_refused_and_told_what_is(text: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse_duration(text)

    assert caught.value.legal == LEGAL_DURATION


def test_the_message_quotes_the_text_visibly_and_says_what_is_legal() -> None:
    with pytest.raises(UnitError, match=re.escape(rf'"5 \x1b" is not legal; legal is {LEGAL_SIZE}')):
        parse_size("5 \x1b")


@given(st.integers(1, SIZE_MAX))
def test_a_size_in_bytes_survives_being_written(size: int) -> None:
    assert parse_size(f"{size} B") == parse_size(size) == size


@given(st.from_regex(SIZE_PATTERN, fullmatch=True) | st.text())
def test_a_size_is_in_range_or_refused(text: str) -> None:
    try:
        size = parse_size(text)
    except UnitError:
        return

    assert 0 < size <= SIZE_MAX


@given(st.from_regex(DURATION_PATTERN, fullmatch=True) | st.text())
def test_a_duration_is_in_range_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except UnitError:
        return

    assert 0 < seconds <= DURATION_MAX
