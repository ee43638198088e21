"""What tier `walled` adds to a worker's rules: covers over what is denied, and the links by which paths are spelled.

Landlock only adds rights, so below `walled` a deny inside an allowed folder becomes rules for everything else in it.
With a file system of its own a worker gets the folder whole, and the denied path in it is mounted over. Pure: the file
system is asked through arguments.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from host.model.plan import (
    FILE_KINDS,
    SPECIAL_TREES,
    covers,
    denied_paths,
    granted_paths,
    is_special,
    kernel_rules,
    prefixes,
    reaches,
)
from sandbox_worker._links import links_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from host.model.grants import Effective

    Rules = list[tuple[str, str]]

HIDDEN: Final = "n"
"""The access of a cover (`sandbox_worker.walls.view`)."""


@dataclasses.dataclass(frozen=True, slots=True)
class FileSystem:
    """What planning asks: a folder's entries as absolute paths, None for no folder; whether there is a path, links not
    followed; where a link leads, None for no link."""

    children: Callable[[str], Iterable[str] | None]
    exists: Callable[[str], bool]
    readlink: Callable[[str], str | None]


def walled_rules(effective: Effective, readable: Sequence[str], files: FileSystem) -> Rules:
    """Rules (path, access) as `plan.kernel_rules` gives them, with "n" for what is mounted over.

    A denied path can be covered when it exists now; what does not, and the special trees, are left to Landlock as in
    tier `confined`. The trees are covered all the same, for their names.
    """
    paths = granted_paths(effective, readable)
    found = {hole: _cover(hole, effective, paths) for hole in denied(effective) if files.exists(hole)}
    covered = {hole: access for hole, access in found.items() if access is not None}
    written = prefixes(paths["fs.write"])
    special = prefixes(filter(is_special, paths["fs.write"]))
    unwritten = prefixes(denied_paths(effective, "fs.write"))
    open_holes = (*(hole for hole in denied(effective) if hole not in covered), *SPECIAL_TREES)

    def widened(path: str, access: str) -> str:
        """With "w" where a grant around allows writing here too: a mount hides the one around it.

        Not above what Landlock alone keeps from being written: its rules hold for all that lies beneath.
        """
        if not written:
            return access
        inside = path.rstrip("/") + "/"
        granted = inside.startswith(special if is_special(path) else written) and not inside.startswith(unwritten)
        granted = granted and not any(hole.startswith(inside) for hole in open_holes)
        return "".join(sorted({*access, "w"})) if granted else access

    rules = [
        (path, widened(path, access)) for path, access in kernel_rules(effective, readable, files.children, covered)
    ]
    whole = "/" in (*paths["fs.read"], *paths["fs.write"])
    trees = [(tree, HIDDEN) for tree in SPECIAL_TREES if whole and tree not in dict(rules)]
    return [*rules, *covered.items(), *trees]


def links_to(paths: Iterable[str], files: FileSystem) -> Rules:
    """The symbolic links (path, target) on the way to each of the paths, in whatever way it is spelled."""
    found: dict[str, str] = {}
    for path in paths:
        found.update(links_on(path, files.readlink))
    return list(found.items())


def denied(effective: Effective) -> Iterator[str]:
    """The denied paths of both file kinds; not "*", which leaves nothing to cover."""
    yield from (path for path in denied_paths(effective, "fs.write") if path != "/")


def _cover(hole: str, effective: Effective, paths: dict[str, list[str]]) -> str | None:
    """The access with which `hole` is mounted over, None where no grant is around it."""
    if not any(path != hole and reaches(path, hole) for kind in FILE_KINDS for path in paths[kind]):
        return None
    readable = any(reaches(path, hole) for path in paths["fs.read"])
    return "r" if readable and not any(covers(path, hole) for path in denied_paths(effective, "fs.read")) else HIDDEN
