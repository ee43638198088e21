"""Network grants: `private`, and rules that are judged each for itself once there is an address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from host.errors import CeilingExceeded, GrantError, ManifestError, Pending
from host.model.grants import Effective, Grant, effective, requested
from host.model.manifest import load_manifest
from host.model.plan import broker_policy, network, network_tables
from sandbox_worker.permissions import parse_rule

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
    policy = broker_policy(found)
    assert [[row[1] for row in layer] for layer in policy["layers"]] == [
        ["a.example:443", "127.0.0.1:80"], ["*", "*"], ["*.example", "127.0.0.0/8"],
    ]  # fmt: skip
    assert policy["deny"] == [["net.connect", "10.0.0.0/8", False]]


def test_what_is_granted_without_bounds_is_one_layer(tmp_path: Path) -> None:
    assert len(broker_policy(decided(tmp_path, 'net.connect = ["a.example"]\n', None))["layers"]) == 1


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


# --- unix sockets


def unix(folder: Path, grant: Grant | None, ceiling: Grant | None = None) -> Effective:
    return decided(folder, 'net.connect = ["unix:${data}/s"]\nnet.listen = ["unix:/run/x"]\n', grant, ceiling)


def test_a_unix_socket_is_requested_behind_a_variable_and_by_path(tmp_path: Path) -> None:
    found = unix(tmp_path, None)
    assert [rule.text for rule in found.allow["net.connect"]] == ["unix:/d/s"]
    assert [rule.text for rule in found.allow["net.listen"]] == ["unix:/run/x"]
    assert network(found) == ("connect", "listen", "unix")
    assert broker_policy(found)["layers"] == [
        [["net.connect", "unix:/d/s", False], ["net.listen", "unix:/run/x", False]]
    ]


@pytest.mark.parametrize("connect", ["*", "unix:${data}", "unix:${data}/t", "unix:/run/x"])
def test_a_unix_socket_needs_a_grant_of_its_very_path(tmp_path: Path, connect: str) -> None:
    with pytest.raises(Pending):
        unix(tmp_path, Grant({"net.connect": [connect], "net.listen": ["unix:/run/x"]}))


def test_a_unix_socket_needs_a_ceiling_of_its_very_path(tmp_path: Path) -> None:
    with pytest.raises(CeilingExceeded):
        unix(tmp_path, None, Grant({"net.connect": ["*"], "net.listen": ["*"]}))
    unix(tmp_path, None, Grant({"net.connect": ["*", "unix:${data}/s"], "net.listen": ["unix:/run/x"]}))


@pytest.mark.parametrize(
    "target", ["unix:${nothing}/s", "unix:${data}x", "unix:${data}/../s", "unix:s", "${data}/s", "unix:/a/${data}"]
)
def test_a_path_that_leads_elsewhere_is_no_request(tmp_path: Path, target: str) -> None:
    with pytest.raises(ManifestError) as refused:
        decided(tmp_path, f'net.connect = ["{target}"]\n', None)
    assert refused.value.key == "permissions.net.connect[0]"


def test_a_private_unix_socket_is_no_request(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="private"):
        decided(tmp_path, 'net.connect = [{ target = "unix:/run/x", private = true }]\n', None)


def test_the_path_of_a_unix_socket_is_resolved_and_the_hook_knows_its_spelling(tmp_path: Path) -> None:
    file = tmp_path / "plughold.toml"
    file.write_text(
        'schema = 1\n[plugin]\nname = "p"\nversion = "1"\nproject = "t"\nentry = "m"\n'
        '[permissions]\nnet.connect = ["unix:/link/s"]\n'
    )
    manifest = load_manifest(file)
    requests = requested(manifest, VARIABLES, [])
    found = effective(manifest, requests, None, None, VARIABLES, lambda path: path.replace("/link", "/real"))
    assert [rule.text for rule in found.allow["net.connect"]] == ["unix:/real/s"]
    tables = network_tables(found, [parse_rule("net.connect", "unix:/link/s"), parse_rule("net.listen", "unix:/no")])
    assert [row[0] for row in tables["net.connect"][0]] == ["unix:/real/s", "unix:/link/s"]  # type: ignore[index]
