"""Promises of the denials: merged, capped, visible, and marked as the worker's claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.model.events import PluginName
from host.model.grants import Effective
from host.model.manifest import Limits
from host.service.denials import KINDS_OF_RECORD, OVERFLOW, Denials, advice, reason_for
from sandbox_worker.permissions import parse_rule

if TYPE_CHECKING:
    from host.model.events import PermissionDecision


class Book:
    """Denials, and what was told of them."""

    def __init__(self) -> None:
        self.told: list[PermissionDecision] = []
        self.numbers = iter(range(1, 1_000_000))
        self.denials = Denials(PluginName("p", "1"), self.told.append, lambda: (next(self.numbers), 0.5))

    def add(self, target: str = "/etc/shadow", kind: str = "fs.read", call: tuple[int, str] = (3, "render")) -> None:
        self.denials.add(kind, target, "no-rule", "audit_hook", 4711, call)


def test_a_denial_is_a_claim_of_the_worker_about_a_call_that_the_host_names() -> None:
    book = Book()
    book.add()
    (record,) = book.denials.all()
    assert (record.decision, record.origin, record.layer, record.reason) == ("deny", "worker", "audit_hook", "no-rule")
    assert (record.plugin.name, record.worker.pid, record.call.id, record.call.hook) == ("p", 4711, 3, "render")
    assert (record.permission.kind, record.permission.target, record.count) == ("fs.read", "/etc/shadow", 1)
    assert record.hint == 'fs.read = ["/etc/shadow"]'


def test_repeats_are_merged_and_told_once() -> None:
    book = Book()
    for call in range(1, 5):
        book.add(call=(call, "render"))
    book.add(call=(9, "other"))
    assert [(record.call.hook, record.count) for record in book.denials.all()] == [("render", 4), ("other", 1)]
    assert [(record.call.hook, record.count) for record in book.told] == [("render", 1), ("other", 1)]


def test_in_the_end_what_was_repeated_is_told_once_more_with_its_count_and_a_new_number() -> None:
    book = Book()
    for target in ("/a", "/b", "/a"):
        book.add(target)
    book.denials.tell_repeated()
    assert [(record.seq, record.permission.target, record.count) for record in book.told] == [
        (1, "/a", 1), (2, "/b", 1), (3, "/a", 2),
    ]  # fmt: skip


def test_a_flood_is_capped_and_counted() -> None:
    book = Book()
    for number in range(KINDS_OF_RECORD + 250):
        book.add(f"/{number}")
    records = book.denials.all()
    assert len(records) == len(book.told) == KINDS_OF_RECORD + 1
    assert records[-1].permission.target == OVERFLOW
    assert sum(record.count for record in records) == KINDS_OF_RECORD + 250


@given(st.text(max_size=300), st.text(max_size=2000))
def test_whatever_a_worker_claims_becomes_a_bounded_visible_record(kind: str, target: str) -> None:
    book = Book()
    book.add(target, kind)
    (record,) = book.denials.all()
    assert record.permission.target.isprintable()
    assert record.permission.kind.isprintable()
    assert len(record.permission.target) < 1100
    assert len(record.hint) < 5000


def test_no_line_is_advised_against_a_deny_rule() -> None:
    assert "fs.read = " not in advice("fs.read", "/etc/shadow", "deny-rule")


@pytest.mark.parametrize(
    ("target", "reason"),
    [("/srv/a", "deny-rule"), ("/etc", "no-rule"), ("/srv/b", "allow-rule"), ("relative", "no-rule")],
)
def test_the_reason_is_the_hosts_own(target: str, reason: str) -> None:
    rules = {"fs.read": (parse_rule("fs.read", "/srv"),)}, {"fs.read": (parse_rule("fs.read", "/srv/a"),)}
    assert reason_for("fs.read", target, Effective(*rules, Limits())) == reason


def test_a_kind_that_nobody_knows_has_no_rule() -> None:
    assert reason_for("launch missiles", "x", Effective({}, {}, Limits())) == "no-rule"
