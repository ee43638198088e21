"""`plughold can`: the verdict, its rule and its exit status; rows of cases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from cli_driver import EVIL, EVIL_SHOWN, INVISIBLE, plughold

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Plugins


@pytest.fixture
def manifest(plugin_from: Plugins) -> Path:
    return plugin_from.manifest(
        "", permissions={"fs.read": ["/srv/in"], "env": ["LANG"]}, deny={"fs.read": ["/srv/in/private"]}
    )


def test_allowed_is_0_and_names_the_rule(manifest: Path) -> None:
    ran = plughold("can", manifest, "fs.read", "/srv/in/a.csv", "--json")
    assert ran.status == 0
    assert ran.document == {
        "kind": "fs.read",
        "target": "/srv/in/a.csv",
        "verdict": "allow",
        "rule": "/srv/in",
        "key": "permissions.fs.read[0]",
        "reason": "allow-rule",
        "hint": None,
        "argv": None,
        "error": None,
    }


def test_denied_by_a_rule_is_9_and_proposes_no_line_that_cannot_work(manifest: Path) -> None:
    ran = plughold("can", manifest, "fs.read", "/srv/in/private/key")
    assert ran.status == 9
    assert 'permissions.deny.fs.read[0] = "/srv/in/private"' in ran.out
    assert "to allow it, add" not in ran.out


def test_not_requested_is_9_and_proposes_the_line(manifest: Path) -> None:
    ran = plughold("can", manifest, "env", "HOME")
    assert ran.status == 9
    assert 'env = ["HOME"]' in ran.out


@pytest.mark.parametrize(("kind", "target"), [("fs.read", "srv/in"), ("env", "A=B"), ("fs.read", "${nope}/x")])
def test_no_target_of_its_kind_is_2_and_says_what_is_legal(manifest: Path, kind: str, target: str) -> None:
    ran = plughold("can", manifest, kind, target, "--json")
    assert (ran.status, ran.document["verdict"]) == (2, "error")
    assert "legal is" in ran.document["error"]["message"]


@pytest.mark.parametrize("arguments", [(), ("m.toml",), ("m.toml", "fs.read"), ("m.toml", "fs.nope", "/x")])
def test_half_a_question_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert plughold("can", *arguments).status == 2


def test_the_target_is_made_visible(manifest: Path) -> None:
    ran = plughold("can", manifest, "fs.read", f"/srv/in/{EVIL}")
    assert f"/srv/in/{EVIL_SHOWN}" in ran.out
    assert not INVISIBLE.search(ran.out)


def test_cases_are_judged_line_by_line_from_a_file_and_from_stdin(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "kind": "fs.read", "allow": ["/srv"], "deny": [], "request": "/srv/x", "expect": "deny"},
        {"id": 2, "kind": "fs.read", "allow": ["/srv"], "deny": ["/srv/x"], "request": "/srv/x"},
        {"id": "c", "kind": "fs.read", "allow": ["srv"], "deny": [], "request": "/srv/x"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "junk\n"
    file = tmp_path / "cases.jsonl"
    file.write_text(text)
    for ran in (plughold("can", "--cases", file), plughold("can", "--cases", "-", "--json", stdin=text)):
        answers = [json.loads(line) for line in ran.out.splitlines()]
        assert ran.status == 0
        assert answers[:2] == [
            {"id": "a", "verdict": "allow", "rule": "/srv"},
            {"id": 2, "verdict": "deny", "rule": "/srv/x"},
        ]
        assert [(answer["id"], answer["verdict"], answer["rule"]) for answer in answers[2:]] == [
            ("c", "error", None),
            (None, "error", None),
        ]


def test_cases_that_cannot_be_read_are_a_usage_error(tmp_path: Path) -> None:
    assert plughold("can", "--cases", tmp_path / "none").status == 2
    assert plughold("can", "m.toml", "--cases", "-").status == 2
