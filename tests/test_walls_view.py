"""What a worker of tier `walled` sees, as a list: pure rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.walls.view import HIDDEN, View, arrange, covers

PATHS = st.lists(st.sampled_from("a b ab a-b".split()), max_size=3).map(lambda parts: "/" + "/".join(parts))
RULES = st.lists(st.tuples(PATHS, st.sampled_from(["r", "rw", "w", "l", "x", "n"])), max_size=8)


def told(view: View) -> list[tuple[str, str]]:
    """Each mount's path, and x for executable, w for writable, n for a cover, d for devices."""
    flags = (("n", "hidden"), ("x", "executable"), ("w", "writable"), ("d", "devices"))
    return [(m.path, "".join(letter for letter, name in flags if getattr(m, name))) for m in view.mounts]


def test_outer_mounts_come_first() -> None:
    rules = [("/a/b", "w"), ("/a-b", "r"), ("/a", "r")]
    assert told(arrange([], rules, [])) == [("/a", ""), ("/a/b", "w"), ("/a-b", "")]


def test_a_mount_that_would_change_nothing_is_left_out() -> None:
    assert told(arrange([], [("/a", "r"), ("/a/b", "l"), ("/a/b/c", "r")], [])) == [("/a", "")]


def test_a_readable_folder_in_a_writable_one_is_closed_for_writing_again() -> None:
    assert told(arrange([], [("/a", "rw"), ("/a/b", "r")], [])) == [("/a", "w"), ("/a/b", "")]


def test_folders_above_what_may_be_written_less_are_mounts_so_that_nobody_moves_them() -> None:
    hidden = [("/a", "rw"), ("/a/b/c/d", "n")]
    assert told(arrange([], hidden, [])) == [("/a", "w"), ("/a/b", "w"), ("/a/b/c", "w"), ("/a/b/c/d", "n")]
    kept = [("/", "rw"), ("/a/b", "r"), ("/a/b/c/d", "n")]
    assert told(arrange([], kept, [])) == [("/", "w"), ("/a", "w"), ("/a/b", ""), ("/a/b/c/d", "n")]
    named = [("/a", "rw"), ("/a/b", "rw"), ("/a/b/c", "r")]
    assert told(arrange([], named, [])) == [("/a", "w"), ("/a/b", "w"), ("/a/b/c", "")]
    library = arrange([("/a/lib/python", "x")], [("/a", "rw")], [])
    assert told(library) == [("/a", "w"), ("/a/lib", "w"), ("/a/lib/python", "x")]
    devices = arrange([("/dev/null", "rw"), ("/dev/x/y", "r")], [("/", "rw")], [])
    assert told(devices) == [("/", "w"), ("/dev/null", "wd"), ("/dev/x/y", "d")]


def test_what_holds_for_all_workers_wins_at_the_same_path() -> None:
    """No grant makes the standard library writable, or a plugin's folder a source of native code."""
    assert told(arrange([("/lib", "x")], [("/lib", "rw")], [])) == [("/lib", "x")]


def test_nothing_is_executable_and_writable() -> None:
    assert told(arrange([("/lib", "wx")], [], [])) == [("/lib", "x")]


def test_a_cover_of_what_is_not_there_is_left_out() -> None:
    assert told(arrange([], [("/a", "n"), ("/b", "r"), ("/b/c", "n")], [])) == [("/b", ""), ("/b/c", "n")]


def test_a_grant_beneath_a_cover_shows_through() -> None:
    view = arrange([], [("/a", "r"), ("/a/b", "n"), ("/a/b/c", "r")], [])
    assert told(view) == [("/a", ""), ("/a/b", "n"), ("/a/b/c", "")]
    assert [mount.in_tree for mount in view.mounts] == [False, True, False]


def test_devices_work_only_below_dev() -> None:
    assert told(arrange([("/dev/null", "r")], [("/srv/dev", "r")], [])) == [("/dev/null", "d"), ("/srv/dev", "")]


@given(RULES, RULES)
def test_a_plain_mount_has_only_plain_ones_around_it(base: list[tuple[str, str]], own: list[tuple[str, str]]) -> None:
    """They are restricted in one call that reaches all that is mounted in them: nothing in there may be more."""
    mounts = arrange(base, own, []).mounts
    for mount in mounts:
        around = [other for other in mounts if mount.path.startswith(other.path.rstrip("/") + "/")]
        more = mount.hidden or mount.executable or mount.writable or mount.devices or mount.path == "/"
        assert mount.plain == (not more and all(other.plain for other in around))


def test_links_are_made_where_no_mount_brings_them() -> None:
    links = [("/lib", "usr/lib"), ("/a/link", "b"), ("/a/no/link", "x")]
    assert arrange([], [("/a", "r"), ("/a/no", "n")], links).links == (("/lib", "usr/lib"), ("/a/no/link", "x"))


def innermost(view: View, path: str) -> object:
    """The mount that decides about a path."""
    around = [m for m in view.mounts if path == m.path or path.startswith(m.path.rstrip("/") + "/")]
    return around[-1] if around else None


@given(RULES, RULES, PATHS)
def test_nothing_is_seen_that_no_rule_names(base: list[tuple[str, str]], own: list[tuple[str, str]], path: str) -> None:
    if innermost(arrange(base, own, []), path) is not None:
        assert any(path == p or path.startswith(p.rstrip("/") + "/") for p, a in (*base, *own) if a != HIDDEN)


@given(RULES, RULES)
def test_leaving_mounts_out_changes_nothing(base: list[tuple[str, str]], own: list[tuple[str, str]]) -> None:
    """At each path of a rule the innermost mount is as the rules for this very path say."""
    view = arrange(base, own, [])
    merged: dict[str, set[str]] = {}
    for path, access in own:
        merged.setdefault(path, set()).update(access)
    merged |= {path: set(access) for path, access in base}
    for path, access in merged.items():
        mount = innermost(view, path)
        hidden = access == {HIDDEN}
        assert (mount is None and hidden) or mount is not None
        if mount is not None:
            assert (mount.hidden, mount.executable) == (hidden, "x" in access)  # type: ignore[attr-defined]
            assert mount.writable == ("w" in access and "x" not in access)  # type: ignore[attr-defined]


def slots(view: View) -> list[tuple[object, ...]]:
    """All that is to be said of each mount, in order; how it came to be what it is does not matter."""
    return [tuple(getattr(mount, name) for name in mount.__slots__ if name != "access") for mount in view.mounts]


@given(RULES, RULES)
def test_a_view_that_only_adds_to_another_is_told_by_what_it_adds(
    base: list[tuple[str, str]], own: list[tuple[str, str]]
) -> None:
    begun, whole = arrange(base, [], []), arrange(base, own, [])
    if (more := whole.beyond(begun)) is not None:
        assert slots(begun.extended(more, ())) == slots(whole)
        assert not any(covers(path, mount.path) for path, _ in more for mount in begun.mounts)


def test_a_view_that_changes_another_does_not_only_add_to_it() -> None:
    begun = arrange([("/a/b", "x")], [], [])
    assert arrange([("/a/b", "x")], [("/c", "r"), ("/a/b/c", "w")], []).beyond(begun) == [("/a/b/c", "w"), ("/c", "r")]
    for own in ([("/a", "r")], [("/", "r")], [("/a", "x")]):
        assert arrange([("/a/b", "x")], own, []).beyond(begun) is None
    assert arrange([], [("/c", "r")], []).beyond(begun) is None
