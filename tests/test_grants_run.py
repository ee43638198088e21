"""Grants of commands: the path, and the arguments that request, grant and ceiling each allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from host.errors import CeilingExceeded, GrantError, ManifestError, Pending
from host.model.grants import Effective, Grant, effective, narrowed, requested
from host.model.manifest import load_manifest
from host.model.plan import command_policy

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'schema = 1\n[plugin]\nname = "p"\nversion = "1"\nproject = "t"\nentry = "p"\n[permissions]\n'
GIT = "/usr/bin/git"


def decided(folder: Path, requests: str, grant: Grant | None = None, ceiling: Grant | None = None) -> Effective:
    (folder / "m.toml").write_text(f"{HEAD}run = {requests}\n")
    manifest = load_manifest(folder / "m.toml")
    return effective(manifest, requested(manifest, {}, ()), grant, ceiling, {}, lambda path: path)


def test_one_program_may_be_requested_with_several_lists_of_arguments(tmp_path: Path) -> None:
    rules = decided(tmp_path, f'[{{target = "{GIT}", argv = ["status", "**"]}}, {{target = "{GIT}", argv = []}}]')
    assert [rule.text for rule in rules.allow["run"]] == [GIT]
    assert rules.commands == (((GIT, ("status", "**")), (GIT, ())),)


@pytest.mark.parametrize(
    "entry",
    [
        '{target = "/bin/a", argv = ["*x"]}',
        '{target = "/bin/a", argv = "x"}',
        '{target = "/bin/a", argv = ["**", "**"]}',
        '{target = "/bin/a", private = true}',
        '"/bin/a", "/bin/a"',
        '{target = "/bin/a", argv = ["x"]}, {target = "/bin/a", argv = ["x"]}',
    ],
)
def test_a_malformed_or_repeated_entry_is_a_manifest_error_at_its_key(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ManifestError, match=r"permissions\.run\[[01]\]"):
        decided(tmp_path, f"[{entry}]")


def test_a_deny_has_no_arguments(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(f'{HEAD}[permissions.deny]\nrun = [{{target = "/bin/a", argv = []}}]\n')
    with pytest.raises(ManifestError, match="unknown key"):
        load_manifest(tmp_path / "m.toml")


NARROW = f'[{{target = "{GIT}", argv = ["status", "*"]}}]'


@pytest.mark.parametrize(
    ("granted", "enough"),
    [
        (GIT, True),
        ("*", True),
        ({"target": GIT, "argv": ["status", "**"]}, True),
        ({"target": "*", "argv": ["status", "*"]}, True),
        ({"target": GIT, "argv": ["status"]}, False),
        ({"target": GIT, "argv": ["log", "**"]}, False),
        ("/usr/bin/sh", False),
    ],
)
def test_a_grant_and_a_ceiling_must_cover_the_arguments(tmp_path: Path, granted: Any, enough: bool) -> None:
    limit = Grant({"run": [granted]})
    if enough:
        assert decided(tmp_path, NARROW, limit, limit).allow["run"]
        return
    with pytest.raises(Pending):
        decided(tmp_path, NARROW, limit)
    with pytest.raises(CeilingExceeded):
        decided(tmp_path, NARROW, None, limit)


@pytest.mark.parametrize("target", [{"target": GIT, "argv": ["a*"]}, {"argv": []}, {"target": GIT, "arg": []}, 3])
def test_a_grant_that_is_no_command_is_a_grant_error(target: Any) -> None:
    with pytest.raises(GrantError):
        Grant({"run": [target]})


def test_the_keeper_gets_each_layer_and_the_limits(tmp_path: Path) -> None:
    grant = Grant({"run": ["*"], "deny": {"run": ["/bin/sh"]}}, limits={"threads": 5, "memory": 1000})
    policy = command_policy(decided(tmp_path, NARROW, grant))
    assert policy["layers"] == [[[GIT, None]], [[GIT, ["status", "*"]]], [["*", None]]]
    assert (policy["deny"], policy["processes"], policy["memory"], policy["cpu"]) == (["/bin/sh"], 5, 1000, 30.0)


def test_without_a_grant_or_after_a_drop_there_is_no_keeper(tmp_path: Path) -> None:
    rules = decided(tmp_path, NARROW)
    assert command_policy(narrowed(rules, [("run", GIT)])) == {}
    assert command_policy(decided(tmp_path, "[]")) == {}
