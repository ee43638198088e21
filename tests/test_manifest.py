"""Manifests: what is accepted, and one error for each kind of mistake."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import ManifestError
from host.model.manifest import Entry, Limits, Manifest, expand, load_manifest
from sandbox_worker.permissions import KINDS, RuleError

if TYPE_CHECKING:
    from pathlib import Path

PLUGIN = '[plugin]\nname = "csv-stats"\nversion = "1.4.0"\nproject = "reports"\n'
HEAD = f'schema = 1\n{PLUGIN}entry = "csv_stats"\n'
FULL = """
schema = 1
[plugin]
name = "csv-stats"
version = "1.4.0"
project = "reports"
entry = "csv_stats.hooks:plugin.instance"
path = "code"
environment = "host"
description = "Column statistics of CSV files"

[permissions]
fs.read = [{ target = "/srv/in", reason = "input CSVs", optional = true }, "${home}/x", "${plugin}"]
fs.write = ["${data}", "${tmp}/a b"]
env = ["LANG", "MYAPP_*"]
[permissions.deny]
fs.read = ["/srv/in/private"]
net.connect = [{ target = "api.example.com:443", private = true }, "*.cdn.example.com:443,8443", "10.0.0.0/8:5432"]
net.listen = ["127.0.0.1:8000-8010", "[2001:db8::]/32:443"]
run = ["/usr/bin/git"]
sys = ["hostname", "cpus"]
native = ["numpy"]
host = ["storage.get", "cache.*"]

[limits]
memory = "512 MiB"
call_timeout = "500 ms"
open_files = 128
file_size = 4096
"""


def load(folder: Path, text: str | bytes) -> Manifest:
    file = folder / "plugin.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_manifest(file)


def refused(folder: Path, text: str | bytes) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        load(folder, text)
    return caught.value


# What is accepted


def test_a_full_manifest_is_read_field_by_field(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()

    manifest = load(tmp_path, FULL)

    assert manifest.file == tmp_path / "plugin.toml"
    assert (manifest.name, manifest.version, manifest.project) == ("csv-stats", "1.4.0", "reports")
    assert (manifest.entry, manifest.functions) == ("csv_stats.hooks:plugin.instance", {})
    assert (manifest.path, manifest.outside, manifest.environment) == (tmp_path / "code", False, "host")
    assert manifest.description == "Column statistics of CSV files"
    assert manifest.permissions == (
        Entry("fs.read", "/srv/in", "input CSVs", optional=True),
        Entry("fs.read", "${home}/x"),
        Entry("fs.read", "${plugin}"),
        Entry("fs.write", "${data}"),
        Entry("fs.write", "${tmp}/a b"),
        Entry("env", "LANG"),
        Entry("env", "MYAPP_*"),
    )
    assert [(entry.kind, entry.target) for entry in manifest.deny if entry.private] == [
        ("net.connect", "api.example.com:443")
    ]
    assert {entry.kind for entry in manifest.deny} == set(KINDS) - {"fs.write", "env"}
    assert manifest.limits == Limits(memory=512 << 20, call_timeout=0.5, open_files=128, file_size=4096)


def test_the_smallest_manifest_has_the_defaults_and_no_permission(tmp_path: Path) -> None:
    manifest = load(tmp_path, HEAD)

    assert (manifest.path, manifest.environment, manifest.description) == (tmp_path, "isolated", "")
    assert (manifest.permissions, manifest.deny, manifest.limits) == ((), (), Limits())


def test_the_default_limits_are_the_documented_ones() -> None:
    assert dataclasses.asdict(Limits()) == {
        "memory": 256 << 20,
        "call_timeout": 5.0,
        "start_timeout": 10.0,
        "cpu_time": 30.0,
        "open_files": 64,
        "file_size": 64 << 20,
        "write_size": 256 << 20,
        "write_files": 5000,
        "threads": 32,
        "result_size": 16 << 20,
    }


def test_a_plain_library_is_a_plugin_through_its_functions(tmp_path: Path) -> None:
    manifest = load(tmp_path, f'schema = 1\n{PLUGIN}[functions]\nslugify = "slugify:slugify"\nb = "a.b:C.d"\n')

    assert (manifest.entry, dict(manifest.functions)) == (None, {"slugify": "slugify:slugify", "b": "a.b:C.d"})


def test_dotted_keys_and_nested_tables_say_the_same(tmp_path: Path) -> None:
    dotted = load(tmp_path, HEAD + '[permissions]\nfs.read = ["/a"]\ndeny.fs.read = ["/a/b"]\n')
    nested = load(tmp_path, HEAD + '[permissions.fs]\nread = ["/a"]\n[permissions.deny.fs]\nread = ["/a/b"]\n')

    assert dotted == nested


def test_everything_of_a_kind_is_a_star_alone(tmp_path: Path) -> None:
    manifest = load(tmp_path, HEAD + '[permissions]\nfs.read = ["*"]\nenv = [{ target = "*", reason = "why" }]\n')

    assert manifest.permissions == (Entry("fs.read", "*"), Entry("env", "*", "why"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_list_of_a_kind_is_nothing(tmp_path: Path, kind: str) -> None:
    assert load(tmp_path, f"{HEAD}[permissions]\n{kind} = []\n").permissions == ()


@pytest.mark.parametrize("version", ["1", "1.4.0", "2!1.0", "1.0a1", "1.0-RC.1", "v1.0.post2", "1.0.dev3", "1.0+deb.1"])
def test_any_version_of_pep_440_is_a_version(tmp_path: Path, version: str) -> None:
    assert load(tmp_path, HEAD.replace("1.4.0", version)).version == version


def test_a_folder_elsewhere_is_outside(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()

    assert load(tmp_path / "manifests", HEAD + 'path = ".."\n').outside


def test_a_link_that_leads_elsewhere_is_outside(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "code").symlink_to(tmp_path)

    manifest = load(tmp_path / "manifests", HEAD + 'path = "code"\n')

    assert (manifest.path, manifest.outside) == (tmp_path, True)


def test_a_linked_manifest_lies_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    load(tmp_path / "code", HEAD)
    (tmp_path / "link.toml").symlink_to("code/plugin.toml")

    manifest = load_manifest(tmp_path / "link.toml")

    assert (manifest.file, manifest.path) == (tmp_path / "code" / "plugin.toml", tmp_path / "code")


def test_the_path_is_a_text_or_path_like(tmp_path: Path) -> None:
    load(tmp_path, HEAD)

    assert load_manifest(str(tmp_path / "plugin.toml")) == load_manifest(tmp_path / "plugin.toml")


def test_a_manifest_never_changes(tmp_path: Path) -> None:
    manifest = load(tmp_path, f'schema = 1\n{PLUGIN}[functions]\nslugify = "slugify:slugify"\n')

    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        manifest.functions["other"] = "a:b"  # type: ignore[index]
    assert hash(manifest) == hash(dataclasses.replace(manifest))


# One error for each kind of mistake: (the text, .key, what the message says)

MISTAKES = {
    "an unknown key of the file": (f"{HEAD}[plugins]\n", "plugins", ["unknown key", "permissions"]),
    "an unknown key of a table": (f'{HEAD}nmae = "x"\n', "plugin.nmae", ["unknown key", "name, version"]),
    "an unknown limit": (f'{HEAD}[limits]\nmemroy = "1 MiB"\n', "limits.memroy", ["unknown key", "memory"]),
    "an unknown kind": (f'{HEAD}[permissions]\nfs.raed = ["/a"]\n', "permissions.fs.raed", ["unknown key", "read"]),
    "an unknown group of kinds": (f"{HEAD}[permissions]\nfiles = []\n", "permissions.files", ["unknown key", "fs"]),
    "an unknown kind of deny": (f"{HEAD}[permissions.deny]\nexec = []\n", "permissions.deny.exec", ["unknown key"]),
    "a deny within a deny": (f"{HEAD}[permissions.deny]\ndeny.env = []\n", "permissions.deny.deny", ["unknown key"]),
    "an unknown key of an entry": (
        f'{HEAD}[permissions]\nenv = [{{ target = "A", why = "b" }}]\n',
        "permissions.env[0].why",
        ["unknown key", "target, reason, optional"],
    ),
    "private where nothing is private": (
        f'{HEAD}[permissions]\nfs.read = [{{ target = "/a", private = true }}]\n',
        "permissions.fs.read[0].private",
        ["unknown key"],
    ),
    "an entry without a target": (
        f'{HEAD}[permissions]\nenv = [{{ reason = "x" }}]\n',
        "permissions.env[0].target",
        ["is missing", "the name of a variable"],
    ),
    "no schema": (HEAD.replace("schema = 1", ""), "schema", ["is missing", "legal is 1"]),
    "a schema of the future": (HEAD.replace("schema = 1", "schema = 2"), "schema", ["2 is not legal", "legal is 1"]),
    "a boolean as schema": (HEAD.replace("schema = 1", "schema = true"), "schema", ["true is not legal"]),
    "no plugin": ("schema = 1\n", "plugin", ["is missing", "name, version, project"]),
    "a plugin that is no table": ('schema = 1\nplugin = "x"\n', "plugin", ['"x" is not legal', "a table of name"]),
    "no name": (HEAD.replace("name = ", "description = "), "plugin.name", ["is missing", "a-z"]),
    "a name with capitals": (HEAD.replace("csv-stats", "CSV"), "plugin.name", ['"CSV"', "a-z"]),
    "a name too long": (HEAD.replace("csv-stats", "a" * 65), "plugin.name", ["a" * 65, "1 to 64"]),
    "a name with a newline at its end": (HEAD.replace("csv-stats", r"csv\n"), "plugin.name", [r'"csv\n"']),
    "no version": (HEAD.replace("version = ", "description = "), "plugin.version", ["is missing", "PEP 440"]),
    "a version that is none": (HEAD.replace("1.4.0", "1.4-final"), "plugin.version", ['"1.4-final"', "PEP 440"]),
    "a number as version": (HEAD.replace('"1.4.0"', "1.4"), "plugin.version", ["1.4 is not legal", "PEP 440"]),
    "an empty project": (HEAD.replace('"reports"', '""'), "plugin.project", ['"" is not legal']),
    "a project that climbs": (HEAD.replace('"reports"', '"../x"'), "plugin.project", ['"../x" is not legal']),
    "an entry that is no module": (HEAD.replace("csv_stats", "csv-stats.py"), "plugin.entry", ['"csv-stats.py"']),
    "an entry with two objects": (HEAD.replace("csv_stats", "a:b:c"), "plugin.entry", ['"a:b:c"', "module:object"]),
    "no entry and no functions": (f"schema = 1\n{PLUGIN}", "plugin.entry", ["is missing", "[functions]"]),
    "an entry and functions": (
        f'{HEAD}[functions]\na = "b:c"\n',
        "plugin.entry",
        ["stands beside [functions]", "either"],
    ),
    "an empty table of functions": (
        f"schema = 1\n{PLUGIN}[functions]\n",
        "functions",
        ["a table of 0 is not legal", "1 to 1000"],
    ),
    "a function without a callable": (
        f'schema = 1\n{PLUGIN}[functions]\nslugify = "slugify"\n',
        "functions.slugify",
        ['"slugify"', "module:callable"],
    ),
    "a function under a private name": (
        f'schema = 1\n{PLUGIN}[functions]\n_x = "a:b"\n',
        "functions._x",
        ['"_x"', "identifier"],
    ),
    "a function under a keyword": (
        f'schema = 1\n{PLUGIN}[functions]\nclass = "a:b"\n',
        "functions.class",
        ['"class"', "no keyword"],
    ),
    "an unknown environment": (f'{HEAD}environment = "venv"\n', "plugin.environment", ['"venv"', '"isolated"']),
    "a description too long": (f'{HEAD}description = "{"x" * 501}"\n', "plugin.description", ["500 characters"]),
    "a path that is not there": (f'{HEAD}path = "nowhere"\n', "plugin.path", ['"nowhere"', "existing folder"]),
    "a path that is a file": (f'{HEAD}path = "plugin.toml"\n', "plugin.path", ['"plugin.toml"', "existing folder"]),
    "a path with NUL": (f'{HEAD}path = "a\\u0000"\n', "plugin.path", [r'"a\x00"', "folder"]),
    "an empty path": (f'{HEAD}path = ""\n', "plugin.path", ['""', "folder"]),
    "a path too long for the system": (f'{HEAD}path = "{"x" * 4000}"\n', "plugin.path", ["existing folder"]),
    "the root as path": (f'{HEAD}path = "/"\n', "plugin.path", ['"/"', "not /, a home folder"]),
    "a relative target": (
        f'{HEAD}[permissions]\nfs.read = ["/a", "data"]\n',
        "permissions.fs.read[1]",
        ['"data"', "an absolute path"],
    ),
    "an empty item": (f'{HEAD}[permissions]\nenv = [""]\n', "permissions.env[0]", ['"" is not legal', "name"]),
    "an item that is no text": (f"{HEAD}[permissions]\nenv = [1]\n", "permissions.env[0]", ["1 is not legal", "name"]),
    "a text where a list belongs": (f'{HEAD}[permissions]\nenv = "LANG"\n', "permissions.env", ['"LANG"', "an array"]),
    "a list where a table belongs": (
        f"{HEAD}[permissions]\nfs = []\n",
        "permissions.fs",
        ["an array of 0", "read, write"],
    ),
    "a kind without its second half": (f'{HEAD}[permissions]\nnet = ["a"]\n', "permissions.net", ["connect, listen"]),
    "the same entry twice": (
        f'{HEAD}[permissions]\nenv = ["A", "B", "A"]\n',
        "permissions.env[2]",
        ['"A"', "permissions.env[0]", "each target once"],
    ),
    "the same folder in two spellings": (
        f'{HEAD}[permissions]\nfs.read = ["/srv/in", "/srv//in/"]\n',
        "permissions.fs.read[1]",
        ['"/srv//in/"', "permissions.fs.read[0]"],
    ),
    "the same variable in two spellings": (
        f'{HEAD}[permissions]\nfs.read = ["${{data}}", "${{data}}/"]\n',
        "permissions.fs.read[1]",
        ["permissions.fs.read[0]"],
    ),
    "the same deny twice": (
        f'{HEAD}[permissions.deny]\nnet.connect = ["a.example", "A.example."]\n',
        "permissions.deny.net.connect[1]",
        ["permissions.deny.net.connect[0]"],
    ),
    "a star beside other entries": (
        f'{HEAD}[permissions]\nenv = ["A", "*"]\n',
        "permissions.env[1]",
        ['"*"', '["*"] alone'],
    ),
    "a wildcard in a path": (
        f'{HEAD}[permissions]\nfs.read = ["/srv/*.csv"]\n',
        "permissions.fs.read[0]",
        ['"/srv/*.csv"', "without *"],
    ),
    "a wildcard within a name": (f'{HEAD}[permissions]\nenv = ["A*B"]\n', "permissions.env[0]", ['"A*B"', "prefix"]),
    "a wildcard for a program": (
        f'{HEAD}[permissions.deny]\nrun = ["/usr/bin/*"]\n',
        "permissions.deny.run[0]",
        ['"/usr/bin/*"', "without *"],
    ),
    "a path of each process": (
        f'{HEAD}[permissions]\nfs.read = ["/proc/self/maps"]\n',
        "permissions.fs.read[0]",
        ['"/proc/self/maps"', "each process"],
    ),
    "an unknown variable": (
        f'{HEAD}[permissions]\nfs.read = ["${{cache}}/x"]\n',
        "permissions.fs.read[0]",
        ['"${cache}/x"', "${plugin}, ${data}, ${tmp}, ${home}"],
    ),
    "a variable that runs on": (
        f'{HEAD}[permissions]\nfs.read = ["${{data}}x"]\n',
        "permissions.fs.read[0]",
        ['"${data}x"'],
    ),
    "a variable within a path": (
        f'{HEAD}[permissions]\nfs.read = ["/srv/${{data}}"]\n',
        "permissions.fs.read[0]",
        ['"/srv/${data}"', "at the start"],
    ),
    "a variable of another kind": (
        f'{HEAD}[permissions]\nenv = ["${{home}}"]\n',
        "permissions.env[0]",
        ['"${home}"', "fs target"],
    ),
    "a path that climbs from its variable": (
        f'{HEAD}[permissions]\nfs.write = ["${{data}}/../../other"]\n',
        "permissions.fs.write[0]",
        ['"${data}/../../other"', "beneath its variable"],
    ),
    "an unknown name of the system": (
        f'{HEAD}[permissions.deny]\nsys = ["hostnames"]\n',
        "permissions.deny.sys[0]",
        ['"hostnames"', "hostname, osRelease"],
    ),
    "an address with an odd port": (
        f'{HEAD}[permissions.deny]\nnet.connect = ["a:65536"]\n',
        "permissions.deny.net.connect[0]",
        ['"a:65536"'],
    ),
    "a reason that is no text": (
        f'{HEAD}[permissions]\nenv = [{{ target = "A", reason = 1 }}]\n',
        "permissions.env[0].reason",
        ["1 is not legal"],
    ),
    "an optional that is no boolean": (
        f'{HEAD}[permissions]\nenv = [{{ target = "A", optional = 1 }}]\n',
        "permissions.env[0].optional",
        ["true or false"],
    ),
    "a unit that is none": (f'{HEAD}[limits]\nmemory = "1 MB"\n', "limits.memory", ['"1 MB"', "MiB"]),
    "a duration without a unit": (f"{HEAD}[limits]\ncpu_time = 5\n", "limits.cpu_time", ["5 is not legal", "5 s"]),
    "a limit of nothing": (f"{HEAD}[limits]\nthreads = 0\n", "limits.threads", ["0 is not legal", "from 1"]),
    "a limit with a fraction": (f"{HEAD}[limits]\nthreads = 1.5\n", "limits.threads", ["1.5 is not legal"]),
    "a limit beyond measure": (f"{HEAD}[limits]\nthreads = 0x{'f' * 5000}\n", "limits.threads", ["a huge integer"]),
    "a date": (f"{HEAD}[limits]\nthreads = 2026-01-01\n", "limits.threads", ["a date or time"]),
    "more entries than anybody reviews": (
        f"{HEAD}[permissions]\nenv = {json.dumps([f'A{n}' for n in range(1001)])}\n",
        "permissions.env",
        ["an array of 1001", "1000"],
    ),
    "what is no TOML": (f"{HEAD}[permissions\n", None, ["line 7", '"[permissions"', "TOML 1.0"]),
    "a key twice": (f'{HEAD}entry = "b"\n', None, ["line 7", "entry", "TOML 1.0"]),
    "a list nested without end": (f"a = {'[' * 10000}", None, ["values nested too deeply"]),
    "a number without end": (f"a = {'1' * 5000}", None, ["a number too long"]),
    "a key of countless parts": ("a." * 200_000 + "a = 1", None, ["line 1", "fewer dots"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_error_that_names_file_key_text_and_what_is_legal(tmp_path: Path, name: str) -> None:
    text, key, said = MISTAKES[name]

    error = refused(tmp_path, text)

    assert (error.path, error.key) == (str(tmp_path / "plugin.toml"), key)
    assert str(error).startswith(f"{error.path}: {f'{key}: ' if key else ''}")
    assert [part for part in [*said, "; legal is "] if part not in str(error)] == []
    assert len(str(error)) < 1000


def test_a_kind_that_is_not_enforced_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("host.model.manifest.ENFORCED_KINDS", ("env", "sys"))

    error = refused(tmp_path, f'{HEAD}[permissions]\nhost = ["storage.get"]\n')

    assert error.key == "permissions.host"
    assert "can't be enforced by this version yet" in str(error)
    assert "env, sys" in str(error)


def test_what_offends_is_shown_escaped_and_bounded(tmp_path: Path) -> None:
    error = refused(tmp_path, HEAD.replace("csv-stats", r"\u001b[2K\u202e" + "x" * 5000))

    assert r'"\x1b[2K\u202exxx' in str(error)
    assert "more characters)" in str(error)
    assert len(str(error)) < 1000


def test_an_unknown_key_is_shown_escaped_and_bounded(tmp_path: Path) -> None:
    error = refused(tmp_path, HEAD + '"\\u202e' + "x" * 5000 + '" = 1\n')

    assert error.key is not None
    assert error.key.startswith(r"plugin.\u202exxx")
    assert len(error.key) < 120


# Folders that no plugin may have for its path


@pytest.mark.parametrize("prefix", sorted({sys.prefix, sys.base_prefix}))
def test_the_interpreters_prefix_is_no_path_of_a_plugin(tmp_path: Path, prefix: str) -> None:
    assert refused(tmp_path, f'{HEAD}path = "{prefix}"\n').key == "plugin.path"


def test_a_home_folder_is_no_path_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert refused(tmp_path, HEAD).key == "plugin.path"


def test_a_link_to_the_root_is_no_path_of_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "code").symlink_to("/")

    assert refused(tmp_path, f'{HEAD}path = "code"\n').key == "plugin.path"


def test_a_loop_of_links_is_no_path_of_a_plugin(tmp_path: Path) -> None:
    (tmp_path / "code").symlink_to("code")

    assert refused(tmp_path, f'{HEAD}path = "code"\n').key == "plugin.path"


# Files that hold no manifest


@pytest.mark.parametrize("name", ["missing.toml", "loop.toml", "folder", "x" * 5000, "a\0b", "\ud800", ""])
def test_what_can_not_be_read_is_a_manifest_error_of_the_whole_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    path = f"{tmp_path}/{name}"

    with pytest.raises(ManifestError) as caught:
        load_manifest(path)

    assert (caught.value.path, caught.value.key) == (path, None)
    assert "legal is a readable file" in str(caught.value)


@pytest.mark.timeout(10)
def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")

    with pytest.raises(ManifestError, match="no regular file"):
        load_manifest(tmp_path / "fifo.toml")


def test_a_socket_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/s")

        with pytest.raises(ManifestError, match="can't be read"):
            load_manifest(tmp_path / "s")


def test_a_file_of_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    assert "larger than" in str(refused(tmp_path, HEAD + "#" * (1 << 20)))


def test_a_file_that_is_no_utf_8_is_refused_with_the_place(tmp_path: Path) -> None:
    assert f"byte {len(HEAD)} is no UTF-8" in str(refused(tmp_path, HEAD.encode() + b"\xff"))


def test_refused_files_leave_no_descriptor_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")

    for name in ("", "missing.toml"):
        with pytest.raises(ManifestError):
            load_manifest(tmp_path / name)

    assert os.listdir("/proc/self/fd") == before


# Variables


def test_a_variable_is_replaced_at_the_start_alone() -> None:
    variables = {"data": "/var/data"}

    assert expand("${data}", variables) == "/var/data"
    assert expand("${data}/a b", variables) == "/var/data/a b"
    assert expand("/a/${data}", variables) == "/a/${data}"
    assert expand("*", variables) == "*"


@pytest.mark.parametrize("text", ["${home}", "${data", "${data}x", "${}", "${ data}"])
def test_an_unknown_or_broken_variable_is_a_rule_error(text: str) -> None:
    with pytest.raises(RuleError) as caught:
        expand(text, {"data": "/var/data"})

    assert caught.value.text == text
    assert "${plugin}" in caught.value.legal


# Nothing but a ManifestError, whatever the file holds


def toml(value: object) -> str:
    """`value` as inline TOML; JSON's strings are TOML's but for a few characters, which is welcome here."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name, ensure_ascii=False)} = {toml(v)}" for name, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


texts = st.text(max_size=20) | st.sampled_from(
    [
        "*",
        "/a",
        "/a/../b",
        "a",
        "${data}",
        "${data}/x",
        "LANG",
        "A_*",
        "1 MiB",
        "5 s",
        "1.0",
        "m:f",
        "localhost:80",
        ".",
    ]
)
scalars = texts | st.booleans() | st.integers() | st.floats() | st.integers(min_value=1, max_value=9)
entries = st.lists(
    scalars | st.fixed_dictionaries({}, optional=dict.fromkeys(("target", "reason", "optional", "private"), scalars)),
    max_size=3,
)
kinds = st.fixed_dictionaries(
    {},
    optional={
        "fs": st.fixed_dictionaries({}, optional={"read": entries, "write": entries}),
        "net": st.fixed_dictionaries({}, optional={"connect": entries, "listen": entries}),
        **dict.fromkeys(("env", "run", "sys", "native", "host"), entries),
    },
)
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5)
documents = st.fixed_dictionaries(
    {
        "schema": st.just(1),
        "plugin": st.just({"name": "a", "version": "1", "project": "p", "entry": "m"})
        | st.fixed_dictionaries({"name": texts, "version": texts}, optional={"path": texts, "entry": texts}),
    },
    optional={
        "permissions": st.builds(lambda allow, deny: allow | {"deny": deny}, kinds, kinds),
        "limits": st.dictionaries(st.sampled_from(["memory", "cpu_time", "threads"]), scalars),
        "functions": st.dictionaries(texts, texts),
        "other": anything,
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("manifests")


def load_or_refuse(folder: Path, text: str | bytes) -> None:
    refusal = None
    try:
        load(folder, text)
    except ManifestError as error:
        refusal = str(error)
    assert refusal is None or ("; legal is " in refusal and refusal.isprintable())


@given(content=st.binary() | st.text().map(str.encode))
def test_any_bytes_are_a_manifest_or_a_manifest_error(folder: Path, content: bytes) -> None:
    load_or_refuse(folder, content)


@given(document=documents | st.dictionaries(texts, anything))
def test_any_document_is_a_manifest_or_a_manifest_error(folder: Path, document: dict[str, Any]) -> None:
    load_or_refuse(
        folder, "\n".join(f"{json.dumps(name, ensure_ascii=False)} = {toml(v)}" for name, v in document.items())
    )


@given(place=st.integers(0, len(FULL)), junk=st.text(max_size=5), cut=st.integers(0, 30))
def test_any_damage_to_a_manifest_is_a_manifest_or_a_manifest_error(
    folder: Path, place: int, junk: str, cut: int
) -> None:
    load_or_refuse(folder, FULL[:place] + junk + FULL[place + cut :])


@given(name=st.sampled_from(["plugin", "data", "tmp", "home"]), rest=st.text(max_size=10))
def test_a_target_never_leaves_its_variable(folder: Path, name: str, rest: str) -> None:
    """Whatever follows the variable, an accepted target lies beneath the folder that it stands for."""
    target = f"${{{name}}}{rest}"
    try:
        manifest = load(folder, f"{HEAD}[permissions]\nfs.read = [{json.dumps(target, ensure_ascii=False)}]\n")
    except ManifestError:
        return

    path = os.path.normpath(expand(manifest.permissions[0].target, {name: "/var/lib/folder"}))
    assert path == "/var/lib/folder" or path.startswith("/var/lib/folder/")
