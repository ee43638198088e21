"""Which commands one worker may start, and what a request for one looks like. Pure: links are resolved by an argument.

A rule names a program by a path. The folder of that path is resolved, its last part is not: a rule for a link grants
what the link leads to, under the link's name alone, for programs such as busybox are many by name. A deny takes the
name and what it leads to. Request, grant and ceiling are layers, each of which must allow name and arguments.
"""

from __future__ import annotations

from sandbox_worker._argv import matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Final

    Items = tuple[str, ...]
    Layer = tuple[tuple[str, Items | None], ...]

ALL: Final = "*"
ALLOWED: Final = "allow"
NO_RULE: Final = "no-rule"
DENY_RULE: Final = "deny-rule"
DROPPED: Final = "dropped"
ARGUMENTS: Final = "arguments"
"""The command is granted, with other arguments."""

LOADER_VARIABLES: Final = ("LD_", "GLIBC_TUNABLES")
"""What makes the loader run other code than the program's, by the start of the name (ld.so(8))."""
MAX_MESSAGE: Final = 128 << 10
"""Bytes of a request: its arguments and environment, and a little."""
LAST_SIGNAL: Final = 64


class Policy:
    """`layers` hold (path or "*", argument items or None for all); `deny` paths or "*"."""

    __slots__ = ("_deny", "_dropped", "_layers")

    def __init__(self, layers: Iterable[Layer], deny: Iterable[str], place: Callable[[str], str]) -> None:
        """`place` resolves the folder of a path. ValueError without layers, which would allow everything."""
        self._layers = [[(path if path == ALL else place(path), items) for path, items in layer] for layer in layers]
        if not self._layers:
            raise ValueError("a policy without layers would allow everything")
        self._deny = frozenset(deny)
        self._dropped: set[str] = set()

    def judge(self, name: str, real: str, arguments: list[str]) -> str:
        """Judge a command by its name, a path whose folder is resolved, and by what that is in the end, `real`."""
        named = {ALL, name, real}
        if not named.isdisjoint(self._deny):
            return DENY_RULE
        if not named.isdisjoint(self._dropped):
            return DROPPED
        by_name = [[items for path, items in layer if path in (ALL, name)] for layer in self._layers]
        if not all(by_name):
            return NO_RULE
        if all(any(items is None or matches(items, arguments) for items in layer) for layer in by_name):
            return ALLOWED
        return ARGUMENTS

    def drop(self, paths: Iterable[str]) -> None:
        """Refuse these from now on."""
        self._dropped.update(paths)


class Start:
    """A request to start a command: `paths` are where to look for it, in order; the rest as execve(2) takes it."""

    __slots__ = ("argv", "environment", "folder", "paths", "umask")

    def __init__(self, paths: list[str], argv: list[bytes], environment: list[bytes], folder: str, umask: int) -> None:
        self.paths = paths
        self.argv = argv
        self.environment = environment
        self.folder = folder
        self.umask = umask


def start_of(fields: list[Any]) -> Start:
    """The request of a frame's fields; ValueError, TypeError for what is none."""
    paths, argv, environment, folder, umask = fields
    for texts in (paths, argv, environment, [folder]):
        if type(texts) is not list or any(type(text) is not bytes or b"\0" in text for text in texts):
            raise ValueError("no list of bytes without null characters")
    if not paths or not argv or not folder.startswith(b"/") or any(text.find(b"=") < 1 for text in environment):
        raise ValueError("no command, folder or environment")
    if type(umask) is not int or not 0 <= umask <= 0o777:
        raise ValueError("no umask")
    return Start([_text(path) for path in paths], argv, environment, _text(folder), umask)


def foreign_loading(environment: Iterable[bytes], known: Iterable[bytes]) -> str | None:
    """The first variable for the loader that is not as the worker was started with; None without one."""
    own = set(known)
    for variable in environment:
        name = _text(variable.partition(b"=")[0])
        if name.startswith(LOADER_VARIABLES) and variable not in own:
            return name
    return None


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
