"""What a worker of tier `walled` sees of the file system, as a list of mounts and links. Pure.

The view is made of rules like Landlock's, (path, access). With an "x" programs and libraries there can be mapped as
code, else not; with a "w" it is mounted for writing, else read-only; "n", alone, covers what a rule above it would
show. What no rule names is not there.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

HIDDEN: Final = "n"
"""The access of what is covered."""

_DEVICES: Final = "/dev"


class Mount:
    """One mount: an absolute path in the view, the same as outside.

    `outer` is the mount around it. `in_tree`: the place lies in that one and so exists, if it still does; else it has
    to be made. `plain`: it and all around it is closed for everything but reading, so that all such mounts can be put
    in their places first and be restricted at one go.
    """

    __slots__ = ("devices", "executable", "hidden", "in_tree", "path", "plain", "writable")

    def __init__(self, path: str, access: str, outer: Mount | None) -> None:
        self.path = path
        self.in_tree = outer is not None and not outer.hidden
        self.hidden: bool = access == HIDDEN
        self.executable = "x" in access
        self.writable = "w" in access and not self.executable
        self.devices = _covers(_DEVICES, path)
        more = self.hidden or self.executable or self.writable or self.devices or path == "/"
        self.plain: bool = not more and (outer is None or outer.plain)

    def like(self, other: Mount) -> bool:
        """Whether a mount here, inside `other`, would change nothing."""
        return self._kind() == other._kind()

    def _kind(self) -> tuple[bool, ...]:
        return self.hidden, self.executable, self.writable, self.devices


class View:
    """All mounts, outer ones first, and all links as (path, target) that no mount brings along."""

    __slots__ = ("links", "mounts")

    def __init__(self, mounts: tuple[Mount, ...], links: tuple[tuple[str, str], ...]) -> None:
        self.mounts = mounts
        self.links = links


def arrange(base: Iterable[tuple[str, str]], own: Iterable[tuple[str, str]], links: Iterable[tuple[str, str]]) -> View:
    """The view of one worker: `base` rules hold for all workers, `own` are its grants; `base` wins at the same path.

    `links` are symbolic links, (path, target), without which a granted path could not be spelled. Paths are absolute
    and, but for the last part of a link's, free of links.
    """
    wanted: dict[str, str] = {}
    for path, access in own:
        wanted[path] = _joined(wanted.get(path, ""), access)
    wanted.update(base)
    pins = _pins(wanted)
    wanted = {**pins, **wanted}
    mounts: list[Mount] = []
    open_mounts: list[Mount] = []
    for path in sorted(wanted, key=_by_parts):
        outer = _around(path, open_mounts)
        mount = Mount(path, wanted[path], outer)
        if outer is None and mount.hidden:
            continue
        if outer is None or path in pins or not mount.like(outer):
            mounts.append(mount)
            open_mounts.append(mount)
    return View(tuple(mounts), tuple(_missing_links(mounts, links)))


def _pins(wanted: dict[str, str]) -> dict[str, str]:
    """The folders, with their access, in which something lies that may be written less than they may.

    Where such a folder can be moved, so can what is kept in it, and has its old name no more at the next start. A
    mount point can't be moved (rename(2), EBUSY), and no folder that holds one by another's name is a way around it.
    """
    found: dict[str, str] = {}
    for path, access in wanted.items():
        above = path
        while "w" not in access and (above := above[: above.rfind("/")]):
            around = above
            while around not in wanted and around:
                around = around[: around.rfind("/")]
            governing = wanted.get(around or "/", "")
            if "w" in governing and not _covers(_DEVICES, above):
                found[above] = governing
    return found


def _joined(some: str, more: str) -> str:
    return "".join(sorted({*some, *more} - {HIDDEN})) or HIDDEN


def _by_parts(path: str) -> list[str]:
    return path.rstrip("/").split("/")


def _around(path: str, open_mounts: list[Mount]) -> Mount | None:
    """The innermost mount around `path`; those that are behind it in order are dropped."""
    while open_mounts and not _covers(open_mounts[-1].path, path):
        open_mounts.pop()
    return open_mounts[-1] if open_mounts else None


def _missing_links(mounts: list[Mount], links: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    hidden = {mount.path: mount.hidden for mount in mounts}
    for path, target in dict(links).items():
        around = path[: path.rfind("/")] or "/"  # a mount at the link's own path is none: what is granted is a link
        while around not in hidden and around not in ("", "/"):
            around = around[: around.rfind("/")] or "/"
        if hidden.get(around, True):
            yield path, target


def _covers(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
