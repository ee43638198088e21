"""host.model.links: a rule never leads through a link that a plugin may have planted."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from host.model.links import PlantedLink, resolve, resolver


def planted(path: str, writable: list[str], readlink) -> str | None:
    try:
        resolve(path, writable, readlink)
    except PlantedLink as e:
        return e.link
    return None


def _at(links: dict[str, str]):
    return links.get


def _on_disk(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def test_without_links_in_the_way_it_is_realpath(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "up").symlink_to("a/b/..")
    (tmp_path / "absolute").symlink_to(tmp_path / "up")
    for path in ("a/b", "up/b", "absolute/missing/../x", "a/./b//", "missing"):
        given = os.path.join(tmp_path, path)
        assert resolve(given, [], _on_disk) == os.path.realpath(given)


def test_a_link_in_a_writable_folder_is_found():
    assert planted("/w/sub/f", ["/w"], _at({"/w/sub": "/etc"})) == "/w/sub"


def test_a_link_outside_every_writable_folder_is_followed():
    assert planted("/srv/in/f", ["/w"], _at({"/srv/in": "/data/in"})) is None


def test_a_link_that_leads_to_a_planted_one_is_found():
    assert planted("/srv/in", ["/w"], _at({"/srv/in": "/w/sub", "/w/sub": "/root"})) == "/w/sub"


def test_a_relative_target_is_resolved_from_its_folder():
    assert planted("/srv/a/b", ["/w"], _at({"/srv/a": "../w/x", "/w/x": "y"})) == "/w/x"


def test_the_writable_folder_itself_may_be_reached_through_a_link():
    assert planted("/alias", ["/w"], _at({"/alias": "/w"})) is None


def test_a_folder_with_the_same_beginning_is_another_folder():
    assert planted("/wide/f", ["/w"], _at({"/wide/f": "/etc"})) is None


def test_a_circle_of_links_ends_as_one_that_stands_in_the_way():
    assert planted("/a", [], _at({"/a": "/b", "/b": "/a"})) in ("/a", "/b")


@given(
    st.text("ab./", max_size=30), st.dictionaries(st.text("/ab", min_size=1, max_size=6), st.text("/ab.", max_size=6))
)
def test_no_path_and_no_links_make_it_raise_or_run_on(path, links):
    planted("/" + path, ["/a"], links.get)


@given(
    st.lists(st.text("ab./", max_size=12).map("/".__add__), max_size=8),
    st.dictionaries(st.text("/ab", min_size=1, max_size=6), st.text("/ab.", max_size=6)),
)
def test_many_paths_are_resolved_as_each_by_itself(paths, links):
    resolved = resolver(["/a"], links.get)

    def outcome(resolve_one, path):
        try:
            return resolve_one(path)
        except PlantedLink as e:
            return str(e)

    for path in paths:
        assert outcome(resolved, path) == outcome(lambda path: resolve(path, ["/a"], links.get), path)


def test_a_name_is_looked_at_once_for_all_paths():
    """A link that is put there between two looks has no say in one of two rules."""
    looks: list[str] = []
    resolved = resolver([], looks.append)
    assert [resolved(f"/a/b/{name}") for name in "cdc"] == ["/a/b/c", "/a/b/d", "/a/b/c"]
    assert len(looks) == len(set(looks))
