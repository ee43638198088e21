"""`plughold call`: one call, told to a person or as one JSON document, with the exit status of what happened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from cli_driver import EVIL, EVIL_SHOWN, INVISIBLE, Ran, plughold
from until import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Plugins

KEYS = {"result", "denials", "duration_s", "tier", "error"}
ERROR_KEYS = {"type", "message", "permission", "target", "layer"}

SOURCE = f"""
import os, time

@hookimpl
def echo(value=None, other=None): return [value, other]

@hookimpl
def text(): return "plain " + {EVIL!r}

@hookimpl
def odd(): return [b"\\xff", float("nan"), float("-inf"), {{"ü": "\\u202e"}}]

@hookimpl
def fail(): raise ValueError("no " + {EVIL!r})

@hookimpl
def fail_its_own_way():
    class Mine(Exception): pass
    raise Mine("own")

@hookimpl
def read(path):
    with open(path) as stream: return stream.read()

@hookimpl
def try_to_read(path):
    for _ in range(2):
        try: open(path)
        except OSError: pass
    return "went on"

@hookimpl
def die(): os.abort()

@hookimpl
def hang(): time.sleep(60)

@hookimpl
def eat(): return len([b"x" * (1 << 20) for _ in range(256)])
"""


@pytest.fixture
def manifest(plugin_from: Plugins) -> Path:
    return plugin_from.manifest(SOURCE, limits={"memory": "64 MiB", "call_timeout": "2 s"})


def call(manifest: Path, *arguments: object, stdin: str = "", **variables: str) -> Ran:
    return plughold("call", manifest, *arguments, "--grants", "requested", stdin=stdin, **variables)


def call_json(manifest: Path, *arguments: object, **more: str) -> tuple[int, dict[str, Any]]:
    ran = call(manifest, *arguments, "--json", **more)
    assert set(ran.document) == KEYS
    if ran.document["error"] is not None:
        assert set(ran.document["error"]) >= ERROR_KEYS
    return ran.status, ran.document


def test_a_result_comes_as_one_document(manifest: Path) -> None:
    status, found = call_json(manifest, "echo", "value=[1, null]", "other=/srv/in")
    assert status == 0
    assert found["result"] == [[1, None], "/srv/in"]
    assert (found["denials"], found["error"]) == ([], None)
    assert found["tier"] in ("walled", "confined")
    assert 0 < found["duration_s"] < PATIENCE


def test_a_result_comes_as_json_for_a_person(manifest: Path) -> None:
    ran = call(manifest, "echo", "value=1", 'other="1"')
    assert (ran.status, ran.err) == (0, "")
    assert json.loads(ran.out) == [1, "1"]


def test_a_text_comes_plain_and_made_visible(manifest: Path) -> None:
    ran = call(manifest, "text")
    assert ran.out == f"plain {EVIL_SHOWN}\n"


def test_what_json_has_no_words_for_is_told_all_the_same(manifest: Path) -> None:
    _, found = call_json(manifest, "odd")
    assert found["result"] == [{"base64": "/w=="}, "NaN", "-Infinity", {"ü": "\u202e"}]
    assert not INVISIBLE.search(call(manifest, "odd").out)


def test_what_is_no_json_is_a_text(manifest: Path) -> None:
    _, found = call_json(manifest, "echo", "value=NaN", "other=a=b")
    assert found["result"] == ["NaN", "a=b"]


def test_arguments_come_as_an_object_or_on_stdin(manifest: Path) -> None:
    assert call_json(manifest, "echo", "--args", '{"value": {"a": 1}}')[1]["result"] == [{"a": 1}, None]
    assert call_json(manifest, "echo", "other=2", "--args", "-", stdin='{"value": 1}')[1]["result"] == [1, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["value"],
        ["1x=2"],
        ["value=1", "value=2"],
        ["--args", "[1]"],
        ["--args", "{"],
        ["value=1", "--args", '{"value": 2}'],
    ],
)
def test_arguments_that_are_none_are_a_usage_error(manifest: Path, arguments: list[str]) -> None:
    status, found = call_json(manifest, "echo", *arguments)
    assert (status, found["error"]["type"], found["tier"]) == (2, "UsageError", None)


def test_an_unknown_hook_is_a_usage_error_that_names_the_hooks(manifest: Path) -> None:
    ran = call(manifest, "nope")
    assert ran.status == 2
    assert "echo, fail" in ran.err


def test_without_a_grant_nothing_starts(manifest: Path) -> None:
    ran = plughold("call", manifest, "echo", "--json")
    assert ran.status == 3
    assert ran.document["error"]["type"] == "Pending"
    assert ran.document["duration_s"] is None


def test_a_bad_manifest_is_2_and_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("schema = 2\n")
    status, found = call_json(file, "echo")
    assert (status, found["error"]["type"], found["error"]["key"]) == (2, "ManifestError", "schema")


def test_a_builtin_that_the_plugin_raises_is_11_and_visible(manifest: Path) -> None:
    ran = call(manifest, "fail")
    assert (ran.status, ran.out) == (11, "")
    assert f"ValueError: no {EVIL_SHOWN}" in ran.err
    assert not INVISIBLE.search(ran.err)


def test_an_exception_of_its_own_is_11_with_its_remote_type(manifest: Path) -> None:
    status, found = call_json(manifest, "fail_its_own_way")
    assert (status, found["error"]["type"]) == (11, "PluginError")
    assert found["error"]["remote_type"].endswith("Mine")


def test_a_refusal_is_9_and_says_what_by_which_layer_by_which_rule_and_what_next(manifest: Path) -> None:
    ran = call(manifest, "read", "path=/etc/passwd")
    assert (ran.status, ran.out) == (9, "")
    assert [line.split()[0] for line in ran.err.splitlines()] == ["plughold:", "plugin", "layer", "rule", "next"]
    for words in ("fs.read of /etc/passwd", "audit_hook", "no rule", 'fs.read = ["/etc/passwd"]'):
        assert words in ran.err


def test_a_refusal_is_in_the_document_as_the_error_and_as_a_denial(manifest: Path) -> None:
    status, found = call_json(manifest, "read", "path=/etc/passwd")
    error = found["error"]
    assert status == 9
    assert (error["type"], error["permission"], error["target"], error["layer"]) == (
        "PermissionDenied", "fs.read", "/etc/passwd", "audit_hook",
    )  # fmt: skip
    assert [denial["permission"] for denial in found["denials"]] == [{"kind": "fs.read", "target": "/etc/passwd"}]
    assert found["denials"][0]["event"] == "permission.decision"


def test_a_deny_rule_is_named_as_what_refused_and_no_line_is_proposed(plugin_from: Plugins) -> None:
    file = plugin_from.manifest(SOURCE, permissions={"fs.read": ["/etc"]}, deny={"fs.read": ["/etc/passwd"]})
    ran = call(file, "read", "path=/etc/passwd")
    assert ran.status == 9
    assert "rule   a deny rule covers it" in ran.err
    assert "fs.read = [" not in ran.err


def test_a_refusal_that_the_plugin_swallowed_is_a_note(manifest: Path) -> None:
    ran = call(manifest, "try_to_read", "path=/etc/passwd")
    assert (ran.status, ran.out) == (0, "went on\n")
    assert ran.err.startswith("note: refused fs.read of /etc/passwd 2 times\n")


@pytest.mark.parametrize(
    ("hook", "status", "kind"),
    [("die", 12, "PluginCrashed"), ("hang", 13, "PluginTimeout"), ("eat", 14, "ResourceLimitExceeded")],
)
def test_how_a_call_ends_is_the_exit_status(manifest: Path, hook: str, status: int, kind: str) -> None:
    ended, found = call_json(manifest, hook)
    assert (ended, found["error"]["type"]) == (status, kind)


def test_a_tier_below_the_minimum_is_8_and_points_to_doctor(manifest: Path) -> None:
    ran = call(manifest, "text", "--tier", "hooked")
    assert ran.status == 8
    assert "plughold doctor" in ran.err


def test_a_lower_tier_needs_to_be_asked_for(manifest: Path) -> None:
    status, found = call_json(manifest, "echo", "--tier", "hooked", "--minimum-tier", "hooked")
    assert (status, found["tier"]) == (0, "hooked")


def test_audit_and_data_go_where_they_are_told_to(plugin_from: Plugins, tmp_path: Path) -> None:
    file = plugin_from.manifest(
        "@hookimpl\ndef write(path): open(path, 'w').close()\n", permissions={"fs.write": ["${data}"]}
    )
    data, audit = tmp_path / "data", tmp_path / "audit.jsonl"
    status, _ = call_json(file, "write", f"path={data / 'plugin-1' / 'x'}", "--data", data, "--audit", audit)
    assert status == 0
    assert (data / "plugin-1" / "x").exists()
    assert [json.loads(line)["event"] for line in audit.read_text().splitlines()] == ["worker.started", "worker.exited"]


def test_an_audit_log_that_cannot_be_opened_is_10_and_nothing_starts(manifest: Path, tmp_path: Path) -> None:
    ran = call(manifest, "text", "--audit", tmp_path / "no" / "audit.jsonl")
    assert (ran.status, ran.out) == (10, "")
    assert "audit log" in ran.err


def test_debug_shows_the_traceback_and_nothing_else_does(manifest: Path) -> None:
    assert "Traceback" not in call(manifest, "nope").err
    assert "Traceback" in call(manifest, "nope", "--debug").err
    assert "Traceback" in call(manifest, "nope", PLUGHOLD_DEBUG="1").err
