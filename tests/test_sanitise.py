"""Foreign text made visible."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.model.sanitise import is_safe, quoted, visible

any_text = st.text(st.characters())  # surrogates included


def test_ordinary_text_in_any_script_stays_as_it_is() -> None:
    text = "Grüße, Привет, שלום, 日本語, naïve ½ “quoted” 🎉"

    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b[2K", r"\x1b[2K", id="terminal escapes"),
        pytest.param("a\x00b\x07", r"a\x00b\x07", id="NUL and bell"),
        pytest.param("\x7f\x9b", r"\x7f\x9b", id="DEL and C1"),
        pytest.param("a\r\nb\tc", r"a\r\nb\tc", id="newline, carriage return and tab"),
        pytest.param("\u202egpj.exe", r"\u202egpj.exe", id="a bidi override"),
        pytest.param("\u2066x\u2069", r"\u2066x\u2069", id="bidi isolates"),
        pytest.param("pay\u200bpal\ufeff", r"pay\u200bpal\ufeff", id="zero-width characters"),
        pytest.param("\u2028\u2029", r"\u2028\u2029", id="line and paragraph separators"),
        pytest.param("a\u00a0b\u3000c", r"a\xa0b\u3000c", id="spaces that are no space"),
        pytest.param("\ud800", r"\ud800", id="a lone surrogate"),
        pytest.param("\U000e0041", r"\U000e0041", id="a tag character"),
        pytest.param("\U000e0002", r"\U000e0002", id="an unassigned tag character"),
        pytest.param("a\ufe0f\U000e0100", r"a\ufe0f\U000e0100", id="variation selectors"),
        pytest.param("\u3164\u2800", r"\u3164\u2800", id="letters that draw nothing"),
        pytest.param("\ue000", r"\ue000", id="private use"),
    ],
)
def test_what_can_deceive_the_reader_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_multiline_keeps_newlines_and_nothing_else() -> None:
    assert visible("a\nb\rc\x1b", multiline=True) == "a\nb" + r"\rc\x1b"


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    assert visible("x" * 2500, 2000) == "x" * 2000 + "… (500 more characters)"


def test_a_text_as_long_as_the_limit_is_whole() -> None:
    assert visible("x" * 2000) == "x" * 2000


def test_an_escape_is_never_cut() -> None:
    assert visible("abc\u202e\u202e", 10) == r"abc\u202e" + "… (1 more characters)"


def test_a_quoted_text_stays_on_one_line_and_is_bounded() -> None:
    assert quoted("a\nb", 3) == '"a\\n… (1 more characters)"'


@given(any_text, st.integers(0, 50))
def test_the_result_is_bounded_and_holds_only_safe_characters(text: str, limit: int) -> None:
    shown = visible(text, limit)

    assert all(map(is_safe, shown))
    assert len(shown) <= limit + len("… ( more characters)") + len(str(len(text)))
    assert not any(unicodedata.category(char) in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"} for char in shown)


@given(any_text)
def test_the_multiline_result_holds_only_safe_characters_and_newlines(text: str) -> None:
    assert all(is_safe(char) or char == "\n" for char in visible(text, multiline=True))


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"])))
def test_printable_ascii_is_untouched(text: str) -> None:
    assert visible(text) == text
