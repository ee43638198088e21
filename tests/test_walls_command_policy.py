"""Which commands a worker may start, and which messages are requests: pure, links by an argument."""

from __future__ import annotations

import contextlib
import posixpath
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.walls import command_policy
from sandbox_worker.walls.command_policy import Policy

GIT: Final = "/usr/bin/git"
REQUEST: Final[list[Any]] = [[b"/bin/a"], [b"a"], [b"A=1"], b"/", 0o077]


def place(path: str) -> str:
    """/bin is a link to /usr/bin."""
    return path.replace("/bin/", "/usr/bin/", 1) if path.startswith("/bin/") else posixpath.normpath(path)


def judge(policy: Policy, name: str, *arguments: str, real: str = "") -> str:
    return policy.judge(name, real or name, list(arguments))


def test_a_rule_grants_its_program_and_no_other() -> None:
    policy = Policy([(("/bin/git", None),)], (), place)
    assert judge(policy, GIT, "push") == "allow"
    assert judge(policy, "/usr/bin/git2") == "no-rule"
    assert judge(policy, "/usr/bin") == "no-rule"


def test_a_rule_for_a_link_grants_no_other_name_of_what_it_leads_to() -> None:
    policy = Policy([(("/bin/ls", None),)], (), place)
    assert judge(policy, "/usr/bin/ls", real="/usr/bin/busybox") == "allow"
    assert judge(policy, "/usr/bin/busybox", "sh") == "no-rule"


def test_a_deny_wins_by_name_and_by_what_it_leads_to() -> None:
    policy = Policy([(("*", None),)], ["/usr/bin/mawk"], place)
    assert judge(policy, "/usr/bin/awk", real="/usr/bin/mawk") == "deny-rule"
    assert judge(policy, "/usr/bin/mawk") == "deny-rule"
    assert judge(policy, "/usr/bin/git") == "allow"
    assert judge(Policy([(("*", None),)], ["*"], place), GIT) == "deny-rule"


def test_each_layer_must_allow_the_arguments() -> None:
    request = ((GIT, ("status", "**")), (GIT, ("log",)))
    policy = Policy([request, ((GIT, ("*",)),)], (), place)
    assert judge(policy, GIT, "status") == "allow"
    assert judge(policy, GIT, "log") == "allow"
    assert judge(policy, GIT, "status", "-z") == "arguments"
    assert judge(policy, GIT, "push") == "arguments"


def test_what_is_dropped_stays_refused() -> None:
    policy = Policy([(("*", None),)], (), place)
    policy.drop([GIT])
    assert judge(policy, GIT) == "dropped"
    assert judge(policy, "/usr/bin/sh", real=GIT) == "dropped"
    policy.drop(["*"])
    assert judge(policy, "/usr/bin/sh") == "dropped"


def test_a_policy_without_layers_is_none() -> None:
    with pytest.raises(ValueError, match="without layers"):
        Policy([], (), place)


def test_what_loads_other_code_is_only_as_the_worker_has_it() -> None:
    known = [b"LD_LIBRARY_PATH=/opt"]
    assert command_policy.foreign_loading([b"A=1", b"LD_LIBRARY_PATH=/opt"], known) is None
    assert command_policy.foreign_loading([b"LD_LIBRARY_PATH=/tmp"], known) == "LD_LIBRARY_PATH"
    assert command_policy.foreign_loading([b"LD_PRELOAD="], known) == "LD_PRELOAD"
    assert command_policy.foreign_loading([b"GLIBC_TUNABLES=x"], known) == "GLIBC_TUNABLES"


def test_a_request_is_read() -> None:
    start = command_policy.start_of(REQUEST)
    assert (start.paths, start.argv, start.environment, start.folder, start.umask) == (
        ["/bin/a"], [b"a"], [b"A=1"], "/", 0o077,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, []), (0, [""]), (0, [b"a\0"]), (0, b"/bin/a"), (1, []), (1, [1]), (1, None), (2, [b"A"]), (2, [b"=1"]),
        (2, ["A=1"]), (3, b"relative"), (3, "/"), (3, b""), (4, -1), (4, 0o1777), (4, "0"), (4, True),
    ],
)  # fmt: skip
def test_a_malformed_field_is_no_request(index: int, value: Any) -> None:
    with pytest.raises(ValueError, match="no "):
        command_policy.start_of([value if at == index else field for at, field in enumerate(REQUEST)])


ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.binary(max_size=9) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.lists(ANYTHING, max_size=7))
def test_whatever_comes_is_a_request_or_one_of_two_errors(fields: list[Any]) -> None:
    with contextlib.suppress(ValueError, TypeError):
        command_policy.start_of(fields)
