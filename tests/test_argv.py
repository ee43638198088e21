"""Arguments that a `run` rule allows: matching, and exact containment."""

from __future__ import annotations

from itertools import product
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker import _argv

WORDS: Final = ("a", "b", "c")  # c stands for all that no list names
LISTS: Final = st.lists(st.sampled_from(("a", "b", "*", "**")), max_size=4).filter(lambda items: items.count("**") < 2)
ALL: Final = [words for length in range(8) for words in product(WORDS, repeat=length)]


@pytest.mark.parametrize(
    ("items", "arguments", "allowed"),
    [
        ([], [], True),
        ([], ["a"], False),
        (["status", "**"], ["status"], True),
        (["status", "**"], ["status", "--porcelain", "-z"], True),
        (["status", "**"], ["push"], False),
        (["status", "*"], ["status"], False),
        (["status", "*"], ["status", "x"], True),
        (["**", "--", "*"], ["-v", "--", "file"], True),
        (["**", "--", "*"], ["--"], False),
        (["*"], [""], True),
        (["**"], [], True),
    ],
)
def test_arguments_are_compared_one_by_one(items: list[str], arguments: list[str], allowed: bool) -> None:
    assert _argv.matches(_argv.parse(items), arguments) is allowed


@pytest.mark.parametrize(
    "value",
    ["status", None, {}, ["a*"], ["***"], ["**", "**"], ["a\0"], [1], ["a"] * 101, ["a" * 4097]],
)
def test_anything_else_is_not_legal(value: Any) -> None:
    with pytest.raises(ValueError, match="an array of at most"):
        _argv.parse(value)


@given(LISTS, LISTS)
def test_containment_is_exact(outer: list[str], inner: list[str]) -> None:
    """Lists of four items differ, where they do, on words of at most eight, over letters of which one is in neither."""
    one, other = _argv.parse(outer), _argv.parse(inner)
    subset = all(_argv.matches(one, words) for words in ALL if _argv.matches(other, words))
    assert _argv.contains(one, other) is subset


@given(LISTS)
def test_no_list_contains_all_arguments_but_the_one_that_says_so(items: list[str]) -> None:
    assert _argv.contains(None, _argv.parse(items))
    assert _argv.contains(_argv.parse(items), None) is (items == ["**"])
