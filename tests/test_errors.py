"""The tree of exceptions: shape, data, exit statuses, pickling."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import Any

import pytest

from host import errors
from host.errors import (
    GrantError,
    HostError,
    LockdownUnavailable,
    ManifestError,
    PermissionDenied,
    PluginError,
    PluginTimeout,
    ResourceLimitExceeded,
    SerializationError,
    WorkerError,
)

TREE = {
    "HostError": (Exception,),
    "ManifestError": (HostError, ValueError),
    "GrantError": (HostError,),
    "Pending": (GrantError,),
    "Drift": (GrantError,),
    "Escalation": (GrantError,),
    "Expired": (GrantError,),
    "CeilingExceeded": (GrantError,),
    "LockdownUnavailable": (HostError, OSError),
    "SerializationError": (HostError, TypeError),
    "PluginError": (HostError,),
    "WorkerError": (HostError,),
    "PluginStartError": (WorkerError,),
    "PluginCrashed": (WorkerError,),
    "PluginQuarantined": (WorkerError,),
    "ProtocolViolation": (WorkerError,),
    "PluginTimeout": (WorkerError, TimeoutError),
    "ResourceLimitExceeded": (WorkerError,),
    "PermissionDenied": (HostError, PermissionError),
}
STATUSES = {
    "HostError": 1,
    "ManifestError": 2,
    "GrantError": 3,
    "Pending": 3,
    "Drift": 4,
    "Escalation": 5,
    "CeilingExceeded": 6,
    "Expired": 7,
    "LockdownUnavailable": 8,
    "SerializationError": 2,
    "PluginError": 11,
    "WorkerError": 12,
    "PluginStartError": 12,
    "PluginCrashed": 12,
    "PluginQuarantined": 12,
    "ProtocolViolation": 15,
    "PluginTimeout": 13,
    "ResourceLimitExceeded": 14,
    "PermissionDenied": 9,
}
WHERE: dict[str, Any] = {"plugin": "csv-stats", "hook": "render"}
PROCESS: dict[str, Any] = {"pid": 7, "exit_code": None, "signal": 9, "stderr_tail": "tail"}
EXAMPLES = [
    HostError("text", **WHERE),
    ManifestError("text", path="a.toml", key="plugin.name", **WHERE),
    errors.Escalation("text", **WHERE),
    LockdownUnavailable("text", tier="confined", missing=("landlock", "seccomp"), **WHERE),
    SerializationError("text", **WHERE),
    PluginError("text", remote_type="csv_stats.Broken", **WHERE),
    WorkerError("text", **PROCESS, **WHERE),
    errors.PluginCrashed("text", **PROCESS, **WHERE),
    PluginTimeout("text", **PROCESS, **WHERE),
    ResourceLimitExceeded("text", limit="memory", **PROCESS, **WHERE),
    PermissionDenied(
        "text", permission="fs.read", target="/etc/passwd", hint='fs.read = ["/etc/passwd"]', layer="landlock", **WHERE
    ),
]
every_example = pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)


def _data(error: HostError) -> dict[str, object]:
    data = {name: getattr(error, name) for name in dir(error) if not name.startswith(("_", "with_", "add_", "char"))}
    return data | {"args": error.args, "text": str(error), "dict": vars(error)}


def test_the_module_holds_exactly_the_tree() -> None:
    public = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, HostError)}

    assert public == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_each_class_has_its_place_in_the_tree(name: str) -> None:
    assert getattr(errors, name).__bases__ == TREE[name]


@pytest.mark.parametrize("name", STATUSES)
def test_each_class_has_its_exit_status(name: str) -> None:
    assert getattr(errors, name).status == STATUSES[name]


@pytest.mark.parametrize("name", TREE)
def test_every_keyword_is_optional_and_the_text_is_the_message(name: str) -> None:
    error = getattr(errors, name)("what went wrong")

    assert str(error) == "what went wrong"
    assert (error.plugin, error.hook) == (None, None)


def test_data_is_given_by_keyword_only() -> None:
    with pytest.raises(TypeError):
        HostError("text", "csv-stats")  # type: ignore[call-arg]


@every_example
def test_every_error_carries_the_plugin_and_the_hook(error: HostError) -> None:
    assert (error.plugin, error.hook) == ("csv-stats", "render")


@every_example
def test_every_error_survives_pickling_with_all_its_data(error: HostError) -> None:
    restored = pickle.loads(pickle.dumps(error))

    assert type(restored) is type(error)
    assert _data(restored) == _data(error)


@every_example
def test_every_error_survives_copying_with_all_its_data(error: HostError) -> None:
    assert _data(copy.copy(error)) == _data(error)
    assert _data(copy.deepcopy(error)) == _data(error)


def test_notes_survive_pickling() -> None:
    error = PermissionDenied("text", permission="fs.read", target="/a")
    error.add_note("remote traceback")

    assert pickle.loads(pickle.dumps(error)).__notes__ == ["remote traceback"]


def test_a_denial_is_a_permission_error_of_the_path() -> None:
    error = PermissionDenied("denied", permission="fs.write", target="/etc/passwd")

    assert (error.errno, error.strerror, error.filename) == (errno.EACCES, "denied", "/etc/passwd")
    assert str(error) == "denied"


def test_a_denial_of_what_is_no_path_has_no_file_name() -> None:
    error = PermissionDenied("denied", permission="net.connect", target="example.com:443")

    assert (error.errno, error.filename) == (errno.EACCES, None)


def test_a_worker_errors_exit_code_is_the_process_and_not_the_command_line() -> None:
    error = WorkerError("died", exit_code=77)

    assert (error.exit_code, error.status) == (77, 12)


def test_missing_layers_are_a_tuple_even_when_there_are_none() -> None:
    assert LockdownUnavailable("text").missing == ()


def test_a_timeout_has_no_errno_of_its_own() -> None:
    error = PluginTimeout("took longer than 5 s", pid=7)

    assert (error.errno, error.pid) == (None, 7)
