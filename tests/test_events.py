"""Promises of the records: frozen, readable both ways, and in the audit log exactly what its format says."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

import pytest

from host.model.events import (
    CallName,
    Event,
    PermissionDecision,
    PermissionName,
    PluginFailed,
    PluginName,
    WorkerExited,
    WorkerPid,
    WorkerStarted,
)

PLUGIN: Final = PluginName("csv-stats", "1.4.0")
PID: Final = WorkerPid(4711)
DECISION: Final = PermissionDecision(
    7, 1700000000.5, PLUGIN, PID, "deny", "worker", "audit_hook", CallName(3, "render"),
    PermissionName("fs.read", "/etc/shadow"), "no-rule", 'fs.read = ["/etc/shadow"]', 2,
)  # fmt: skip
EVENTS: Final[tuple[Event, ...]] = (
    DECISION,
    WorkerStarted(1, 1700000000.0, PLUGIN, PID, "confined", 0.07),
    WorkerExited(2, 1700000001.0, PLUGIN, PID, None, 9, "timeout"),
    PluginFailed(3, 1700000002.0, PLUGIN, PID, "render", "PluginTimeout"),
)


def test_the_line_of_a_decision_is_the_documented_one_and_nothing_more() -> None:
    assert DECISION.line() == {
        "v": 1,
        "seq": 7,
        "ts": 1700000000.5,
        "event": "permission.decision",
        "decision": "deny",
        "origin": "worker",
        "layer": "audit_hook",
        "plugin": {"name": "csv-stats", "version": "1.4.0"},
        "worker": {"pid": 4711},
        "call": {"id": 3, "hook": "render"},
        "permission": {"kind": "fs.read", "target": "/etc/shadow"},
        "reason": "no-rule",
        "count": 2,
    }


def test_the_other_events_have_the_documented_names() -> None:
    assert [event.line()["event"] for event in EVENTS[1:]] == ["worker.started", "worker.exited", "plugin.failed"]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_every_line_begins_with_version_number_time_and_name_and_is_plain_data(event: Event) -> None:
    line = event.line()
    assert list(line)[:4] == ["v", "seq", "ts", "event"]
    assert json.loads(json.dumps(line)) == line


def _both_ways(record: Any) -> None:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        assert record[field.name] is value or record[field.name] == value
        if dataclasses.is_dataclass(value):
            _both_ways(value)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_a_record_reads_like_the_json_it_becomes(event: Event) -> None:
    _both_ways(event)
    assert (event["v"], event["event"], event["plugin"]["name"]) == (1, event.event, "csv-stats")


@pytest.mark.parametrize("key", ["nothing", "_fields", "__class__", "__getitem__x", ""])
def test_a_key_that_is_no_field_is_a_key_error(key: str) -> None:
    with pytest.raises(KeyError):
        DECISION[key]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_records_are_frozen_and_slotted(event: Event) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.seq = 0  # type: ignore[misc]
    assert not hasattr(event, "__dict__")
    assert hash(event) == hash(dataclasses.replace(event))
