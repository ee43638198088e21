"""Rows of cases: every row has one answer, whatever is in it."""

from __future__ import annotations

import io
import json

from hypothesis import given
from hypothesis import strategies as st

from host.cli.cases import LINE_MAX, judged

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "kind": st.sampled_from(["fs.read", "net.connect", "env", "nope"]) | JSON,
        "allow": st.lists(st.text(), max_size=2) | JSON,
        "deny": st.lists(st.text(), max_size=2) | JSON,
        "request": st.text() | JSON,
    },
)


def answers(rows: bytes) -> list[dict[str, object]]:
    return [json.loads(line, parse_constant=lambda name: 1 / 0) for line in judged(io.BytesIO(rows))]


@given(st.lists(st.binary(max_size=60).filter(lambda line: line.strip() and b"\n" not in line), max_size=5))
def test_every_line_of_junk_has_one_answer(lines: list[bytes]) -> None:
    assert len(answers(b"\n".join(lines))) == len(lines)


@given(st.lists(ROWS, max_size=5))
def test_every_row_has_one_answer_with_a_legal_verdict(rows: list[dict[str, object]]) -> None:
    found = answers(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    assert len(found) == len(rows)
    assert all(answer["verdict"] in ("allow", "deny", "error") and "rule" in answer for answer in found)


def test_what_json_does_not_allow_is_an_error_and_not_repeated() -> None:
    assert [row["verdict"] for row in answers(b'{"id": NaN}\n{"id": 1e999}\n{"id": "\xff"}\n[]\n')] == ["error"] * 4


def test_nesting_and_length_without_end_are_errors_and_the_next_row_is_judged() -> None:
    good = b'{"id": "x", "kind": "env", "allow": ["A"], "deny": [], "request": "A"}\n'
    found = answers(b"[" * 100_000 + b"\n" + b"9" * 10_000 + b"\n" + b" " * (3 * LINE_MAX) + b"x\n" + good)
    assert [row["verdict"] for row in found] == ["error", "error", "error", "allow"]


def test_rows_are_answered_as_they_come() -> None:
    stream = io.BytesIO(b'{"id": 1}\n{"id": 2}\n')
    found = judged(stream)
    assert json.loads(next(found))["id"] == 1
    assert stream.tell() == len(b'{"id": 1}\n')
