"""Values as a terminal or a JSON document can bear them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from host.cli.shown import duration, plain, shown, shown_value, size
from host.model.units import parse_size

WIRE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text())
def test_a_whole_text_is_shown_and_all_of_it_is_visible(text: str) -> None:
    assert all(char.isprintable() or char == "\n" for char in shown(text))
    assert "more characters" not in shown(text.replace("more characters", ""))


@given(WIRE)
def test_every_value_of_the_wire_has_a_json_text_and_a_visible_one(value: object) -> None:
    json.loads(json.dumps(plain(value), allow_nan=False))
    assert all(char.isprintable() or char == "\n" for char in shown_value(value))


@given(st.integers(1, 1 << 44))
def test_a_size_is_written_as_a_manifest_reads_it(number: int) -> None:
    assert parse_size(size(number)) == number


def test_a_duration_has_a_unit_of_its_size() -> None:
    assert [duration(seconds) for seconds in (0.0001, 0.0342, 1.5)] == ["0.1 ms", "34.2 ms", "1.50 s"]
