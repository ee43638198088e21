"""Promises of denials: a refusal arrives as PermissionDenied, stands in the records, and in the audit log as agreed."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest
from until import until

import host
from host.model.events import PermissionDecision

if TYPE_CHECKING:
    from pathlib import Path

SOURCE: Final = """
import os, threading
@hookimpl
def read(path):
    with open(path) as file: return file.read()
@hookimpl
def write(path): open(path, "w").close()
@hookimpl
def swallow(paths):
    refused = 0
    for path in paths:
        try: open(path).close()
        except PermissionError: refused += 1
    return refused
@hookimpl
def fields(path):
    try: open(path)
    except PermissionError as e:
        return [type(e).__name__, e.errno, e.permission, e.target, e.code, e.hint, e.filename]
@hookimpl
def own(): raise PermissionError(13, "my own affair", "/srv/x/y")
@hookimpl
def other(): raise PermissionError("without a name")
@hookimpl
def later(path):
    def look():
        try: open(path)
        except PermissionError: pass
    threading.Thread(target=look).start()
@hookimpl
def answer(): return 42
@hookimpl
def exhaust(text): raise MemoryError(text)
"""


def targets(records: tuple[PermissionDecision, ...]) -> list[tuple[str, str, int]]:
    return [(record.permission.kind, record.permission.target, record.count) for record in records]


def test_an_uncaught_refusal_is_permission_denied_with_the_line_that_would_request_it(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    with pytest.raises(host.PermissionDenied) as caught:
        plugin.call("read", path="/etc/hostname")
    error = caught.value
    assert isinstance(error, PermissionError)
    assert (error.permission, error.target, error.hint) == ("fs.read", "/etc/hostname", 'fs.read = ["/etc/hostname"]')
    assert (error.plugin, error.hook, error.errno, error.filename) == (plugin.name, "read", 13, "/etc/hostname")
    assert error.layer == "audit_hook"
    assert str(error.hint) in str(error)
    assert "in read" in error.__notes__[0]


def test_inside_the_worker_the_same_refusal_has_its_fields_and_can_be_handled(plugin_from: Any) -> None:
    found = plugin_from(SOURCE).call("fields", path="/etc/hostname")
    hint = 'fs.read = ["/etc/hostname"]'
    assert found == ["PermissionDenied", 13, "fs.read", "/etc/hostname", "ERR_ACCESS_DENIED", hint, "/etc/hostname"]


def test_a_refusal_stands_in_the_records_as_the_workers_claim_about_that_call(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    plugin.call("answer")
    plugin.call("swallow", paths=["/etc/hostname"])
    (record,) = plugin.denials()
    assert (record.decision, record.origin, record.layer, record.reason) == ("deny", "worker", "audit_hook", "no-rule")
    assert record.plugin.name == record["plugin"]["name"] == plugin.name
    assert (record.worker.pid, record.call.id, record.call.hook) == (plugin.pid, 2, "swallow")
    assert record["permission"]["target"] == record.permission.target == "/etc/hostname"


def test_repeats_are_merged_into_a_count(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    plugin.call("swallow", paths=["/etc/a", "/etc/b", "/etc/a"])
    plugin.call("swallow", paths=["/etc/a"])
    assert targets(plugin.denials()) == [("fs.read", "/etc/a", 3), ("fs.read", "/etc/b", 1)]


def test_a_flood_of_refusals_is_capped_with_a_counter(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    for start in range(0, 800, 100):
        assert plugin.call("swallow", paths=[f"/etc/{number}" for number in range(start, start + 100)]) == 100
    records = plugin.denials()
    assert len(records) == 501
    assert records[-1].count == 300


def test_a_deny_rule_is_told_as_such_and_no_line_is_advised_against_it(plugin_from: Any, tmp_path: Path) -> None:
    plugin = plugin_from(
        SOURCE, permissions={"fs.read": [str(tmp_path)]}, deny={"fs.read": [str(tmp_path / "private")]}
    )
    with pytest.raises(host.PermissionDenied) as caught:
        plugin.call("read", path=str(tmp_path / "private" / "key"))
    assert "fs.read = " not in str(caught.value.hint)
    assert plugin.denials()[0].reason == "deny-rule"


def test_a_permission_error_for_a_path_that_no_rule_allows_is_judged_again(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    with pytest.raises(host.PermissionDenied) as caught:
        plugin.call("own")
    assert (caught.value.layer, caught.value.target) == ("landlock", "/srv/x/y")
    (record,) = plugin.denials()
    assert (record.layer, record.origin) == ("landlock", "worker")


def test_a_permission_error_for_an_allowed_path_or_without_one_is_the_plugins_own(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions={"fs.read": ["/srv/x"], "fs.write": ["/srv/x"]})
    for hook in ("own", "other"):
        with pytest.raises(PermissionError) as caught:
            plugin.call(hook)
        assert not isinstance(caught.value, host.HostError)
    assert plugin.denials() == ()


def test_what_a_thread_of_the_plugins_does_between_calls_is_recorded(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    plugin.call("later", path="/etc/hostname")
    until(plugin.denials)
    assert plugin.denials()[0].permission.target == "/etc/hostname"


def test_records_survive_the_worker(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    plugin.call("swallow", paths=["/etc/a"])
    plugin.restart()
    plugin.call("swallow", paths=["/etc/b"])
    plugin.close()
    assert [target for _, target, _ in targets(plugin.denials())] == ["/etc/a", "/etc/b"]


def test_on_event_gets_each_refusal_once_and_its_count_in_the_end(plugin_from: Any) -> None:
    events: list[Any] = []
    plugin = plugin_from(SOURCE, on_event=events.append)
    plugin.call("swallow", paths=["/etc/a", "/etc/a", "/etc/b"])
    first = tuple(event for event in events if isinstance(event, PermissionDecision))
    assert targets(first) == [("fs.read", "/etc/a", 1), ("fs.read", "/etc/b", 1)]
    plugin.close()
    plugin.close()
    last = tuple(event for event in events if isinstance(event, PermissionDecision))[2:]
    assert targets(last) == [("fs.read", "/etc/a", 2)]
    assert last[0].seq > first[-1].seq


# --- the audit log


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_audit_log_has_exactly_the_documented_lines(plugin_from: Any, tmp_path: Path) -> None:
    plugin = plugin_from(SOURCE, audit=tmp_path / "audit.jsonl", plugin={"name": "csv-stats", "version": "1.4.0"})
    pid = plugin.pid
    plugin.call("swallow", paths=["/etc/a", "/etc/a"])
    plugin.close()
    started, denied, exited, merged = lines(tmp_path / "audit.jsonl")
    common = {"v": 1, "plugin": {"name": "csv-stats", "version": "1.4.0"}, "worker": {"pid": pid}}
    decision = {
        "event": "permission.decision", "decision": "deny", "origin": "worker", "layer": "audit_hook",
        "call": {"id": 1, "hook": "swallow"}, "permission": {"kind": "fs.read", "target": "/etc/a"},
        "reason": "no-rule",
    }  # fmt: skip
    assert denied == common | decision | {"seq": 2, "ts": denied["ts"], "count": 1}
    assert merged == common | decision | {"seq": 4, "ts": merged["ts"], "count": 2}
    assert (started["event"], started["seq"], started["tier"]) == ("worker.started", 1, plugin.tier)
    assert (exited["event"], exited["seq"], exited["exit_code"], exited["signal"]) == ("worker.exited", 3, 0, None)
    assert started.items() >= common.items()
    assert exited.items() >= common.items()
    assert started["ts"] <= denied["ts"] <= exited["ts"] <= merged["ts"]


def test_the_audit_log_never_holds_arguments_results_or_contents(
    plugin_from: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYAPP_TOKEN", "value-of-a-variable")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("content-of-a-file")
    plugin = plugin_from(
        SOURCE, audit=tmp_path / "audit.jsonl", permissions={"fs.read": [str(tmp_path / "in")], "env": ["MYAPP_TOKEN"]}
    )
    plugin.call("read", path=str(tmp_path / "in" / "file"))
    with pytest.raises(host.PermissionDenied):
        plugin.call("read", path="/etc/hostname")
    with pytest.raises(TypeError):
        plugin.call("read", secret="an-argument")
    assert plugin.exhaust(text="an-argument") is None
    plugin.close()
    text = (tmp_path / "audit.jsonl").read_text()
    assert not re.search("value-of-a-variable|content-of-a-file|an-argument", text)


def test_a_flood_is_capped_in_the_audit_log_too(plugin_from: Any, tmp_path: Path) -> None:
    plugin = plugin_from(SOURCE, audit=tmp_path / "audit.jsonl")
    for start in range(0, 800, 100):
        plugin.call("swallow", paths=[f"/etc/{number}" for number in range(start, start + 100)])
    plugin.close()
    decisions = [line for line in lines(tmp_path / "audit.jsonl") if line["event"] == "permission.decision"]
    assert len(decisions) == 502
    assert [line["count"] for line in decisions[-2:]] == [1, 300]


def test_what_cannot_be_audited_does_not_run_and_nothing_hangs_or_leaks(plugin_from: Any) -> None:
    """/dev/full takes no byte, as a full disk: full(4)."""
    before = set(psutil.Process().children(recursive=True))
    plugin = plugin_from(SOURCE, audit="/dev/full")
    with pytest.raises(host.HostError, match="nothing runs unaudited"):
        plugin.call("answer")
    children = set(psutil.Process().children(recursive=True)) - before
    assert children
    plugin._owner.close()
    assert not any(child.is_running() for child in children)


def test_an_audit_log_that_cannot_be_opened_is_an_error_before_anything_starts(
    plugin_from: Any, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        plugin_from.host(audit=tmp_path / "absent" / "audit.jsonl")


def test_two_hosts_may_share_one_audit_log(plugin_from: Any, tmp_path: Path) -> None:
    for _ in range(2):
        plugin_from(SOURCE, audit=tmp_path / "audit.jsonl").call("answer")
    for made in plugin_from.hosts:
        made.close()
    assert [line["event"] for line in lines(tmp_path / "audit.jsonl")] == [
        "worker.started", "worker.started", "worker.exited", "worker.exited",
    ]  # fmt: skip
    assert os.path.exists(tmp_path / "audit.jsonl")
