"""docs/compatibility.md has what the record of the interpreter's own tests has, and the record is judged as it says."""

from __future__ import annotations

from compatibility_page import PAGE, markdown, page_with
from stdlib.record import Promise, read, stale, unexplained

PROMISE = Promise(
    "t", "w", "m", tests=("test_a.*.test_x", "test_gone.*"), sometimes=("test_a.C.test_y",), shows=("mark",)
)


def test_the_page_has_every_promise_of_the_record() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_with(markdown()), "run python -m tests.compatibility_page"


def test_every_promise_says_why_and_where_it_is_met() -> None:
    for promise in read().promises:
        assert promise.title
        assert promise.why
        assert promise.modules
        assert bool(promise.shows) == bool(promise.tests), promise.title
        assert promise.tests or promise.avoid


def test_a_failure_is_explained_by_its_name_and_by_what_it_shows() -> None:
    ended = [
        ["test_a.C.test_x", "error", "a mark"],
        ["test_a.C.test_x", "failure", "something else"],
        ["test_a.C.test_z", "error", "a mark"],
        ["test_a.C.test_y", "error", "a mark"],
        ["test_a.C.test_s", "skip", "why"],
    ]
    assert unexplained([PROMISE], ended) == ended[1:3]


def test_a_pattern_is_stale_where_all_its_tests_of_this_version_succeed() -> None:
    assert stale([PROMISE], ["test_a.C.test_x"], {}) == ["test_a.*.test_x"]
    assert stale([PROMISE], ["test_a.C.test_x"], {"test_a.C.test_x": "error"}) == []
    assert stale([PROMISE], ["test_a.C.test_z", "test_a.C.test_y"], {}) == []
