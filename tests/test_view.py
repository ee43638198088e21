"""What a walled worker's file system is planned from: covers over denied paths, links by which paths are spelled."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from host.model.grants import Effective
from host.model.manifest import Limits
from host.model.plan import covers
from host.model.view import HIDDEN, FileSystem, links_to, walled_rules
from sandbox_worker.permissions import Rule, decide, parse_rule
from sandbox_worker.walls.view import arrange

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Files:
    """A file system made of paths: those that end in a slash are folders, links have a target."""

    paths: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def children(self, folder: str) -> list[str] | None:
        return [p for p in self._plain() if p != folder and p.rpartition("/")[0] == folder.rstrip("/")] or None

    def exists(self, path: str) -> bool:
        return path in self._plain()

    def readlink(self, path: str) -> str | None:
        return dict(self.links).get(path)

    def asked(self) -> FileSystem:
        return FileSystem(self.children, self.exists, self.readlink)

    def _plain(self) -> list[str]:
        return [path.rstrip("/") for path in self.paths]


def rules(
    files: Files,
    *,
    read: Iterable[str] = (),
    write: Iterable[str] = (),
    no_read: Iterable[str] = (),
    no_write: Iterable[str] = (),
) -> dict[str, str]:
    """The rules of a plugin with these grants and denies."""

    effective = effective_of(read, write, no_read, no_write)
    return dict(walled_rules(effective, (), files.asked()))


def effective_of(
    read: Iterable[str], write: Iterable[str], no_read: Iterable[str], no_write: Iterable[str]
) -> Effective:
    """What a plugin may, from paths."""

    def parsed(reading: Iterable[str], writing: Iterable[str]) -> dict[str, tuple[Rule, ...]]:
        return {
            "fs.read": tuple(parse_rule("fs.read", path) for path in reading),
            "fs.write": tuple(parse_rule("fs.write", path) for path in writing),
        }

    return Effective(parsed(read, write), parsed(no_read, no_write), Limits())


DENIED = Files(("/a/", "/a/no/", "/a/yes"))


def test_a_denied_path_is_covered_and_the_folder_granted_whole() -> None:
    assert rules(DENIED, read=["/a"], no_read=["/a/no"]) == {"/a": "r", "/a/no": HIDDEN}


def test_denied_for_writing_alone_it_stays_readable() -> None:
    assert rules(DENIED, read=["/a"], write=["/a"], no_write=["/a/no"]) == {"/a": "rw", "/a/no": "r"}


def test_denied_for_reading_it_is_not_written_either() -> None:
    """Who may rename it, or put another in its place, would get around the deny."""
    assert rules(DENIED, read=["/a"], write=["/a"], no_read=["/a/no"]) == {"/a": "rw", "/a/no": HIDDEN}


def test_denied_for_writing_where_nothing_is_read_it_is_gone() -> None:
    assert rules(DENIED, write=["/a"], no_write=["/a/no"]) == {"/a": "w", "/a/no": HIDDEN}


def test_what_is_not_there_yet_is_left_to_landlock() -> None:
    assert rules(DENIED, read=["/a"], no_read=["/a/new"]) == {"/a": "l", "/a/no": "r", "/a/yes": "r"}


def test_a_deny_outside_every_grant_needs_no_cover() -> None:
    assert rules(DENIED, read=["/a/yes"], no_read=["/a/no"]) == {"/a/yes": "r"}


def test_a_deny_above_a_grant_leaves_nothing_of_it() -> None:
    assert rules(DENIED, read=["/a/no"], no_read=["/a"]) == {}


def test_special_trees_are_covered_where_the_root_is_granted() -> None:
    """And left out of Landlock's rules, which add up."""
    files = Files(("/proc/", "/sys/", "/dev/", "/srv/"))
    covers_of_trees = {"/proc": HIDDEN, "/sys": HIDDEN, "/dev": HIDDEN}
    assert rules(files, read=["*"]) == {"/": "l", "/srv": "r", **covers_of_trees}


def test_a_grant_inside_a_writable_one_stays_writable() -> None:
    """A mount hides the one around it, with what that allows."""
    assert rules(DENIED, read=["/a/yes"], write=["/a"]) == {"/a": "w", "/a/yes": "rw"}


def test_a_grant_in_a_special_tree_stands_beside_its_cover() -> None:
    found = rules(Files(("/proc/", "/proc/cpuinfo")), read=["*", "/proc/cpuinfo"])
    assert (found["/proc"], found["/proc/cpuinfo"]) == (HIDDEN, "r")


NAMES = ("a", "b")
EVERY = [
    "/",
    "/sys",
    "/dev",
    "/proc",
    "/proc/a",
    "/proc/a/b",
    *("/" + "/".join(p) for n in (1, 2, 3) for p in product(NAMES, repeat=n)),
]
SPECIAL = {"/", "/proc", "/sys", "/dev"}
SOME = st.lists(st.sampled_from(EVERY), max_size=3, unique=True)


@given(SOME, SOME, SOME, SOME, st.sets(st.sampled_from(EVERY), max_size=4))
def test_kernel_and_rules_agree_on_every_path(
    read: list[str], write: list[str], no_read: list[str], no_write: list[str], gone: set[str]
) -> None:
    """Landlock and the view together let through what the decision function allows, and nothing else."""
    there = [path for path in EVERY if not any(covers(missing, path) for missing in gone - SPECIAL)]
    effective = effective_of(read, write, no_read, no_write)
    found = walled_rules(effective, (), Files(tuple(f"{path}/" for path in there)).asked())
    mounts = arrange([], found, []).mounts
    for path in there:
        rights = {letter for p, access in found if access != HIDDEN and covers(p, path) for letter in access}
        around = [mount for mount in mounts if covers(mount.path, path)]
        seen = bool(around) and not around[-1].hidden
        may = {
            kind: decide(kind, effective.allow[kind], effective.deny[kind], path).allowed
            for kind in ("fs.read", "fs.write")
        }
        denied = any(covers(rule, path) for rule in no_read)
        # A folder is given up for its entries where something in it can't be covered, or is granted and special.
        whole = path != "/" and all(hole in there or not covers(path, hole) for hole in (*no_read, *no_write))
        assert (seen and "r" in rights) or not may["fs.read"] or not whole
        assert not (seen and "r" in rights) or may["fs.read"]
        writable = seen and around[-1].writable and "w" in rights
        assert writable or not may["fs.write"] or denied or not whole
        assert not writable or (may["fs.write"] and not denied)


def test_every_link_on_the_way_is_named() -> None:
    files = Files(links=(("/a/one", "two"), ("/a/two", "/b"), ("/b/c", "../d")))
    assert dict(links_to(["/a/one/c/e"], files.asked())) == {"/a/one": "two", "/a/two": "/b", "/b/c": "../d"}


def test_a_path_without_links_needs_none() -> None:
    assert links_to(["/a/b/../c", "/"], Files().asked()) == []


def test_links_in_a_circle_end() -> None:
    assert len(links_to(["/a"], Files(links=(("/a", "/a"),)).asked())) == 1


def test_links_are_found_as_the_kernel_finds_them(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/up").symlink_to("..")

    def readlink(path: str) -> str | None:
        return str(Path(path).readlink()) if Path(path).is_symlink() else None

    asked = FileSystem(lambda _: None, lambda _: False, readlink)
    found = dict(links_to([f"{tmp_path.resolve()}/link/up/link"], asked))
    assert found == {f"{tmp_path.resolve()}/link": "real", f"{tmp_path.resolve()}/real/up": ".."}
