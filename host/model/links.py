"""Which links stand in the way of a rule: a rule is resolved when a worker starts, and must not lead where a plugin
chose. Pure: the file system is asked through arguments.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MOST: Final = 40  # as many links as the kernel follows, path_resolution(7)


class PlantedLink(ValueError):
    """A symbolic link, `link`, that a plugin may have put there, to be granted what it leads to at the next start."""

    def __init__(self, path: str, link: str) -> None:
        super().__init__(f"{path} leads through the symbolic link {link}, in a folder that a plugin may write")
        self.link = link


def resolver(writable: Iterable[str], readlink: Callable[[str], str | None]) -> Callable[[str], str]:
    """`resolve` for many paths: what lies in one folder shares the look at the way there."""
    roots = tuple(root.rstrip("/") + "/" for root in writable)
    looked_at = functools.cache(readlink)
    folders: dict[str, str] = {}

    def resolved(path: str) -> str:
        head, _, name = path.rpartition("/")
        if head in folders and name not in ("", ".", "..") and looked_at(f"{folders[head]}/{name}") is None:
            return f"{folders[head]}/{name}"
        found = _resolve(path, roots, looked_at)
        if head and head not in folders:
            folders[head] = _resolve(head, roots, looked_at).rstrip("/")
        return found

    return resolved


def resolve(path: str, writable: Iterable[str], readlink: Callable[[str], str | None]) -> str:
    """realpath(3) of `path`, which need not exist; raises PlantedLink for a link in a folder that a plugin may write.

    `path` is absolute; `writable` are resolved absolute paths; `readlink` gives a link's text, None for what is none.
    Each name is looked at once: what a second look would find has no say.
    """
    return _resolve(path, tuple(root.rstrip("/") + "/" for root in writable), readlink)


def _resolve(path: str, roots: tuple[str, ...], readlink: Callable[[str], str | None]) -> str:
    rest, done, links = _parts(path), "", 0
    while rest:
        name = rest.pop()
        if name == "..":
            done = done[: done.rfind("/")] if done else ""
            continue
        here = f"{done}/{name}"
        target = readlink(here)
        if target is None:
            done = here
            continue
        links += 1
        if links > _MOST or (done + "/").startswith(roots):
            raise PlantedLink(path, here)
        rest.extend(_parts(target))
        if target.startswith("/"):
            done = ""
    return done or "/"


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
