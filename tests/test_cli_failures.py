"""Each failure has one exit status, one record and one explanation."""

from __future__ import annotations

import click
import pytest

import host
from host.cli import failures


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError("x"), 1),
        (click.UsageError("x"), 2),
        (host.ManifestError("x"), 2),
        (host.SerializationError("x"), 2),
        (host.Pending("x"), 3),
        (host.Drift("x"), 4),
        (host.Escalation("x"), 5),
        (host.CeilingExceeded("x"), 6),
        (host.Expired("x"), 7),
        (host.LockdownUnavailable("x"), 8),
        (host.PermissionDenied("x"), 9),
        (failures.AuditBroken("x"), 10),
        (host.PluginError("x"), 11),
        (failures.PluginRaised(ValueError("x")), 11),
        (host.PluginStartError("x"), 12),
        (host.PluginCrashed("x"), 12),
        (host.PluginQuarantined("x"), 12),
        (host.PluginTimeout("x"), 13),
        (host.ResourceLimitExceeded("x"), 14),
        (host.ProtocolViolation("x"), 15),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_exit_status_and_the_record_of_each_error(error: BaseException, status: int) -> None:
    assert failures.status_of(error) == status
    record = failures.record(error)
    assert list(record)[:5] == ["type", "message", "permission", "target", "layer"]
    assert failures.explain(error).startswith("plughold: ")


def test_a_builtin_from_the_plugin_is_recorded_as_itself() -> None:
    assert failures.record(failures.PluginRaised(ValueError("x")))["type"] == "ValueError"


def test_an_unexpected_error_is_one_line() -> None:
    assert failures.explain(RuntimeError("a\nb")).count("\n") == 0


def test_what_a_worker_printed_last_is_told() -> None:
    error = host.PluginCrashed("died", stderr_tail="\n".join(f"line {number}" for number in range(100)))
    told = failures.explain(error)
    assert "| line 99" in told
    assert "line 89\n" not in told


def test_a_line_of_the_manifest_is_proposed_only_where_there_is_one() -> None:
    assert "under [permissions]" in failures.next_step("env", 'env = ["X"]')
    assert failures.next_step("run", "run can't be granted in this version.") == "run can't be granted in this version."
