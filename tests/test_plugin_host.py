"""Promises of the plugin host: what may start and what not, and why, in words that say what to do next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import host

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCE: Final = """
@hookimpl
def read(path):
    with open(path) as file: return file.read()
@hookimpl
def library(): return __import__("pluggy").__name__
"""


# --- what is refused before anything starts


def test_a_manifest_of_another_project_is_a_manifest_error(plugin_from: Any) -> None:
    with pytest.raises(host.ManifestError, match=r"'tests'.*'reports'") as caught:
        plugin_from(SOURCE, into=plugin_from.host("reports"))
    assert caught.value.key == "plugin.project"
    assert caught.value.path is not None


def test_a_manifest_that_is_not_there_is_a_manifest_error(plugin_from: Any) -> None:
    with pytest.raises(host.ManifestError):
        plugin_from.host().load(plugin_from.folder / "absent.toml")


def test_a_manifest_may_be_given_as_text_or_as_a_path(plugin_from: Any) -> None:
    file = plugin_from.manifest(SOURCE)
    with plugin_from.host() as plugins:
        plugins.load(str(file)).close()
        plugins.load(Path(file)).close()


def test_the_same_name_twice_is_a_value_error_and_the_first_goes_on(plugin_from: Any) -> None:
    first = plugin_from(SOURCE, plugin={"name": "same"})
    with pytest.raises(ValueError, match="'same' is loaded already"):
        plugin_from(SOURCE, plugin={"name": "same"}, into=first._owner)
    assert first.call("library") == "pluggy"
    assert list(first._owner) == [first]


def test_a_plugin_host_lists_its_plugins(plugin_from: Any) -> None:
    owner = plugin_from.host()
    plugins = [plugin_from(SOURCE, into=owner) for _ in range(2)]
    assert list(owner) == plugins
    plugins[0].close()
    assert list(owner) == plugins[1:]


@pytest.mark.parametrize(
    "options",
    [{"on_failure": "ignore"}, {"start": "spawn"}, {"tier": "strong"}, {"minimum_tier": "none"}],
)
def test_an_option_that_is_none_is_a_value_error(plugin_from: Any, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="is"):
        plugin_from.host(**options)


@pytest.mark.parametrize("options", [{"tier": "hooked"}, {"tier": "confined", "minimum_tier": "walled"}])
def test_below_the_minimum_tier_there_is_no_host_at_all(plugin_from: Any, options: dict[str, str]) -> None:
    with pytest.raises(host.LockdownUnavailable):
        plugin_from.host(**options)


@pytest.mark.parametrize("tier", ["walled", "confined", "filtered", "hooked"])
def test_a_forced_tier_is_the_one_that_workers_run_at(plugin_from: Any, tier: str) -> None:
    plugin = plugin_from(SOURCE, tier=tier, minimum_tier="hooked")
    assert plugin.tier == plugin._owner.tier == tier
    with pytest.raises(host.PermissionDenied):
        plugin.call("read", path="/etc/hostname")


# --- grants


def test_by_default_nothing_is_granted_and_the_error_says_how_to_run_in_development(plugin_from: Any) -> None:
    with host.PluginHost("tests") as plugins, pytest.raises(host.Pending) as caught:
        plugins.load(plugin_from.manifest(SOURCE))
    assert 'grants="requested"' in str(caught.value)
    assert "--grants requested" in str(caught.value)
    assert caught.value.plugin == "plugin-1"
    assert caught.value.status == 3


FOLDER: Final = Path("/etc")
REQUEST: Final = {"fs.read": [str(FOLDER)]}
OPTIONAL: Final = {"fs.read": [{"target": str(FOLDER), "optional": True}]}
GRANTS: Final[dict[str, Callable[[host.Grant], Any]]] = {
    "for all": lambda grant: grant,
    "by name": lambda grant: {"plugin-1": grant, "other": host.Grant()},
}


@pytest.mark.parametrize("way", GRANTS)
def test_what_is_granted_can_be_used(plugin_from: Any, way: str) -> None:
    plugin = plugin_from(SOURCE, permissions=REQUEST, grants=GRANTS[way](host.Grant({"fs.read": ["/"]})))
    assert plugin.call("read", path="/etc/hostname") == Path("/etc/hostname").read_text()
    assert plugin.permissions == {"fs.read": ("/etc",)}


@pytest.mark.parametrize("way", GRANTS)
def test_what_is_requested_but_not_granted_is_pending(plugin_from: Any, way: str) -> None:
    with pytest.raises(host.Pending, match="requested but not granted"):
        plugin_from(SOURCE, permissions=REQUEST, grants=GRANTS[way](host.Grant({"fs.read": ["/srv"]})))


def test_a_plugin_that_no_grant_names_is_pending_even_when_it_requests_nothing(plugin_from: Any) -> None:
    with pytest.raises(host.Pending, match="not among the grants"):
        plugin_from(SOURCE, grants={"other": host.Grant()})


def test_a_request_above_the_ceiling_is_refused(plugin_from: Any) -> None:
    with pytest.raises(host.CeilingExceeded) as caught:
        plugin_from(SOURCE, permissions=REQUEST, ceiling=host.Grant({"fs.read": ["/srv"]}))
    assert caught.value.status == 6


def test_an_optional_request_above_the_ceiling_is_withheld(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions=OPTIONAL, ceiling=host.Grant())
    assert plugin.permissions == {}
    with pytest.raises(host.PermissionDenied):
        plugin.call("read", path="/etc/hostname")


def test_a_deny_of_the_operators_holds_against_the_manifest(plugin_from: Any) -> None:
    grant = host.Grant({"fs.read": ["/etc"], "deny": {"fs.read": ["/etc/hostname"]}})
    plugin = plugin_from(SOURCE, permissions=REQUEST, grants=grant)
    with pytest.raises(host.PermissionDenied):
        plugin.call("read", path="/etc/hostname")
    assert plugin.call("read", path="/etc/passwd")


def test_code_outside_the_manifests_folder_needs_the_grant(plugin_from: Any) -> None:
    code = plugin_from.folder / "code"
    code.mkdir()
    (code / "plugin.py").write_text(
        f"from sandbox_worker.plugin_api import HookimplMarker\nhookimpl = HookimplMarker('tests'){SOURCE}"
    )
    outside = {"path": "../code"}
    assert plugin_from("", plugin=outside).call("library") == "pluggy"
    with pytest.raises(host.Pending, match=str(code)):
        plugin_from("", plugin=outside, grants=host.Grant())
    with pytest.raises(host.CeilingExceeded):
        plugin_from("", plugin=outside, ceiling=host.Grant({"fs.read": ["/srv"]}))
    granted = host.Grant({"fs.read": [str(code)]})
    assert plugin_from("", plugin=outside, grants=granted).call("library") == "pluggy"


def test_the_applications_packages_need_the_grant_and_can_then_be_imported(plugin_from: Any) -> None:
    source = "@hookimpl\ndef name_of(): return __import__('iniconfig').__name__"
    with pytest.raises(ModuleNotFoundError):
        plugin_from(source).call("name_of")
    assert plugin_from(source, plugin={"environment": "host"}).call("name_of") == "iniconfig"
    with pytest.raises(host.Pending):
        plugin_from(source, plugin={"environment": "host"}, grants=host.Grant())


# --- the end


def test_closing_a_host_ends_its_plugins_and_is_idempotent(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    plugin._owner.close()
    plugin._owner.close()
    assert (plugin.state, plugin.pid) == ("STOPPED", None)
    with pytest.raises(host.HostError, match="closed"):
        plugin.call("library")
    with pytest.raises(host.HostError, match="closed"):
        plugin_from(SOURCE, into=plugin._owner)


def test_with_closes_even_when_its_block_raises(plugin_from: Any) -> None:
    plugins = plugin_from.host()
    plugin = plugin_from(SOURCE, into=plugins)
    with pytest.raises(LookupError), plugins:
        raise LookupError
    assert plugin.state == "STOPPED"


def test_two_hosts_have_nothing_to_do_with_each_other(plugin_from: Any) -> None:
    one, two = plugin_from(SOURCE, plugin={"name": "same"}), plugin_from(SOURCE, plugin={"name": "same"})
    one._owner.close()
    assert two.call("library") == "pluggy"
    assert two.pid not in (None, os.getpid())
