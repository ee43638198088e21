"""What a worker of tier `walled` sees of the file system, as a list of mounts and links. Pure.

The view is made of rules like Landlock's, (path, access). With an "x" programs and libraries there can be mapped as
code, else not; with a "w" it is mounted for writing, else read-only; "n", alone, covers what a rule above it would
show. What no rule names is not there.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator
    from typing import Final

HIDDEN: Final = "n"
"""The access of what is covered."""

_DEVICES: Final = "/dev"


class Mount:
    """One mount: an absolute path in the view, the same as outside.

    `outer` is the mount around it, of which the path is kept. `in_tree`: the place lies in that one and so exists, if
    it still does; else it has to be made. `plain`: it and all around it is closed for everything but reading, so that
    all such mounts can be put in their places first and be restricted at one go.
    """

    __slots__ = ("access", "devices", "executable", "hidden", "in_tree", "outer", "path", "plain", "writable")

    def __init__(self, path: str, access: str, outer: Mount | None) -> None:
        self.path = path
        self.access = access
        self.outer = outer.path if outer is not None else None
        self.in_tree = outer is not None and not outer.hidden
        self.hidden: bool = access == HIDDEN
        self.executable = "x" in access
        self.writable = "w" in access and not self.executable
        self.devices = covers(_DEVICES, path)
        more = self.hidden or self.executable or self.writable or self.devices or path == "/"
        self.plain: bool = not more and (outer is None or outer.plain)

    def like(self, other: Mount) -> bool:
        """Whether a mount here, inside `other`, would change nothing."""
        return self._kind() == other._kind()

    def is_as(self, other: Mount) -> bool:
        """Whether both are the same mount, as far as the mounts around them are."""
        return self.outer == other.outer and self.like(other)

    def _kind(self) -> tuple[bool, ...]:
        return self.hidden, self.executable, self.writable, self.devices


class View:
    """All mounts, outer ones first, and all links as (path, target) that no mount brings along."""

    __slots__ = ("links", "mounts")

    def __init__(self, mounts: tuple[Mount, ...], links: tuple[tuple[str, str], ...]) -> None:
        self.mounts = mounts
        self.links = links

    def beyond(self, base: View) -> list[tuple[str, str]] | None:
        """What has to be mounted in `base` to make this of it, as (path, access); None where more has to change."""
        own = {mount.path: mount for mount in self.mounts}
        begun = [(mount, own.pop(mount.path, None)) for mount in base.mounts]
        if any(mine is None or not mine.is_as(mount) for mount, mine in begun):
            return None
        return [(mount.path, mount.access) for mount in own.values()]

    def extended(self, more: Iterable[tuple[str, str]], links: Iterable[tuple[str, str]]) -> View:
        """The view that has these mounts beyond this one, and these links."""
        wanted = {mount.path: mount.access for mount in self.mounts} | dict(more)
        return View(tuple(_nested(wanted, wanted)), tuple(links))


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
    mounts = list(_nested({**pins, **wanted}, pins))
    return View(tuple(mounts), tuple(_missing_links(mounts, links)))


def _nested(wanted: dict[str, str], kept: Container[str]) -> Iterator[Mount]:
    """The mounts of paths and their accesses, outer ones first; those that would change nothing only where `kept`."""
    open_mounts: list[Mount] = []
    for path in sorted(wanted, key=_by_parts):
        outer = _around(path, open_mounts)
        mount = Mount(path, wanted[path], outer)
        if outer is None and mount.hidden:
            continue
        if outer is None or path in kept or not mount.like(outer):
            yield mount
            open_mounts.append(mount)


def _pins(wanted: dict[str, str]) -> dict[str, str]:
    """The folders, with their access, in which something lies that may be written less than they may.

    Where such a folder can be moved, so can what is kept in it, and has its old name no more at the next start. A
    mount point can't be moved (rename(2), EBUSY), and no folder that holds one by another's name is a way around it.
    """
    found: dict[str, str] = {}
    if not any("w" in access for access in wanted.values()):
        return found
    for path, access in wanted.items():
        above = path
        while "w" not in access and (above := above[: above.rfind("/")]):
            around = above
            while around not in wanted and around:
                around = around[: around.rfind("/")]
            governing = wanted.get(around or "/", "")
            if "w" in governing and not covers(_DEVICES, above):
                found[above] = governing
    return found


def _joined(some: str, more: str) -> str:
    return "".join(sorted({*some, *more} - {HIDDEN})) or HIDDEN


def _by_parts(path: str) -> str:
    return path.rstrip("/").replace("/", "\0")  # which is less than all that a name may hold


def _around(path: str, open_mounts: list[Mount]) -> Mount | None:
    """The innermost mount around `path`; those that are behind it in order are dropped."""
    while open_mounts and not covers(open_mounts[-1].path, path):
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


def covers(outer: str, inner: str) -> bool:
    """Whether `inner` is the path `outer` or lies beneath it."""
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
