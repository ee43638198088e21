"""Network grants: `private`, and rules that are judged each for itself once there is an address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from host.errors import GrantError, Pending
from host.model.grants import Effective, Grant, effective, requested
from host.model.manifest import load_manifest
from host.model.plan import network, network_policy, network_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

VARIABLES = {"plugin": "/p", "data": "/d", "tmp": "/t", "home": "/h"}


def decided(folder: Path, requests: str, grant: Grant | None, ceiling: Grant | None = None) -> Effective:
    file = folder / "plughold.toml"
    file.write_text(
        'schema = 1\n[plugin]\nname = "p"\nversion = "1"\nproject = "t"\nentry = "m"\n[permissions]\n' + requests
    )
    manifest = load_manifest(file)
    return effective(manifest, requested(manifest, VARIABLES, []), grant, ceiling, VARIABLES, str)


@pytest.mark.parametrize("private", [False, True])
def test_a_private_request_needs_a_private_grant(tmp_path: Path, private: bool) -> None:
    request = 'net.connect = [{ target = "db.internal:5432", private = true }]\n'
    grant = Grant({"net.connect": [{"target": "*.internal", "private": private}]})
    if not private:
        with pytest.raises(Pending):
            decided(tmp_path, request, grant)
        return
    [rule] = decided(tmp_path, request, grant).allow["net.connect"]
    assert rule.private


@pytest.mark.parametrize(
    "permissions",
    [
        {"net.connect": [{"target": "a.example", "reason": "why"}]},
        {"net.connect": [{"private": True}]},
        {"net.connect": [{"target": "a.example", "private": 1}]},
        {"fs.read": [{"target": "/srv"}]},
        {"net.connect": [{"target": "a b"}]},
    ],
)
def test_a_table_that_is_no_network_target_is_a_grant_error(permissions: Mapping[str, Any]) -> None:
    with pytest.raises(GrantError):
        Grant(permissions)


def test_the_policy_has_a_layer_for_the_request_the_grant_and_the_ceiling(tmp_path: Path) -> None:
    found = decided(
        tmp_path,
        'net.connect = ["a.example:443"]\nnet.listen = ["127.0.0.1:80"]\n'
        '[permissions.deny]\nnet.connect = ["10.0.0.0/8"]\n',
        Grant({"net.connect": ["*"], "net.listen": ["*"]}),
        Grant({"net.connect": ["*.example"], "net.listen": ["127.0.0.0/8"]}),
    )
    policy = network_policy(found)
    assert [[row[1] for row in layer] for layer in policy["layers"]] == [
        ["a.example:443", "127.0.0.1:80"], ["*", "*"], ["*.example", "127.0.0.0/8"],
    ]  # fmt: skip
    assert policy["deny"] == [["net.connect", "10.0.0.0/8", False]]


def test_what_is_granted_without_bounds_is_one_layer(tmp_path: Path) -> None:
    assert len(network_policy(decided(tmp_path, 'net.connect = ["a.example"]\n', None))["layers"]) == 1


@pytest.mark.parametrize(
    ("requests", "wanted"),
    [
        ("", ()),
        ('net.connect = ["127.0.0.1:80"]\n', ("connect",)),
        ('net.connect = ["10.0.0.0/8", "[::1]"]\n', ("connect",)),
        ('net.connect = ["a.example"]\n', ("connect", "names")),
        ('net.connect = ["*"]\n', ("connect", "names")),
        ('net.listen = ["127.0.0.1:80"]\n', ("listen",)),
    ],
)
def test_the_broker_is_asked_for_what_is_granted(tmp_path: Path, requests: str, wanted: tuple[str, ...]) -> None:
    assert network(decided(tmp_path, requests, None)) == wanted


def test_the_hook_gets_patterns_and_ports(tmp_path: Path) -> None:
    tables = network_tables(decided(tmp_path, 'net.connect = ["a.example:80,443", "*.b.example"]\n', None))
    assert tables["net.connect"] == [
        [["name:example.b.", False, None], ["name:example.a", True, [[80, 80], [443, 443]]]], [],
    ]  # fmt: skip
    assert tables["net.listen"] == [[], []]
