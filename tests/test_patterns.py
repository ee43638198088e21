"""Patterns are sets: meeting is intersection, containing is inclusion, and equal sets are equal values."""

import copy
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker._patterns import Pattern, merge_ports, ports_text

texts = st.text("ab", max_size=3)
ranges = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (min(pair), max(pair))), min_size=1)
ports = st.none() | ranges.map(merge_ports)
patterns = st.builds(Pattern, texts, st.booleans(), ports)
subjects = st.tuples(st.text("ab", max_size=4), st.none() | st.integers(0, 9))


@given(patterns, patterns, subjects)
def test_two_patterns_meet_in_exactly_what_both_match(one, other, subject):
    met = one.meet(other)
    assert (met is not None and met.matches(*subject)) == (one.matches(*subject) and other.matches(*subject))
    assert met == other.meet(one)


@given(patterns, patterns, subjects)
def test_a_pattern_matches_whatever_a_contained_one_matches(outer, inner, subject):
    if outer.contains(inner) and inner.matches(*subject):
        assert outer.matches(*subject)


@given(patterns)
def test_a_pattern_contains_itself_and_is_contained_in_the_widest(pattern):
    assert pattern.contains(pattern)
    assert Pattern("").contains(pattern)


@given(ranges)
def test_merged_ports_are_the_same_ports_with_gaps_between_the_ranges(raw):
    merged = merge_ports(raw)
    assert {port for low, high in merged for port in range(low, high + 1)} == {
        port for low, high in raw for port in range(low, high + 1)
    }
    assert all(high + 1 < low for (_, high), (low, _) in itertools.pairwise(merged))


def test_ports_are_written_as_a_rule_writes_them():
    assert ports_text(((443, 443), (8000, 8010))) == "443,8000-8010"


def test_a_pattern_is_an_immutable_value():
    pattern = Pattern("a", ports=((1, 2),))
    with pytest.raises(AttributeError):
        pattern.stem = "b"
    with pytest.raises(AttributeError):
        del pattern.stem
    assert pickle.loads(pickle.dumps(pattern)) == copy.deepcopy(pattern) == pattern
    assert len({pattern, Pattern("a", ports=((1, 2),))}) == 1
    assert pattern != "a"
