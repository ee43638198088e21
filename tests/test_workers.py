"""Promises of what a worker is started with: its folders, its environment, and what was withheld."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from walls_driver import NOBODY

import host
from host.service.workers import _remove

SOURCE: Final = """
import os, tempfile
@hookimpl
def write(path, text):
    with open(path, "w") as file: file.write(text)
@hookimpl
def read(path):
    with open(path) as file: return file.read()
@hookimpl
def environment(): return dict(os.environ)
@hookimpl
def temporary(): return tempfile.gettempdir()
@hookimpl
def mess(path):
    os.makedirs(path + "/a/b/c")
    open(path + "/a/b/c/file", "w").close()
    open(path + "/" + "n" * 200, "w").close()
    open(path + "/new\\nline", "w").close()
    os.symlink("/", path + "/a/root")
    os.symlink("nowhere", path + "/a/dangling")
    os.chmod(path + "/a/b/c/file", 0)
    os.chmod(path + "/a/b/c", 0)
    os.chmod(path + "/a/b", 0o100)
    os.chmod(path + "/a", 0o500)
    os.chmod(path, 0)
"""
DATA: Final = {"fs.write": ["${data}"]}
TMP: Final = {"fs.write": ["${tmp}"]}


# --- ${data}


def test_data_is_a_private_folder_that_is_made_and_kept(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions=DATA)
    folder = plugin_from.folder / "data" / plugin.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    plugin.call("write", path=str(folder / "note"), text="kept")
    plugin.restart()
    assert plugin.call("read", path=str(folder / "note")) == "kept"
    plugin.close()
    assert (folder / "note").read_text() == "kept"


def test_data_is_made_only_for_a_plugin_that_asks_for_it(plugin_from: Any) -> None:
    plugin_from(SOURCE)
    assert not (plugin_from.folder / "data").exists()


def test_the_default_data_folder_is_the_users_own(plugin_from: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(plugin_from.folder / "xdg"))
    plugin = plugin_from(SOURCE, permissions=DATA, data=None)
    assert plugin.permissions["fs.write"] == (str(plugin_from.folder / "xdg" / "plughold" / "tests" / plugin.name),)
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(plugin_from.folder / "home"))
    plugin = plugin_from(SOURCE, permissions=DATA, data=None)
    expected = plugin_from.folder / "home" / ".local" / "share" / "plughold" / "tests" / plugin.name
    assert plugin.permissions["fs.write"] == (str(expected),)


@pytest.mark.parametrize("where", ["/proc/nowhere", "file"])
def test_a_data_folder_that_cannot_be_had_is_a_start_error_that_names_the_option(plugin_from: Any, where: str) -> None:
    (plugin_from.folder / "file").touch()
    with pytest.raises(host.PluginStartError, match=r"PluginHost\(data=FOLDER\)"):
        plugin_from(SOURCE, permissions=DATA, data=plugin_from.folder / where)


def test_plugins_do_not_reach_each_others_data(plugin_from: Any) -> None:
    owner = plugin_from.host()
    one, two = (plugin_from(SOURCE, into=owner, permissions=DATA) for _ in range(2))
    note = plugin_from.folder / "data" / one.name / "note"
    one.call("write", path=str(note), text="mine")
    with pytest.raises(host.PermissionDenied):
        two.call("read", path=str(note))
    with pytest.raises(host.PermissionDenied):
        two.call("write", path=str(note), text="yours")
    assert note.read_text() == "mine"


# --- ${tmp}


def test_tmp_is_fresh_for_each_worker_and_tmpdir_points_there(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions=TMP)
    first = Path(plugin.call("temporary"))
    assert first == Path(plugin.call("environment")["TMPDIR"]) == Path(plugin.permissions["fs.write"][0])
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    plugin.call("write", path=str(first / "note"), text="x")
    plugin.restart()
    second = Path(plugin.call("temporary"))
    assert second != first
    assert not first.exists()
    assert list(second.iterdir()) == []
    plugin.close()
    assert not second.exists()


def test_tmp_goes_with_a_worker_that_dies_whatever_modes_and_names_are_in_it(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions=TMP)
    folder = Path(plugin.call("temporary"))
    plugin.call("mess", path=str(folder))
    os.kill(plugin.pid, 9)
    plugin.restart()
    assert not folder.exists()
    assert Path("/").exists()


def test_a_folder_is_removed_however_deep_it_is(tmp_path: Path) -> None:
    """Deeper than Python recurses, and its path longer than the kernel takes."""
    folder = tmp_path / "folder"
    folder.mkdir()
    inner = os.open(folder, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deep", dir_fd=inner)
        outer, inner = inner, os.open("deep", os.O_RDONLY, dir_fd=inner)
        os.close(outer)
    os.close(inner)
    _remove(str(folder))
    assert not folder.exists()


def test_a_user_without_privileges_can_remove_what_has_no_modes() -> None:
    """Root may ignore modes; an ordinary user has to give itself the rights first."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    folder = Path("/tmp") / f"plughold-test-{os.getpid()}"  # reachable by that user, unlike pytest's folders
    root = Path(host.__file__).parent.parent
    folder.mkdir()
    try:
        os.chown(folder, NOBODY, NOBODY)
        code = (
            f"import os, sys; sys.path[:0] = {[p for p in sys.path if p] + [str(root)]!r}\n"
            "from host.service.workers import _remove\n"
            f"os.setgid({NOBODY}); os.setuid({NOBODY}); path = {str(folder / 'tmp')!r}\n"
            "os.makedirs(path + '/a/b'); open(path + '/a/b/file', 'w').close()\n"
            "[os.chmod(path + sub, 0) for sub in ('/a/b/file', '/a/b', '/a', '')]\n"
            "_remove(path); print(os.path.exists(path))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"
    finally:
        shutil.rmtree(folder)


def test_removing_never_follows_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    outside.chmod(0o555)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    _remove(str(folder))
    _remove(None)
    assert not folder.exists()
    assert (outside / "inner").is_dir()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o555


# --- the environment


def test_the_environment_is_the_granted_list_and_the_locale(plugin_from: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MYAPP_A", "MYAPP_B", "SECRET", "PYTHONPATH", "LD_PRELOAD_X"):
        monkeypatch.setenv(name, name.lower())
    assert plugin_from(SOURCE).call("environment") == {"LC_CTYPE": "C.UTF-8"}
    granted = plugin_from(SOURCE, permissions={"env": ["MYAPP_*"]}, deny={"env": ["MYAPP_B"]}).call("environment")
    assert granted == {"LC_CTYPE": "C.UTF-8", "MYAPP_A": "myapp_a"}


# --- what is optional and was not granted


@pytest.mark.parametrize("tier", ["confined", "filtered", "hooked"])
def test_what_was_withheld_is_refused_on_every_tier(plugin_from: Any, tier: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    options = {"tier": tier, "minimum_tier": "hooked", "grants": host.Grant()}
    optional = {"target": str(tmp_path / "secret"), "optional": True}
    plugin = plugin_from(SOURCE, permissions={"fs.read": [optional]}, **options)
    assert plugin.permissions == {}
    with pytest.raises(host.PermissionDenied):
        plugin.call("read", path=str(tmp_path / "secret"))


@pytest.mark.parametrize("tier", ["confined", "hooked"])
def test_data_that_was_withheld_can_neither_be_written_nor_read(plugin_from: Any, tier: str) -> None:
    optional = {"fs.write": [{"target": "${data}", "optional": True}, {"target": "${tmp}", "optional": True}]}
    plugin = plugin_from(SOURCE, permissions=optional, tier=tier, minimum_tier="hooked", grants=host.Grant())
    note = plugin_from.folder / "data" / plugin.name / "note"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("before")
    with pytest.raises(host.PermissionDenied):
        plugin.call("read", path=str(note))
    with pytest.raises(host.PermissionDenied):
        plugin.call("write", path=str(note), text="x")
    assert "TMPDIR" not in plugin.call("environment")


def test_a_worker_whose_grant_leaves_nothing_to_prove_its_walls_with_is_not_started(plugin_from: Any) -> None:
    with pytest.raises(host.PluginStartError, match="nothing left to prove"):
        plugin_from(SOURCE, permissions={"fs.read": ["/", "/proc", "/sys", "/dev"]})


def test_a_plugin_may_be_granted_everything_that_is_not_special(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions={"fs.read": ["*"]})
    assert plugin.call("read", path="/etc/hostname") == Path("/etc/hostname").read_text()
    with pytest.raises(host.PermissionDenied):
        plugin.call("read", path="/proc/self/environ")
