"""What one worker may reach, judged on addresses."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker._addresses import PUBLIC, classify
from sandbox_worker.broker.policy import ALLOWED, CONNECT, DENY_RULE, LISTEN, NO_RULE, Policy, policy_of
from sandbox_worker.permissions import parse_rule

PUBLIC_IP = ipaddress.ip_address("93.184.216.34").packed
LOOPBACK = ipaddress.ip_address("127.0.0.1").packed
MAPPED = ipaddress.ip_address("::ffff:127.0.0.1").packed


def policy(*layers: list[str], deny: list[str] | None = None, private: bool = False, kind: str = CONNECT) -> Policy:
    return Policy(
        [[parse_rule(kind, text, private=private) for text in layer] for layer in layers],
        [parse_rule(kind, text) for text in deny or []],
    )


@pytest.mark.parametrize(
    ("rules", "address", "port", "names", "verdict"),
    [
        (["127.0.0.1:80"], LOOPBACK, 80, [], ALLOWED),
        (["127.0.0.1:80"], LOOPBACK, 81, [], NO_RULE),
        (["127.0.0.1:80"], MAPPED, 80, [], ALLOWED),
        (["127.0.0.0/8"], LOOPBACK, 9, [], ALLOWED),
        (["*"], PUBLIC_IP, 9, [], ALLOWED),
        (["*"], LOOPBACK, 9, [], NO_RULE),
        (["*"], LOOPBACK, 9, ["localhost"], NO_RULE),
        (["localhost:80"], LOOPBACK, 80, [], NO_RULE),
        (["localhost:80"], LOOPBACK, 80, ["localhost"], ALLOWED),
        (["a.example:443"], PUBLIC_IP, 443, ["a.example"], ALLOWED),
        (["a.example:443"], PUBLIC_IP, 80, ["a.example"], NO_RULE),
        (["a.example:443"], PUBLIC_IP, 443, ["b.example"], NO_RULE),
        (["a.example:443"], PUBLIC_IP, 443, [], NO_RULE),
        (["a.example"], LOOPBACK, 443, ["a.example"], NO_RULE),
        (["*.example"], PUBLIC_IP, 443, ["x.a.example"], ALLOWED),
        (["*.example"], PUBLIC_IP, 443, ["example"], NO_RULE),
    ],
)
def test_a_rule_allows_what_it_names(
    rules: list[str], address: bytes, port: int, names: list[str], verdict: str
) -> None:
    assert policy(rules).judge(CONNECT, address, port, names) == verdict


def test_every_layer_must_reach_the_address_itself() -> None:
    """A grant of everything covers the text of a literal, and does not reach a private one."""
    assert policy(["127.0.0.1:80"], ["*"]).judge(CONNECT, LOOPBACK, 80) == NO_RULE
    assert policy(["127.0.0.1:80"], ["127.0.0.0/8"]).judge(CONNECT, LOOPBACK, 80) == ALLOWED


def test_every_layer_must_allow_the_same_name() -> None:
    two = policy(["a.example"], ["b.example"])
    assert two.judge(CONNECT, PUBLIC_IP, 80, ["a.example", "b.example"]) == NO_RULE


def test_deny_wins_over_every_layer_by_address_and_by_name() -> None:
    assert policy(["*"], deny=["93.184.216.0/24"]).judge(CONNECT, PUBLIC_IP, 80) == DENY_RULE
    assert policy(["*"], deny=["evil.example"]).judge(CONNECT, PUBLIC_IP, 80, ["evil.example"]) == DENY_RULE


def test_a_rule_of_one_kind_says_nothing_about_the_other() -> None:
    assert policy(["127.0.0.1"], kind=LISTEN).judge(CONNECT, LOOPBACK, 80) == NO_RULE


def test_private_reaches_a_private_address_of_a_name() -> None:
    assert policy(["db.internal"], private=True).judge(CONNECT, LOOPBACK, 80, ["db.internal"]) == ALLOWED


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 65535))
def test_no_name_rule_ever_reaches_an_address_that_is_not_public(address: Any, port: int) -> None:
    rules = policy(["*"], ["*", "a.example", "*.example"])
    allowed = rules.judge(CONNECT, address.packed, port, ["a.example", "x.example"]) == ALLOWED
    assert allowed == (classify(address.packed) == PUBLIC)


def test_a_name_is_known_when_every_layer_has_it_on_some_port() -> None:
    rules = policy(["*.example:443", "b.test"], ["*.example:443"])
    assert rules.knows("a.example")
    assert not rules.knows("b.test")
    assert not policy(["*"], deny=["a.example"]).knows("a.example")
    assert policy(["*"], deny=["a.example:25"]).knows("a.example")


def test_exact_names_are_those_that_can_be_listed() -> None:
    assert policy(["b.example:1", "a.example", "*.c.example", "10.0.0.1", "*"]).exact_names() == (
        "a.example",
        "b.example",
    )


def test_a_policy_crosses_as_rows() -> None:
    wanted = {
        "layers": [[[CONNECT, "db.internal:5432", True]]],
        "deny": [[CONNECT, "10.0.0.0/8", False], ["fs.read", "/srv/a", False]],
        "writes": [["fs.write", "/srv", False]],
    }
    made = policy_of(wanted)
    assert made.judge(CONNECT, LOOPBACK, 5432, ["db.internal"]) == ALLOWED
    assert made.judge(CONNECT, bytes((10, 0, 0, 1)), 5432, ["db.internal"]) == DENY_RULE
    assert [made.judge_write(path) for path in ("/srv/b", "/srv/a/b", "/srvs")] == [ALLOWED, DENY_RULE, NO_RULE]


@pytest.mark.parametrize(
    "wanted",
    [
        {"layers": [], "deny": [], "writes": []},
        {"layers": [[["net.connect", "a b", False]]], "deny": [], "writes": []},
        {"layers": [[]], "deny": [], "writes": [["fs.write", "a", False]]},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"legal|layers"):
        policy_of(wanted)
