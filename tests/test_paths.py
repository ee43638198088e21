"""Paths as text: one normal form, containment by component, and trees that only a rule inside them reaches."""

import posixpath
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker import _paths
from sandbox_worker._paths import normalise, path_verdict

parts = st.sampled_from(
    ["", ".", "..", "...", ".a", "a.", "a", "b", "ab", "*", "proc", "self", "dev", "sys", "ü", "\n"]
)
paths = st.lists(parts, max_size=7).map(lambda found: "/" + "/".join(found))
trees = paths.map(normalise).map(_paths.as_prefix)
prefixes = st.lists(trees, max_size=3).map(tuple)


def detached(function):
    """The function as the audit hook runs it: the same code object, no globals and no builtins."""
    return types.FunctionType(function.__code__, {"__builtins__": {}}, function.__name__, function.__defaults__)


@given(paths)
def test_the_normal_form_is_that_of_posixpath_with_one_slash_at_the_start(path):
    assert normalise(path) == posixpath.normpath("/" + path.lstrip("/"))


@given(st.text().map("/".__add__))
def test_the_normal_form_of_any_text_is_absolute_and_stays_as_it_is(path):
    normal = normalise(path)
    assert normal.startswith("/")
    assert normalise(normal) == normal


@given(paths, prefixes, prefixes, prefixes)
def test_the_code_that_the_audit_hook_runs_needs_nothing_but_its_arguments(path, allow, special, deny):
    normal = detached(normalise)(path)
    assert normal == normalise(path)
    assert detached(path_verdict)(normal, allow, special, deny) == path_verdict(normal, allow, special, deny)


@given(paths, paths)
def test_a_tree_holds_exactly_the_paths_that_begin_with_all_its_components(tree, path):
    tree, path = normalise(tree), normalise(path)
    if f"{path}/".startswith(_paths.SPECIAL_TREES):
        return
    components = [part for part in tree.split("/") if part]
    inside = [part for part in path.split("/") if part][: len(components)] == components
    assert path_verdict(path, (_paths.as_prefix(tree),), (), ()) == inside
    assert path_verdict(path, ("/",), (), (_paths.as_prefix(tree),)) == (-1 if inside else 1)


@given(paths, prefixes, prefixes)
def test_a_deny_prefix_beats_every_allowed_one(path, allow, special):
    path = normalise(path)
    assert path_verdict(path, ("/", *allow), special, (_paths.as_prefix(path),)) == -1
    assert path_verdict(path, allow, special, ("/",)) == -1


@pytest.mark.parametrize("path", ["/proc", "/proc/meminfo", "/sys/kernel", "/dev", "/dev/null"])
def test_a_special_tree_is_reached_through_a_prefix_inside_it_alone(path):
    assert path_verdict(path, ("/", path + "/"), (), ()) == 0
    assert path_verdict(path, (), (path + "/",), ()) == 1
    assert path_verdict(path + "/below", (), (path + "/",), ()) == 1


@pytest.mark.parametrize("path", ["/process", "/devices/a", "/system", "/srv/proc/self", "/home/dev"])
def test_a_path_that_only_looks_special_is_an_ordinary_one(path):
    assert path_verdict(path, ("/",), (), ()) == 1


def test_without_prefixes_nothing_is_allowed():
    assert path_verdict("/", (), (), ()) == 0


@pytest.mark.parametrize("kind", ["fs.read", "fs.write", "run"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "./a",
        "~/a",
        "file:///a",
        "**",
        "/proc/self",
        "/proc/self/environ",
        "/proc/./self//maps",
        "/proc/thread-self/status",
        "/proc/1",
        "/proc/4711/fd/3",
        "/proc/mounts",
        "/proc/net/tcp",
        "/dev/fd",
        "/dev/fd/3",
        "/dev/stdout",
        "/a/../proc/self",
    ],
)
def test_a_rule_that_is_relative_or_means_another_object_in_each_process_is_refused(kind, text):
    with pytest.raises(ValueError, match="path"):
        _paths.parse_rule(kind, text)


@pytest.mark.parametrize(
    "text", ["/proc/meminfo", "/proc/sys/kernel", "/proc/selfish", "/dev/fdx", "/dev/null", "/sys"]
)
def test_a_rule_in_a_special_tree_that_is_the_same_for_all_is_legal(text):
    assert _paths.parse_rule("fs.read", text).stem == text + "/"


def test_a_star_is_everything_when_alone_and_a_character_elsewhere():
    assert _paths.parse_rule("fs.read", "*").stem == "/"
    assert not _paths.parse_rule("fs.read", "/a/*").matches("/a/b/")
    assert _paths.parse_rule("fs.read", "/a/*").matches("/a/*/")


def test_a_program_is_matched_alone_and_not_as_a_tree():
    pattern = _paths.parse_rule("run", "/usr//bin/git")
    assert pattern.matches(_paths.parse_request("/usr/bin/../bin/git"))
    assert not pattern.matches("/usr/bin/git/x")
    assert not pattern.matches("/usr/bin")
    assert _paths.parse_rule("run", "*").matches("/any/program")


@pytest.mark.parametrize("text", ["", "a", "../a", "*", "/a\0b"])
def test_a_request_that_is_no_absolute_path_is_refused(text):
    with pytest.raises(ValueError, match="absolute path"):
        _paths.parse_request(text)
