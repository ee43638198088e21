"""Promises of the grant: what a plugin may is what it requests, as far as grant and ceiling allow, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import CeilingExceeded, GrantError, Pending
from host.model.grants import Effective, Grant, cap, effective, requested
from host.model.manifest import Entry, Limits, Manifest
from sandbox_worker.permissions import covers, decide, parse_rule

VARIABLES: Final = {"plugin": "/p", "data": "/data/p", "tmp": "/tmp/p", "home": "/home/u"}


def manifest(*entries: Entry, deny: tuple[Entry, ...] = (), limits: Limits = Limits()) -> Manifest:  # noqa: B008
    return Manifest(
        file=Path("/p/plughold.toml"), name="p", version="1", project="tests", entry="p", path=Path("/p"),
        permissions=entries, deny=deny, limits=limits,
    )  # fmt: skip


def decide_on(
    found: Manifest,
    grant: Grant | None = None,
    ceiling: Grant | None = None,
    implied: tuple[tuple[str, str], ...] = (),
    resolve: Any = str,
) -> Effective:
    return effective(found, requested(found, VARIABLES, implied), grant, ceiling, VARIABLES, resolve)


def texts(found: Effective, kind: str = "fs.read") -> list[str]:
    return [rule.text for rule in found.allow.get(kind, ())]


READ_IN: Final = manifest(Entry("fs.read", "/srv/in"))


def test_without_a_grant_all_that_is_requested_is_granted() -> None:
    found = decide_on(manifest(Entry("fs.read", "/srv/in"), Entry("env", "LANG")))
    assert (texts(found), texts(found, "env")) == (["/srv/in"], ["LANG"])


def test_a_grant_gives_no_more_than_is_requested() -> None:
    assert texts(decide_on(READ_IN, Grant({"fs.read": ["/srv"], "fs.write": ["/srv"], "env": ["*"]}))) == ["/srv/in"]
    assert set(decide_on(READ_IN, Grant({"fs.read": ["/"], "env": ["*"]})).allow) == {"fs.read"}


@pytest.mark.parametrize("targets", [[], ["/srv/input"], ["/srv/in/deeper"]])
def test_a_request_that_is_not_granted_is_pending_and_named(targets: list[str]) -> None:
    with pytest.raises(Pending, match=r"p: fs\.read = \['/srv/in'\]") as caught:
        decide_on(READ_IN, Grant({"fs.read": targets}))
    assert caught.value.plugin == "p"


def test_a_request_above_the_ceiling_is_refused_even_when_granted() -> None:
    with pytest.raises(CeilingExceeded, match="ceiling"):
        decide_on(READ_IN, Grant({"fs.read": ["/srv"]}), Grant({"fs.read": ["/var"]}))
    with pytest.raises(CeilingExceeded):
        decide_on(READ_IN, None, Grant())


def test_what_is_neither_granted_nor_below_the_ceiling_is_pending_first() -> None:
    with pytest.raises(Pending):
        decide_on(READ_IN, Grant(), Grant())


@pytest.mark.parametrize(("grant", "ceiling"), [(Grant(), None), (None, Grant()), (Grant(), Grant())])
def test_an_optional_request_is_withheld_instead_and_listed(grant: Grant | None, ceiling: Grant | None) -> None:
    found = decide_on(manifest(Entry("fs.read", "${data}", optional=True)), grant, ceiling)
    assert texts(found) == []
    assert found.withheld == (("fs.read", "${data}"),)


def test_variables_mean_the_same_folder_in_request_grant_and_ceiling() -> None:
    found = manifest(Entry("fs.write", "${data}"))
    assert texts(decide_on(found, Grant({"fs.write": ["${data}"]}), Grant({"fs.write": ["/data"]})), "fs.write") == [
        "/data/p"
    ]


def test_paths_are_judged_where_they_lead() -> None:
    links = {"/srv/in": "/etc", "/srv": "/srv"}
    with pytest.raises(Pending):
        decide_on(READ_IN, Grant({"fs.read": ["/srv"]}), resolve=links.__getitem__)
    assert texts(decide_on(READ_IN, resolve=links.__getitem__)) == ["/etc"]


def test_what_a_manifest_implies_needs_the_grant_and_obeys_the_ceiling() -> None:
    implied = (("fs.read", "/opt/lib"),)
    assert texts(decide_on(manifest(), implied=implied)) == ["/opt/lib"]
    with pytest.raises(Pending):
        decide_on(manifest(), Grant(), implied=implied)
    with pytest.raises(CeilingExceeded):
        decide_on(manifest(), None, Grant({"fs.read": ["/srv"]}), implied=implied)


def test_denies_of_manifest_grant_and_ceiling_add_up() -> None:
    found = decide_on(
        manifest(Entry("fs.read", "/srv"), deny=(Entry("fs.read", "/srv/a"),)),
        Grant({"fs.read": ["/"], "deny": {"fs.read": ["/srv/b"]}}),
        Grant({"fs.read": ["/"], "deny": {"fs.read": ["${data}"], "env": ["SECRET*"]}}),
    )
    assert [rule.text for rule in found.deny["fs.read"]] == ["/srv/a", "/srv/b", "/data/p"]
    assert [rule.text for rule in found.deny["env"]] == ["SECRET*"]


PATHS: Final = st.lists(st.sampled_from("abc"), max_size=3).map(lambda parts: "/" + "/".join(parts))
GRANTS: Final = st.none() | st.builds(
    lambda allow, deny: Grant({"fs.read": allow, "deny": {"fs.read": deny}}),
    st.lists(PATHS, max_size=3), st.lists(PATHS, max_size=2),
)  # fmt: skip


@given(st.lists(PATHS, max_size=4, unique=True), GRANTS, GRANTS, PATHS)
def test_whatever_is_allowed_was_requested_granted_and_below_the_ceiling_and_no_deny_covers_it(
    wanted: list[str], grant: Grant | None, ceiling: Grant | None, path: str
) -> None:
    found = decide_on(manifest(*(Entry("fs.read", target, optional=True) for target in wanted)), grant, ceiling)
    allowed = decide("fs.read", found.allow.get("fs.read", ()), found.deny["fs.read"], path).allowed
    asked = parse_rule("fs.read", path)
    sides = [wanted, *(side.permissions["fs.read"] for side in (grant, ceiling) if side is not None)]
    denies = itertools.chain(*(side.permissions["deny"]["fs.read"] for side in (grant, ceiling) if side is not None))
    if allowed:
        assert all(any(covers(parse_rule("fs.read", outer), asked) for outer in side) for side in sides)
        assert not any(covers(parse_rule("fs.read", outer), asked) for outer in denies)


# --- limits


def test_limits_are_capped_by_grant_and_ceiling_and_never_raised() -> None:
    found = manifest(limits=Limits(memory=100, threads=10, call_timeout=5.0))
    limits = decide_on(
        found, Grant({}, {"memory": 200, "threads": 4}), Grant({}, {"memory": 50, "call_timeout": 9})
    ).limits
    assert (limits.memory, limits.threads, limits.call_timeout) == (50, 4, 5.0)


def test_limits_can_be_written_as_in_a_manifest() -> None:
    limits = cap(Limits(), Grant({}, {"memory": "1 MiB", "call_timeout": "500 ms", "result_size": "2 KiB"}))
    assert (limits.memory, limits.call_timeout, limits.result_size) == (1 << 20, 0.5, 2048)


NUMBERS: Final = st.integers(1, 1 << 40)


@given(st.dictionaries(st.sampled_from(sorted(Limits.__dataclass_fields__)), NUMBERS))
def test_a_cap_is_the_smaller_of_the_two_for_each_limit(caps: dict[str, int]) -> None:
    capped = dataclasses.asdict(cap(Limits(), Grant({}, caps)))
    for name, value in dataclasses.asdict(Limits()).items():
        assert capped[name] == min(value, caps.get(name, value))


@pytest.mark.parametrize(
    "limits",
    [
        {"memory": 0}, {"memory": -1}, {"memory": True}, {"memory": "1 MB"}, {"memory": None}, {"memory": [1]},
        {"call_timeout": "5"}, {"call_timeout": 0.0}, {"threads": "3"}, {"nothing": 1}, {3: 1}, [("memory", 1)], None,
        {"call_timeout": float("nan")}, {"memory": float("inf")},
    ],
)  # fmt: skip
def test_a_malformed_limit_is_a_grant_error_when_the_grant_is_made(limits: Any) -> None:
    with pytest.raises(GrantError):
        Grant({}, limits)


# --- the grant itself


@pytest.mark.parametrize(
    "permissions",
    [
        {"nothing": []}, {"fs.read": "/srv"}, {"fs.read": [1]}, {"fs.read": None}, {"fs.read": ["relative"]},
        {"fs.read": ["/a/\n"]}, {"deny": {"fs.read": ["/a/*"]}},
        {"fs.read": ["${nothing}"]}, {"fs.read": [b"/srv"]}, {"fs.read": b"/srv"}, {"env": ["A B="]},
        {"deny": ["/srv"]}, {"deny": {"nothing": []}}, {"deny": {"fs.read": "/srv"}}, {"deny": {"deny": {}}},
        {"fs.read": [""]}, ["fs.read"], None, "requested", {3: []},
    ],
)  # fmt: skip
def test_a_malformed_grant_is_a_grant_error_when_it_is_made(permissions: Any) -> None:
    with pytest.raises(GrantError):
        Grant(permissions)


def test_a_grant_does_not_change_with_what_it_was_made_from() -> None:
    targets = ["/srv"]
    permissions = {"fs.read": targets, "deny": {"fs.read": ["/srv/a"]}}
    limits: dict[str, float | str] = {"memory": 5}
    grant = Grant(permissions, limits)
    targets.append("/etc")
    permissions["fs.write"] = ["/"]
    limits["memory"] = 7
    assert grant == Grant({"fs.read": ["/srv"], "deny": {"fs.read": ["/srv/a"]}}, {"memory": 5})
    with pytest.raises(TypeError):
        grant.permissions["fs.read"] = ()  # type: ignore[index]


def test_an_empty_grant_grants_nothing() -> None:
    assert decide_on(manifest(), Grant()).allow == {}
