"""Which links stand in the way of a rule: a rule is resolved when a worker starts, and must not lead where a plugin
chose. Pure: the file system is asked through arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MOST: Final = 40  # as many links as the kernel follows, path_resolution(7)


class PlantedLink(ValueError):
    """A symbolic link, `link`, that a plugin may have put there, to be granted what it leads to at the next start."""

    def __init__(self, path: str, link: str) -> None:
        super().__init__(f"{path} leads through the symbolic link {link}, in a folder that a plugin may write")
        self.link = link


def resolve(path: str, writable: Iterable[str], readlink: Callable[[str], str | None]) -> str:
    """realpath(3) of `path`, which need not exist; raises PlantedLink for a link in a folder that a plugin may write.

    `path` is absolute; `writable` are resolved absolute paths; `readlink` gives a link's text, None for what is none.
    Each name is looked at once: what a second look would find has no say.
    """
    roots = tuple(root.rstrip("/") + "/" for root in writable)
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
