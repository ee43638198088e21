"""A short storm and a short soak; `python -m tests.chaos` runs long ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.soak import levels
from tests.chaos.storm import Storm

if TYPE_CHECKING:
    from pathlib import Path

MEMORY: int = 4 << 20


@pytest.mark.parametrize("start", ["exec", "fork"])
def test_in_a_storm_every_call_ends_with_its_own_answer_or_an_error_that_says_why(tmp_path: Path, start: str) -> None:
    outcome = Storm(tmp_path, calls=400, plugins=5, seed=7, start=start).run()
    assert outcome.wrong == []
    assert outcome.ends["answered"] > 50
    assert outcome.kills > 5


@pytest.mark.parametrize("start", ["exec", "fork"])
def test_many_calls_cost_no_memory_no_thread_and_no_descriptor(tmp_path: Path, start: str) -> None:
    first, *_, last = levels(tmp_path, 10_000, start)
    assert (last.threads, last.descriptors, last.children) == (first.threads, first.descriptors, first.children)
    assert last.memory - first.memory < MEMORY
