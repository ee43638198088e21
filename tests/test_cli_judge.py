"""What a manifest's request minus its denies says about a target, as a worker would hold it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from host.cli.judge import judge
from host.model.manifest import load_manifest
from host.run import interpreter
from sandbox_worker.permissions import RequestError, RuleError

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Plugins


def test_deny_beats_allow_and_each_names_its_entry_as_written(plugin_from: Plugins) -> None:
    file = plugin_from.manifest(
        "", permissions={"fs.read": ["/a", "${home}/in"]}, deny={"fs.read": ["${home}/in/private"]}
    )
    manifest, home = load_manifest(file), os.path.expanduser("~")
    allowed = judge(manifest, "fs.read", f"{home}/in/x")
    denied = judge(manifest, "fs.read", f"{home}/in/private/x")
    assert (allowed.allowed, allowed.rule, allowed.key) == (True, "${home}/in", "permissions.fs.read[1]")
    assert (denied.allowed, denied.rule, denied.key) == (False, "${home}/in/private", "permissions.deny.fs.read[0]")


def test_a_target_may_stand_behind_a_variable(plugin_from: Plugins) -> None:
    manifest = load_manifest(plugin_from.manifest("", permissions={"fs.write": ["${tmp}"]}))
    assert judge(manifest, "fs.write", "${tmp}/x").allowed
    assert not judge(manifest, "fs.write", "/tmp/x").allowed


def test_a_link_that_leads_out_of_the_request_is_denied_and_one_that_stays_is_not(
    plugin_from: Plugins, tmp_path: Path
) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "file").touch()
    (inside / "out").symlink_to("/etc/passwd")
    (inside / "stays").symlink_to(inside / "file")
    (tmp_path / "other").symlink_to(inside)
    manifest = load_manifest(plugin_from.manifest("", permissions={"fs.read": [str(tmp_path / "other")]}))
    assert not judge(manifest, "fs.read", f"{tmp_path}/other/out").allowed
    assert judge(manifest, "fs.read", f"{tmp_path}/other/stays").allowed
    assert judge(manifest, "fs.read", f"{inside}/file").allowed


def test_what_every_worker_has_needs_no_rule(plugin_from: Plugins) -> None:
    file = plugin_from.manifest("", permissions={"fs.write": ["${data}"]}, deny={"fs.read": [os.__file__]})
    manifest = load_manifest(file)
    for kind, target in [
        ("fs.read", str(file)),
        ("fs.read", "${data}/x"),
        ("fs.read", "/dev/null"),
        ("fs.write", "/dev/null"),
        ("env", "TZ"),
    ]:
        found = judge(manifest, kind, target)
        assert (found.allowed, found.reason) == (True, "implied"), target
    assert judge(manifest, "fs.read", os.__file__).reason == "deny-rule"


def test_other_packages_in_the_standard_library_need_a_rule(plugin_from: Plugins) -> None:
    manifest = load_manifest(plugin_from.manifest(""))
    for folder in interpreter.find().hidden:
        assert not judge(manifest, "fs.read", f"{folder}/x.py").allowed


def test_a_rule_above_proc_does_not_reach_into_it(plugin_from: Plugins) -> None:
    manifest = load_manifest(plugin_from.manifest("", permissions={"fs.read": ["*"]}))
    found = judge(manifest, "fs.read", "/proc/1/environ")
    assert (found.allowed, found.reason) == (False, "special-path")


def test_what_is_no_target_is_an_error(plugin_from: Plugins) -> None:
    manifest = load_manifest(plugin_from.manifest(""))
    with pytest.raises(RequestError):
        judge(manifest, "fs.read", "relative")
    with pytest.raises(RuleError):
        judge(manifest, "fs.read", "${nope}/x")


def test_the_verdict_is_what_a_worker_does(plugin_from: Plugins, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "private").mkdir(parents=True)
    files = [folder / "a", folder / "private" / "b", tmp_path / "c"]
    for file in files:
        file.write_text("x")
    (folder / "link").symlink_to(files[2])
    manifest = plugin_from.manifest(
        "@hookimpl\ndef read(path):\n    with open(path) as stream: return stream.read()\n",
        permissions={"fs.read": [str(folder)]},
        deny={"fs.read": [str(folder / "private")]},
    )
    plugin = plugin_from.host().load(manifest)
    for target in [*map(str, files), str(folder / "link"), os.__file__, "/etc/passwd"]:
        try:
            plugin.call("read", path=target)
            could = True
        except PermissionError:
            could = False
        assert judge(load_manifest(manifest), "fs.read", target).allowed is could, target


def test_a_unix_socket_is_judged_by_its_path_and_by_what_that_leads_to(plugin_from: Plugins, tmp_path: Path) -> None:
    (tmp_path / "sock").touch()
    (tmp_path / "link").symlink_to("sock")
    (tmp_path / "bad").symlink_to("/etc/passwd")
    requests = ["unix:${data}/s", f"unix:{tmp_path}/link", f"unix:{tmp_path}/bad"]
    found = load_manifest(plugin_from.manifest("", permissions={"net.connect": requests[:2]}))
    targets = [*requests, f"unix:{tmp_path}/sock", f"unix:{tmp_path}/link/../sock", "unix:/etc/passwd"]
    assert [judge(found, "net.connect", target).allowed for target in targets] == [True, True, False, True, True, False]
    assert judge(found, "net.connect", "unix:/run/x").hint == 'net.connect = ["unix:/run/x"]'
