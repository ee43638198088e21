"""Promises of the plan: the hook's tables and the kernel's rules say the same, and no more than was granted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.model import plan
from host.model.grants import Effective
from host.model.manifest import Limits
from host.model.plan import Places
from sandbox_worker.permissions import decide, parse_rule

NOWHERE: Final = Places(path=(), readable=(), devices=(), hidden=())


def effective(kind: str = "fs.read", allow: list[str] = [], deny: list[str] = []) -> Effective:  # noqa: B006
    rules = [tuple(parse_rule(kind, text) for text in texts) for texts in (allow, deny)]
    return Effective({kind: rules[0]}, {kind: rules[1]}, Limits())


# --- the hook's tables

PARTS: Final = st.lists(st.sampled_from(["a", "b", "c", "proc"]), max_size=3)
PATHS: Final = PARTS.map(lambda parts: "/" + "/".join(parts))


@given(st.lists(PATHS, max_size=3), st.lists(PATHS, max_size=2), PATHS)
def test_the_hooks_table_decides_as_the_rules_do(allow: list[str], deny: list[str], path: str) -> None:
    found = effective("fs.read", allow, deny)
    table = plan.hook_table("fs.read", found, (), NOWHERE)
    assert plan.allows(table, path) == decide("fs.read", found.allow["fs.read"], found.deny["fs.read"], path).allowed


def test_the_plugins_folder_and_what_every_worker_reads_are_readable_but_not_writable() -> None:
    places = Places(path=("/p",), readable=("/usr/lib/python3",), devices=("/dev/urandom",), hidden=())
    read, write = (plan.hook_table(kind, effective(kind), (), places) for kind in plan.FILE_KINDS)
    for path in ("/p/x.py", "/usr/lib/python3/os.py", "/dev/urandom"):
        assert plan.allows(read, path)
        assert not plan.allows(write, path)
    assert plan.allows(write, "/dev/null")
    assert not plan.allows(read, "/dev/zero")


def test_other_peoples_packages_inside_the_library_stay_hidden_unless_a_rule_says_otherwise() -> None:
    places = Places(path=(), readable=("/lib",), devices=(), hidden=("/lib/site-packages",))

    def allows(allow: list[str], path: str) -> bool:
        return plan.allows(plan.hook_table("fs.read", effective(allow=allow), (), places), path)

    assert allows([], "/lib/os.py")
    assert not allows([], "/lib/site-packages/x.py")
    assert allows(["/lib/site-packages"], "/lib/site-packages/x.py")
    assert allows(["/"], "/lib/site-packages/x.py")
    assert allows(["/lib/site-packages/numpy"], "/lib/site-packages/numpy/x.py")


def test_a_path_may_be_spelled_as_the_manifest_spells_it() -> None:
    found = effective(allow=["/real"])
    table = plan.hook_table("fs.read", found, [parse_rule("fs.read", "/link")], NOWHERE)
    assert plan.allows(table, "/link/x")
    assert plan.allows(table, "/real/x")


# --- the kernel's rules


def tree(*files: str) -> Any:
    """`children` of a made-up file system."""
    found: dict[str, list[str]] = {}
    for file in files:
        for parent in Path(file).parents:
            below = found.setdefault(str(parent), [])
            child = "/" + "/".join(Path(file).parts[1 : len(parent.parts) + 1])
            below += [child] if child not in below else []
    return found.get


def reached(rules: list[tuple[str, str]], path: str, access: str) -> bool:
    return any(
        access in rights and (path == outer or path.startswith(outer.rstrip("/") + "/")) for outer, rights in rules
    )


def test_a_grant_without_denies_is_one_rule() -> None:
    assert plan.kernel_rules(effective(allow=["/srv/in"]), (), tree()) == [("/srv/in", "r")]


def test_read_and_write_of_one_folder_are_one_rule() -> None:
    both = Effective(
        {kind: (parse_rule(kind, "/d"),) for kind in plan.FILE_KINDS}, dict.fromkeys(plan.FILE_KINDS, ()), Limits()
    )
    assert plan.kernel_rules(both, (), tree()) == [("/d", "rw")]


def test_a_deny_inside_an_allowed_folder_leaves_its_siblings() -> None:
    rules = plan.kernel_rules(
        effective(allow=["/s"], deny=["/s/b/x"]), (), tree("/s/a/1", "/s/b/x/1", "/s/b/y", "/s/c")
    )
    for path in ("/s/a/1", "/s/b/y", "/s/c"):
        assert reached(rules, path, "r")
    assert not reached(rules, "/s/b/x/1", "r")
    assert ("/s", "l") in rules


def test_everything_never_includes_proc_sys_and_dev() -> None:
    files = tree("/etc/passwd", "/proc/1/mem", "/sys/kernel", "/dev/sda")
    rules = plan.kernel_rules(effective(allow=["*"]), (), files)
    assert reached(rules, "/etc/passwd", "r")
    assert not any(reached(rules, path, "r") for path in ("/proc/1/mem", "/sys/kernel", "/dev/sda"))


def test_a_special_tree_is_granted_when_the_rule_itself_lies_in_it() -> None:
    assert plan.kernel_rules(effective(allow=["/proc/cpuinfo"]), (), tree()) == [("/proc/cpuinfo", "r")]


def test_a_denied_grant_gives_no_rule_at_all() -> None:
    assert plan.kernel_rules(effective(allow=["/s/a"], deny=["/s"]), (), tree("/s/a/x")) == []


def test_a_deny_also_holds_for_what_every_worker_reads() -> None:
    rules = plan.kernel_rules(effective(deny=["/p/private"]), ("/p",), tree("/p/x.py", "/p/private/key"))
    assert reached(rules, "/p/x.py", "r")
    assert not reached(rules, "/p/private/key", "r")


FILES: Final = ["/" + "/".join(p) for p in (*"abc", "proc")] + [f"/{x}/{y}" for x in (*"abc", "proc") for y in "abc"]


@given(
    st.lists(PATHS, max_size=3), st.lists(PATHS, max_size=3), st.sampled_from([f for f in FILES if f.count("/") == 2])
)
def test_the_kernel_grants_exactly_what_the_rules_allow(allow: list[str], deny: list[str], path: str) -> None:
    """Of files: a folder that holds something denied can be listed and no more."""
    found = effective("fs.read", allow, deny)
    rules = plan.kernel_rules(found, (), tree(*FILES))
    expected = decide("fs.read", found.allow["fs.read"], found.deny["fs.read"], path).allowed
    if not any(rule.text.startswith(path + "/") for rule in found.deny["fs.read"]):
        assert reached(rules, path, "r") == expected
    assert expected or not reached(rules, path, "r")


# --- environment, limits, settings


def environment(
    allow: list[str], available: dict[str, str], deny: tuple[str, ...] = (), tmp: str | None = None
) -> dict[str, str]:
    return plan.environment(effective("env", allow, list(deny)), available, tmp)


def test_the_environment_is_what_is_granted_and_the_locale() -> None:
    available = {"LANG": "de", "MYAPP_A": "1", "MYAPP": "2", "SECRET": "3", "LD_PRELOAD": "x", "PYTHONPATH": "y"}
    assert environment(["LANG", "MYAPP_*"], available) == {"LANG": "de", "MYAPP_A": "1", "LC_CTYPE": "C.UTF-8"}
    assert environment([], available) == {"LC_CTYPE": "C.UTF-8"}


def test_a_denied_variable_stays_out_whatever_allows_it() -> None:
    assert environment(["*"], {"A": "1", "B": "2"}, deny=("B",)) == {"A": "1", "LC_CTYPE": "C.UTF-8"}


def test_the_locale_is_fixed_even_when_the_application_has_another() -> None:
    assert environment(["*"], {"LC_CTYPE": "de_DE"})["LC_CTYPE"] == "C.UTF-8"


def test_tmpdir_points_to_the_plugins_own_folder_where_it_has_one() -> None:
    assert environment(["*"], {"TMPDIR": "/tmp"}, tmp="/tmp/own")["TMPDIR"] == "/tmp/own"
    assert "TMPDIR" not in environment([], {"TMPDIR": "/tmp"})


def test_limits_become_resource_limits_that_leave_room_for_the_interpreter() -> None:
    found = plan.resource_limits(Limits(memory=1 << 20, open_files=10, file_size=77))
    assert found["core"] == 0
    assert found["fsize"] == 77
    assert found["nofile"] > 10
    assert found["data"] > 1 << 20
    assert set(found) == {"core", "data", "as", "nofile", "fsize", "stack", "sigpending"}


def test_settings_are_plain_data_that_can_cross() -> None:
    from sandbox_worker import wire

    places = Places(path=("/p",), readable=(), devices=(), hidden=())
    tables = {kind: plan.hook_table(kind, effective(kind, ["/srv"]), (), places) for kind in plan.FILE_KINDS}
    made = plan.settings(tables, places, tier="confined")
    wire.check(made)
    assert (made["path"], made["tier"], made["read"][0]) == (["/p"], "confined", ["/srv/", "/p/"])


@pytest.mark.parametrize("kind", plan.FILE_KINDS)
def test_a_table_never_holds_a_prefix_that_matches_half_a_name(kind: str) -> None:
    table = plan.hook_table(
        kind, effective(kind, ["/srv/in"]), (), Places(("/p",), ("/lib",), ("/dev/null",), ("/lib/x",))
    )
    assert all(prefix.endswith("/") and os.path.isabs(prefix) for prefixes in table for prefix in prefixes)
