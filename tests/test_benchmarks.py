"""The benchmarks run, each with tiny counts: what they print is not judged here."""

from __future__ import annotations

import importlib
import resource
from typing import TYPE_CHECKING

import pytest
from walls_driver import need

import host
from tests.benchmarks import ratios

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

MODULES = (
    "start",
    "rules",
    "files",
    "call",
    "loop",
    "large",
    "pool",
    "death",
    "connect",
    "memory",
    "many",
    "peers",
    "messages",
    "sandboxes",
)
COUNTS = {
    "_ROUNDS": 1, "_WARM": 0, "_OPENS": 2, "_CONNECTS": 2, "_CALLS": 2,
    "_SLOW_CALLS": 1, "_SOME": 2, "_RULES": 3, "_MANY": 3, "_FEW": 2,
    "_SIZES": ((1, 1, "-", "-"),),
}  # fmt: skip


@pytest.fixture(params=MODULES)
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)  # which one of them raises
    module = importlib.import_module(f"tests.benchmarks.{request.param}")
    for name, count in COUNTS.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, count)
    yield module
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_each_gives_rows_of_four_texts(benchmark: ModuleType) -> None:
    try:
        rows = list(benchmark.rows(1))
    except host.LockdownUnavailable as error:
        need(holds=False, what=str(error))
    assert rows
    assert all(len(row) == 4 and all(type(text) is str for text in row) for row in rows)


def test_a_peer_that_is_not_there_has_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = importlib.import_module("tests.benchmarks.peers")
    monkeypatch.setattr(peers.shutil, "which", lambda _name: None)
    assert [row[3] for row in peers.rows(1)] == ["not installed", "not installed"]


def test_the_quietest_run_is_shown_with_its_own_medians() -> None:
    """Not the one with the best ratio, which is often one in which the other side was held up."""
    runs = [{"a": 0.004, "b": 0.004}, {"a": 0.003, "b": 0.002}]
    assert ratios.ratio("what", runs, "a", "b", "≤ 2") == ("what", "1.50", "≤ 2", "3.0 : 2.0 ms")


def test_a_difference_is_that_of_rounds() -> None:
    """A burst of other work lasts some rounds, and lifts both sides of each."""
    run = ratios.medians({"a": [0.002, 0.009, 0.010], "b": [0.001, 0.008, 0.001]}, [("a", "b")])
    assert ratios.difference("what", [run], "a", "b", "-") == ("what", "+1.00 ms", "-", "9.0 : 1.0 ms")
