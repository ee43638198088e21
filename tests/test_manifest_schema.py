"""The JSON Schema: generated from the loader's own definition, and of the same opinion."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import ManifestError
from host.model.manifest import load_manifest
from host.model.manifest_schema import DOCUMENT, LIMITS, json_schema
from host.model.mistakes import Mistake, illegal, join
from sandbox_worker.permissions import KINDS, SYS_NAMES

FILE = Path(__file__).parent.parent / "manifests" / "plughold.schema.json"
DOCUMENTED = """
schema = 1
[plugin]
name = "csv-stats"
version = "1.4.0"
project = "reports"
entry = "csv_stats"
path = "."
environment = "isolated"
description = "Column statistics of CSV files"

[permissions]
fs.read     = [{ target = "/srv/in", reason = "input CSVs", optional = true }]
fs.write    = ["${data}"]
net.connect = ["api.example.com:443", "*.cdn.example.com:443,8443", "10.0.0.0/8:5432", "[2001:db8::]/32:443"]
net.listen  = [{ target = "127.0.0.1:8000-8010", private = true }]
env         = ["LANG", "MYAPP_*"]
run         = ["/usr/bin/git"]
sys         = ["hostname", "cpus"]
native      = ["numpy"]
host        = ["storage.get"]
[permissions.deny]
fs.read = ["/srv/in/private"]

[limits]
memory = "256 MiB"
call_timeout = "5 s"
start_timeout = "10 s"
cpu_time = "30 s"
open_files = 64
file_size = "64 MiB"
write_size = "256 MiB"
write_files = 5000
threads = 32
result_size = "16 MiB"
"""
HEAD = 'schema = 1\n[plugin]\nname = "a"\nversion = "1"\nproject = "p"\n'
ENTRY = HEAD + 'entry = "m"\n'
BROKEN = {
    "no plugin": "schema = 1\n",
    "another schema": ENTRY.replace("schema = 1", "schema = 2"),
    "a boolean as schema": ENTRY.replace("schema = 1", "schema = true"),
    "an unknown key": f"{ENTRY}[permission]\n",
    "an unknown kind": f"{ENTRY}[permissions]\nfs.exec = []\n",
    "a bad name": ENTRY.replace('"a"', '"A"'),
    "a bad version": ENTRY.replace('"1"', '"one"'),
    "an empty project": ENTRY.replace('"p"', '""'),
    "a bad entry": ENTRY.replace('"m"', '"m.py:"'),
    "no entry and no functions": HEAD,
    "an entry and functions": f'{ENTRY}[functions]\nf = "m:f"\n',
    "an empty table of functions": f"{HEAD}[functions]\n",
    "a function under a private name": f'{HEAD}[functions]\n_f = "m:f"\n',
    "a function that names no callable": f'{HEAD}[functions]\nf = "m"\n',
    "an unknown environment": f'{ENTRY}environment = "venv"\n',
    "a relative path": f'{ENTRY}[permissions]\nfs.read = ["a"]\n',
    "an unknown variable": f'{ENTRY}[permissions]\nfs.read = ["${{x}}/a"]\n',
    "an empty item": f'{ENTRY}[permissions]\nenv = [""]\n',
    "a duplicate": f'{ENTRY}[permissions]\nenv = ["A", "A"]\n',
    "a star beside others": f'{ENTRY}[permissions]\nenv = ["A", {{ target = "*" }}]\n',
    "a wildcard in a path": f'{ENTRY}[permissions]\nfs.read = ["/a/*"]\n',
    "an unknown name of the system": f'{ENTRY}[permissions.deny]\nsys = ["kernel"]\n',
    "an entry without a target": f"{ENTRY}[permissions]\nenv = [{{ optional = true }}]\n",
    "private outside the network": f'{ENTRY}[permissions]\nenv = [{{ target = "A", private = true }}]\n',
    "a bad unit": f'{ENTRY}[limits]\nmemory = "1 MB"\n',
    "a duration without a unit": f"{ENTRY}[limits]\ncpu_time = 5\n",
    "a limit of nothing": f"{ENTRY}[limits]\nthreads = 0\n",
}


@pytest.fixture(scope="module")
def validator() -> Any:
    try:
        import jsonschema
    except ImportError:
        if os.environ.get("PLUGHOLD_MUST_WORK") == "1":
            raise
        pytest.skip("jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


def test_the_file_is_what_the_definition_generates() -> None:
    """To write it anew: `json.dumps(json_schema(), indent=2, ensure_ascii=False)` and a newline."""
    assert FILE.read_text("utf-8") == json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def test_the_documented_manifest_is_valid(validator: Any) -> None:
    validator.validate(tomllib.loads(DOCUMENTED))


@pytest.mark.parametrize("name", BROKEN)
def test_what_the_loader_refuses_for_its_shape_the_schema_refuses_too(
    validator: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / "plugin.toml").write_text(BROKEN[name])

    with pytest.raises(ManifestError):
        load_manifest(tmp_path / "plugin.toml")
    assert not validator.is_valid(tomllib.loads(BROKEN[name]))


def test_every_kind_of_the_rules_can_be_requested_and_denied() -> None:
    permissions = json_schema()["properties"]["permissions"]["properties"]
    for kind in KINDS:
        group, _, member = kind.partition(".")
        for table in (permissions, permissions["deny"]["properties"]):
            found = table[group]["properties"][member] if member else table[group]

            assert found["type"] == "array"


def test_the_names_of_the_system_are_listed() -> None:
    items = json_schema()["properties"]["permissions"]["properties"]["sys"]["items"]["anyOf"]

    assert items[0]["enum"] == ["*", *SYS_NAMES]


def nodes(schema: Any) -> list[dict[str, Any]]:
    """All objects below `schema` that describe a value."""
    return [schema, *(found for node in schema.get("properties", {}).values() for found in nodes(node))]


def test_every_key_has_a_description_and_no_table_takes_unknown_keys() -> None:
    for node in nodes(json_schema()):
        assert node["description"].endswith(".")
        assert node.get("type") != "object" or "additionalProperties" in node


def test_every_limit_shows_its_default() -> None:
    limits = json_schema()["properties"]["limits"]["properties"]

    assert {name: node["default"] for name, node in limits.items()} == {n: node.default for n, node in LIMITS.items()}
    assert all(LIMITS[name].check(name, node["default"]) for name, node in limits.items())


def test_a_checked_document_holds_every_key() -> None:
    checked = DOCUMENT.check("", tomllib.loads(ENTRY))

    assert set(checked) == set(DOCUMENT.fields)
    assert checked["permissions"]["deny"]["fs"] == {"read": [], "write": []}
    assert checked["limits"]["memory"] == 256 << 20


def test_an_entry_written_as_text_is_checked_into_a_table() -> None:
    checked = DOCUMENT.check("", tomllib.loads(ENTRY + '[permissions]\nnet.connect = ["example.com"]\n'))

    assert checked["permissions"]["net"]["connect"] == [
        {"target": "example.com", "reason": "", "optional": False, "private": False}
    ]


def test_a_mistake_says_key_and_what_is_legal() -> None:
    mistake = illegal("plugin.name", "\x1b", "a name")

    assert (mistake.key, str(mistake)) == ("plugin.name", r'plugin.name: "\x1b" is not legal; legal is a name')
    assert str(Mistake("", "no regular file", "a file")) == "no regular file; legal is a file"


def test_a_key_is_joined_visibly() -> None:
    assert (join("", "plugin"), join("plugin", "a\nb")) == ("plugin", r"plugin.a\nb")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifests")


@given(
    kind=st.sampled_from(KINDS),
    target=st.text("ab.*:/[]-_ 1=,", max_size=8)
    | st.sampled_from(["${data}/a", "a.b:1-2", "[::1]:1", "10.0.0.0/8", *SYS_NAMES]),
)
def test_a_target_that_the_loader_accepts_the_schema_accepts_too(
    validator: Any, folder: Path, kind: str, target: str
) -> None:
    text = f"{ENTRY}[permissions.deny]\n{kind} = [{json.dumps(target)}]\n"
    (folder / "plugin.toml").write_text(text)
    try:
        load_manifest(folder / "plugin.toml")
    except ManifestError:
        return

    assert validator.is_valid(tomllib.loads(text))


@given(version=st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(a|b|rc|\.post|\.dev)?[0-9]{0,2}", fullmatch=True))
def test_every_ordinary_version_is_legal(version: str) -> None:
    checked = DOCUMENT.check("", tomllib.loads(ENTRY.replace('"1"', json.dumps(version))))

    assert checked["plugin"]["version"] == version
