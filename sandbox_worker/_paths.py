"""Paths as text: normalising, containment by component, and the trees that no directory rule reaches.

Nothing here touches the file system: symbolic links are resolved by the caller. `normalise` and `path_verdict` name no
global, so that the audit hook can run their very code objects with empty globals: what the query answers is what the
hook enforces, and a plugin that patches `builtins` or `os.path` changes neither.
"""

from __future__ import annotations

from sandbox_worker._patterns import Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

UNIX: Final = "unix:"
"""Before the path of a unix socket, where rules for the network name one."""
SPECIAL_TREES: Final = ("/proc/", "/sys/", "/dev/")

# Links that lead each process to something of its own, proc(5) and fd(4): a rule is resolved once, in another process,
# and would name an object of that process.
_PER_PROCESS: Final = (
    "/proc/self/",
    "/proc/thread-self/",
    "/proc/mounts/",
    "/proc/net/",
    "/dev/fd/",
    "/dev/stdin/",
    "/dev/stdout/",
    "/dev/stderr/",
)

_LEGAL_TREE: Final = 'an absolute path, which covers itself and everything beneath it; or "*" alone'
_LEGAL_PROGRAM: Final = 'the absolute path of one program; or "*" alone'
_LEGAL_REQUEST: Final = "an absolute path without NUL"
_LEGAL_IN_PROC: Final = "a path that names the same object for every process; this one is resolved in each process anew"


def normalise(path: str) -> str:
    """Return the absolute `path` without `.`, `..`, empty components and a trailing slash.

    Purely lexical: `/a/link/..` is `/a`, wherever `link` leads. `..` of the root is the root, and a doubled slash at
    the start means nothing more than one, as on Linux (path_resolution(7)).
    """
    if "//" not in path and "/." not in path:
        return path.rstrip("/") or "/"
    kept = ""
    for part in path.split("/"):
        if part == "..":
            kept = kept.rpartition("/")[0]
        elif part and part != ".":
            kept += "/" + part
    return kept or "/"


def path_verdict(path: str, allow: tuple[str, ...], special: tuple[str, ...], deny: tuple[str, ...]) -> int:
    """Judge a normalised absolute `path`: 1 allowed, -1 refused by a deny rule, 0 covered by no rule.

    `allow`, `special` and `deny` hold prefixes that end in `/`. `special` are the allowed prefixes inside `/proc`,
    `/sys` and `/dev`; a path in these trees is reached through them alone, never through `allow`.
    """
    inside = path if path == "/" else path + "/"
    if inside.startswith(deny):
        return -1
    if inside.startswith(("/proc/", "/sys/", "/dev/")):
        return 1 if inside.startswith(special) else 0
    return 1 if inside.startswith(allow) else 0


def as_prefix(path: str) -> str:
    """Return the prefix that a normalised `path` and all paths beneath it have in common: the path and a slash."""
    return path if path == "/" else path + "/"


def parse_rule(kind: str, text: str) -> Pattern:
    """Return the pattern of a rule: for `run` the path of the program alone, else a tree.

    Raises ValueError, its message says what is legal, for a relative path and for one that means something else in
    each process (`/proc/self`, `/proc/1234`, `/dev/fd`).
    """
    if text == "*":
        return Pattern("" if kind == "run" else "/")
    if not text.startswith("/"):
        raise ValueError(_LEGAL_PROGRAM if kind == "run" else _LEGAL_TREE)
    path = normalise(text)
    pid = path.removeprefix("/proc/").partition("/")[0]
    if as_prefix(path).startswith(_PER_PROCESS) or pid.isdecimal():
        raise ValueError(_LEGAL_IN_PROC)
    return Pattern(path, exact=True) if kind == "run" else Pattern(as_prefix(path))


def parse_request(text: str) -> str:
    """Return the normalised path of a request; ValueError for a relative path and for NUL."""
    if not text.startswith("/") or "\0" in text:
        raise ValueError(_LEGAL_REQUEST)
    return normalise(text)
