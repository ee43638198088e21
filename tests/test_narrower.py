"""The hook of a drop: what it refuses, by its text alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.narrower import kept

paths = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
prefixes = st.lists(paths.map(lambda path: path.rstrip("/") + "/"), max_size=2).map(tuple)


@given(paths, prefixes, prefixes)
def test_a_path_is_refused_within_what_was_dropped_unless_every_worker_has_it(path, dropped, implied):
    def within(trees):
        return any(tree == "/" or path == tree[:-1] or path.startswith(tree) for tree in trees)

    assert (kept(path, dropped, implied) == 1) is (within(implied) or not within(dropped))
