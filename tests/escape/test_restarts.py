"""A plugin can't prepare its next worker: what it leaves behind never widens what it is granted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import host

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import os
@hookimpl
def swap(folder, target):
    os.rename(folder, folder + "-away")
    os.symlink(target, folder)
    os._exit(1)
@hookimpl
def link(path, target):
    os.symlink(target, path)
    os._exit(1)
@hookimpl
def rename(path, to):
    os.rename(path, to)
@hookimpl
def read(path):
    return open(path).read()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with ``granted/sub`` in it, and a secret beside."""
    (tmp_path / "granted/sub").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("secret")
    return tmp_path


def test_a_granted_folder_swapped_for_a_link_stops_the_next_start(plugin_from: Any, place: Path) -> None:
    granted = place / "granted"
    plugin = plugin_from(SOURCE, permissions={"fs.write": [granted], "fs.read": [granted / "sub"]})
    with pytest.raises(host.PluginCrashed):
        plugin.call("swap", folder=str(granted / "sub"), target=str(place / "secret"))
    with pytest.raises(host.PluginStartError, match="symbolic link"):
        plugin.call("read", path=str(place / "secret/file"))


def test_a_link_where_nothing_was_yet_stops_the_next_start(plugin_from: Any, place: Path) -> None:
    granted = place / "granted"
    plugin = plugin_from(SOURCE, permissions={"fs.write": [granted], "fs.read": [granted / "later"]})
    with pytest.raises(host.PluginCrashed):
        plugin.call("link", path=str(granted / "later"), target=str(place / "secret"))
    with pytest.raises(host.PluginStartError, match="symbolic link"):
        plugin.call("read", path=str(place / "secret/file"))


def test_a_link_in_the_data_folder_outlives_no_host(plugin_from: Any, place: Path) -> None:
    data = plugin_from.folder / "data/plugin-1"
    manifest = plugin_from.manifest(SOURCE, permissions={"fs.write": ["${data}"], "fs.read": ["${data}/cache"]})
    data.mkdir(parents=True)
    (data / "cache").symlink_to(place / "secret")
    with pytest.raises(host.PluginStartError, match="symbolic link"):
        plugin_from.host().load(manifest)


def test_one_plugin_does_not_decide_where_another_may_read(plugin_from: Any, place: Path) -> None:
    granted, owner = place / "granted", plugin_from.host()
    reader = plugin_from(SOURCE, permissions={"fs.read": [granted / "sub"]}, into=owner)
    writer = plugin_from(SOURCE, permissions={"fs.read": [granted], "fs.write": [granted]}, into=owner)
    with pytest.raises(host.PluginCrashed):
        writer.call("swap", folder=str(granted / "sub"), target=str(place / "secret"))
    with pytest.raises(host.PluginStartError, match="symbolic link"):
        reader.restart()


def test_the_operators_own_links_are_followed(plugin_from: Any, place: Path) -> None:
    """The control: a link that no plugin could have made."""
    (place / "alias").symlink_to(place / "secret")
    plugin = plugin_from(SOURCE, permissions={"fs.read": [place / "alias"]})
    assert plugin.call("read", path=str(place / "alias/file")) == "secret"


def test_what_may_not_be_read_can_not_be_renamed_into_reach(plugin_from: Any, place: Path) -> None:
    granted = place / "granted"
    (granted / "sub/file").write_text("secret")
    plugin = plugin_from(
        SOURCE, permissions={"fs.read": [granted], "fs.write": [granted]}, deny={"fs.read": [granted / "sub"]}
    )
    with pytest.raises(OSError, match="busy" if plugin.tier == "walled" else "denied"):  # EBUSY: it is mounted over
        plugin.call("rename", path=str(granted / "sub"), to=str(granted / "other"))
    plugin.restart()
    with pytest.raises(PermissionError):
        plugin.call("read", path=str(granted / "sub/file"))
    assert (granted / "sub/file").read_text() == "secret"


def test_a_tmp_of_its_own_makes_no_link_elsewhere_in_tmp_a_planted_one(plugin_from: Any, tmp_path: Path) -> None:
    """pytest's folders lie in /tmp: a grant of ${tmp} must not be taken for one of /tmp."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("fine")
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    plugin = plugin_from(SOURCE, permissions={"fs.write": ["${tmp}"], "fs.read": [tmp_path / "alias"]})
    assert plugin.call("read", path=str(tmp_path / "alias/file")) == "fine"
