"""Tier `walled` as an application and its plugins meet it: real workers through `PluginHost`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from walls_driver import CHECKOUT, LIKE_DOCKER, PATIENCE, need

import host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLUGIN = """
import errno, os, posix, shutil, sqlite3, tarfile, tempfile, zipfile
from pathlib import Path

FILTER = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}

def run(source, where):
    \"\"\"The value of an expression in which W is a folder; of an OSError its name.\"\"\"
    try:
        return eval(source, globals() | {"W": where})
    except OSError as error:
        return errno.errorcode[error.errno]

def mode(path):
    return oct(posix.stat(path).st_mode & 0o7777)

def trees(where):
    source = Path(where, "source")
    source.mkdir()
    Path(source, "file").write_text("text")
    os.chmod(Path(source, "file"), 0o640)
    os.utime(Path(source, "file"), (10**9, 10**9))
    shutil.copytree(source, Path(where, "copy"))
    with tarfile.open(Path(where, "a.tar"), "w") as archive:
        archive.add(source, "inner")
    with tarfile.open(Path(where, "a.tar")) as archive:
        archive.extractall(Path(where, "untarred"), **FILTER)
    shutil.make_archive(Path(where, "b"), "zip", source)
    with zipfile.ZipFile(Path(where, "b.zip")) as archive:
        archive.extractall(Path(where, "unzipped"))
    copies = [Path(where, "copy/file"), Path(where, "untarred/inner/file")]
    Path(where, "touched").touch(mode=0o644)
    return [mode(copy) for copy in copies], [posix.stat(copy).st_mtime for copy in copies]

def read(where):
    return Path(where).read_text()

def database(where):
    with sqlite3.connect(Path(where, "db")) as db:
        kind = db.execute("pragma journal_mode=wal").fetchone()[0]
        db.execute("create table t (x)")
        db.execute("insert into t values (7)")
        return kind, db.execute("select x from t").fetchone()[0]
"""

MANIFEST = """
schema = 1
[plugin]
name = "walled"
version = "1"
project = "tests"
path = "code"
[permissions]
fs.read = ["{root}/link", "${{data}}"]
fs.write = ["{root}/granted", "${{data}}"]
[permissions.deny]
fs.read = ["{root}/granted/denied", "{root}/granted/denied-file"]
fs.write = ["{root}/granted/denied", "{root}/granted/denied-file"]
[functions]
run = "plugin:run"
trees = "plugin:trees"
read = "plugin:read"
database = "plugin:database"
"""


def prepare(root: Path) -> Path:
    """A plugin, and a granted folder with something denied in it; the manifest's path."""
    (root / "code").mkdir()
    (root / "code/plugin.py").write_text(PLUGIN)
    (root / "granted/denied").mkdir(parents=True)
    (root / "granted/denied/secret").write_text("secret")
    (root / "granted/denied-file").write_text("secret")
    (root / "link").symlink_to("granted")
    (root / "granted/way-out").symlink_to(root / "manifest.toml")
    (root / "manifest.toml").write_text(MANIFEST.format(root=root))
    return root / "manifest.toml"


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[host.PluginHost]:
    with host.PluginHost("tests", grants="requested", data=tmp_path / "data") as made:
        need(made.tier == "walled", f"the tier walled; this machine reaches {made.tier}")
        yield made


@pytest.fixture
def plugin(plugins: host.PluginHost, tmp_path: Path) -> host.SandboxedPlugin:
    return plugins.load(prepare(tmp_path.resolve()))


def run(plugin: host.SandboxedPlugin, tmp_path: Path, source: str) -> Any:
    """What an expression comes to in the worker; W is the granted folder."""
    return plugin.call("run", source=source, where=str(tmp_path.resolve() / "granted"))


def test_walled_is_what_a_host_takes_where_it_can(plugin: host.SandboxedPlugin) -> None:
    assert plugin.tier == "walled"


def test_walled_can_be_demanded(plugins: host.PluginHost) -> None:
    with host.PluginHost("tests", minimum_tier="walled") as demanding:
        assert demanding.tier == plugins.tier


def test_a_weaker_tier_can_still_be_chosen(plugins: host.PluginHost) -> None:
    with host.PluginHost("tests", tier="confined") as weaker:
        assert (plugins.tier, weaker.tier) == ("walled", "confined")


def test_a_grant_is_reached_by_the_link_that_spells_it(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    assert run(plugin, tmp_path, "sorted(os.listdir(W + '/../link'))") == ["denied", "denied-file", "way-out"]


def test_a_new_file_beside_a_denied_one_works(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    assert run(plugin, tmp_path, "Path(W, 'new').write_text('new')") == 3
    (tmp_path / "granted/from-outside").write_text("too")
    assert run(plugin, tmp_path, "Path(W, 'from-outside').read_text()") == "too"


def test_a_denied_path_has_neither_content_nor_metadata(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    """By calls that no audit event announces, so that the kernel answers."""
    assert run(plugin, tmp_path, "posix.stat(W + '/denied/secret')") == "ENOENT"
    assert run(plugin, tmp_path, "posix.stat(W + '/denied-file').st_size") == 0


def test_what_is_not_granted_is_not_there(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    assert run(plugin, tmp_path, "posix.stat(W + '/../manifest.toml')") == "ENOENT"
    assert run(plugin, tmp_path, "posix.stat('/proc/self')") == "ENOENT"


def test_a_link_out_of_the_grant_is_a_denial(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    """Its target is not there, and no rule allows it: that is what the plugin is told, by name and with the target."""
    with pytest.raises(host.PermissionDenied) as caught:
        plugin.call("read", where=str(tmp_path.resolve() / "granted/way-out"))
    assert caught.value.target == str(tmp_path.resolve() / "manifest.toml")
    assert plugin.denials()[-1].layer == "landlock"


def test_a_file_that_is_just_not_there_is_no_denial(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        plugin.call("read", where=str(tmp_path.resolve() / "granted/nothing"))


def test_ordinary_library_code_works_in_a_write_grant(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    """copytree and tarfile keep modes and times, really."""
    modes, times = plugin.call("trees", where=str(tmp_path.resolve() / "granted"))
    assert (modes, times) == (["0o640", "0o640"], [1e9, 1e9])


def test_sqlite_works_with_a_write_ahead_log(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    assert plugin.call("database", where=str(tmp_path.resolve() / "granted")) == ["wal", 7]


def test_temporary_files_work_where_granted(plugins: host.PluginHost, tmp_path: Path) -> None:
    manifest = prepare(tmp_path.resolve())
    text = manifest.read_text().replace("/link", "/granted").replace("${data}", "${tmp}")
    manifest.write_text(text)
    plugin = plugins.load(manifest)
    assert run(plugin, tmp_path, "len(tempfile.NamedTemporaryFile().name) > 0") is True


def test_a_denied_file_replaced_from_outside_ends_the_worker(plugin: host.SandboxedPlugin, tmp_path: Path) -> None:
    """The new file has no cover; so no worker that could see it lives on, and the next one has it covered again."""
    first, reasons = plugin.pid, []
    (tmp_path / "fresh").write_text("new secret")
    os.replace(tmp_path / "fresh", tmp_path / "granted/denied-file")
    deadline = time.monotonic() + PATIENCE
    while plugin.pid == first and time.monotonic() < deadline:
        try:
            run(plugin, tmp_path, "1")
        except host.PluginCrashed as error:
            reasons.append(str(error))
    assert run(plugin, tmp_path, "posix.stat(W + '/denied-file').st_size") == 0
    assert plugin.pid != first
    assert all("denied was replaced" in reason for reason in reasons)


def test_minimum_walled_is_refused_where_namespaces_are() -> None:
    """In what Docker refuses a host takes `confined`, and says why it can't be more."""
    code = (
        f"import sys; sys.path[:0] = {[str(CHECKOUT), *sys.path]!r}\n{LIKE_DOCKER}\nimport host\n"
        "print(host.PluginHost('t').tier)\n"
        "try: host.PluginHost('t', minimum_tier='walled')\n"
        "except host.LockdownUnavailable as e: print(e.tier, *e.missing)\n"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False, timeout=200)
    reached, why = done.stdout.splitlines() or [done.stderr, ""]
    need(reached != "hooked", "seccomp")
    assert reached in ("confined", "filtered")
    assert why.startswith("walled ")
    assert "namespace" in why
