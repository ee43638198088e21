"""The places and symbolic links on the way to a path. Pure: the file system is asked through an argument."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

_MOST_LINKS: Final = 40
"""Links that the kernel follows in one path (path_resolution(7))."""


def links_on(path: str, readlink: Callable[[str], str | None]) -> Iterator[tuple[str, str]]:
    """Yield (link, target) in the order in which the kernel follows them to the absolute `path`."""
    for place, target in places_on(path, readlink):
        if target is not None:
            yield place, target


def places_on(path: str, readlink: Callable[[str], str | None]) -> Iterator[tuple[str, str | None]]:
    """Yield (place, target) for each name that the kernel looks up on the way to the absolute `path`.

    The target is None where the place is no link.

    `readlink` gives where a path leads, None for no link. Walks as the kernel does: `done` is free of links, `rest` is
    what is left, next part last.
    """
    done, rest, followed = "", path.split("/")[::-1], 0
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done[: done.rfind("/")] if done else ""
            continue
        target = readlink(f"{done}/{part}")
        yield f"{done}/{part}", target
        if target is None:
            done = f"{done}/{part}"
            continue
        followed += 1
        if followed > _MOST_LINKS:
            return
        rest.extend(target.split("/")[::-1])
        if target.startswith("/"):
            done = ""
