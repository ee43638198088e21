"""Landlock: rulesets from (path, access) rules, on every version (ABI) of it.

Access is a union of letters: "r" reads files and lists folders, "w" writes, creates and removes (files, folders and
symbolic links; never devices, sockets and FIFOs), "l" lists folders, "x" executes and reads files.

All file rights that the kernel knows are handled, so what no rule grants is refused; TCP and the scopes (signals,
abstract sockets) are handled with nothing granted. Before ABI 2 a file can't move between folders at all; what ABI 3
to 6 add is also held by the seccomp profile. Source: Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from struct import pack, pack_into

from . import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Final

    Right = tuple[int, int]
    """(descriptor of a file or folder, rights beneath it)."""

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
REMOVE_DIR: Final = 1 << 4
REMOVE_FILE: Final = 1 << 5
MAKE_DIR: Final = 1 << 7
MAKE_REG: Final = 1 << 8
MAKE_SYM: Final = 1 << 12
REFER: Final = 1 << 13
TRUNCATE: Final = 1 << 14

ACCESS: Final = {
    "r": READ_FILE | READ_DIR,
    "w": WRITE_FILE | TRUNCATE | MAKE_REG | MAKE_DIR | MAKE_SYM | REMOVE_FILE | REMOVE_DIR | REFER,
    "l": READ_DIR,
    "x": EXECUTE | READ_FILE,
}
_RIGHTS_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE

_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_SCOPE_SIGNAL: Final = 0b10
SIGNAL_ABI: Final = 6
"""The first Landlock that can keep signals within a process and its descendants."""
_RESOLVE_WITHOUT_LINKS: Final = 0x06  # RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
_RESOLVE_BENEATH: Final = 0x08
_AT_FDCWD: Final = -100
_OPEN_FLAGS: Final = os.O_PATH | os.O_CLOEXEC
# Without O_NOFOLLOW, which together with O_PATH would open a link at the end instead of refusing it.
_WITHOUT_LINKS: Final = linux.open_how(_OPEN_FLAGS, _RESOLVE_WITHOUT_LINKS)
_BENEATH: Final = linux.open_how(_OPEN_FLAGS, _RESOLVE_WITHOUT_LINKS | _RESOLVE_BENEATH)

_WHY_NOT: Final = {
    errno.ENOSYS: "Landlock is not built into this kernel (it needs Linux 5.13 or later)",
    errno.EOPNOTSUPP: "Landlock is switched off: add it to the kernel's lsm= boot parameter",
    errno.EPERM: "an outer seccomp filter refuses Landlock: the container's profile is too old for it",
}


def version() -> tuple[int, str]:
    """(ABI of this kernel, "") or (0, why there is no Landlock)."""
    try:
        return linux.syscall("landlock_create_ruleset", 0, 0, _CREATE_RULESET_VERSION), ""
    except OSError as error:
        return 0, _WHY_NOT.get(error.errno or 0, f"Landlock does not answer: {error.strerror}")


def handled_rights(abi: int) -> tuple[int, int, int]:
    """What a ruleset of this ABI handles: (rights on files, on TCP ports, scopes), as in landlock_ruleset_attr."""
    rights_known = {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)  # a right that the kernel does not know is EINVAL
    bind_and_connect = 0b11 if abi >= 4 else 0
    abstract_sockets_and_signals = 0b11 if abi >= 6 else 0
    return (1 << rights_known) - 1, bind_and_connect, abstract_sockets_and_signals


def rights(access: str) -> int:
    """The rights of a union of access letters. ValueError for anything else, the empty text included."""
    if not access or not set(access) <= ACCESS.keys():
        raise ValueError(f"access {access[:20]!r}: one or more of the letters r, w, l, x")
    granted = 0
    for letter in access:
        granted |= ACCESS[letter]
    return granted


def open_rules(rules: Iterable[tuple[str, str]]) -> tuple[list[Right], list[str]]:
    """Open the paths of (path, access) rules: (their rights, the paths that were skipped).

    The caller closes the descriptors. Paths are absolute and without symbolic links. One that has vanished, can't be
    reached, or has become a link since it was resolved is skipped: what it named then can't be reached by that name.
    """
    opened: list[Right] = []
    skipped: list[str] = []
    known: dict[str, int] = {}
    paths = Paths()
    try:
        for path, access in rules:
            granted = known.get(access)
            if granted is None:
                granted = known[access] = rights(access)
            found = paths.open(path)
            if found is None:
                skipped.append(path)
                continue
            descriptor, mode = found
            opened.append((descriptor, granted if stat.S_ISDIR(mode) else granted & _RIGHTS_OF_FILES))
    except BaseException:
        close_rules(opened)
        raise
    finally:
        paths.close()
    return opened, skipped


def close_rules(opened: Iterable[Right]) -> None:
    """Close the descriptors that `open_rules` gave."""
    for descriptor, _ in opened:
        os.close(descriptor)


class Rules:
    """Rights in the form that the kernel takes them, made once and added to many rulesets."""

    __slots__ = ("_addresses", "_array")

    def __init__(self, opened: Sequence[Right], abi: int) -> None:
        files, _, _ = handled_rights(abi)
        grants = [(rights & files, descriptor) for descriptor, rights in opened if rights & files]
        self._array = ctypes.create_string_buffer(max(1, _RULE_SIZE * len(grants)))
        for index, grant in enumerate(grants):
            pack_into("=Qi", self._array, _RULE_SIZE * index, *grant)  # packed struct landlock_path_beneath_attr
        start = ctypes.addressof(self._array)
        self._addresses = tuple(start + _RULE_SIZE * index for index in range(len(grants)))

    def add_to(self, ruleset: int) -> None:
        """Add every rule to the ruleset (a descriptor)."""
        for address in self._addresses:
            linux.syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, address, 0)


_RULE_SIZE: Final = 12


def make_ruleset(abi: int, *parts: Rules) -> int:
    """A descriptor of a ruleset that grants what the parts grant. `abi` is at least 1 and at most the kernel's."""
    attribute = pack("=QQQ", *handled_rights(abi))
    buffer = ctypes.create_string_buffer(attribute, len(attribute))
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = linux.syscall("landlock_create_ruleset", ctypes.addressof(buffer), size, 0)
    try:
        for part in parts:
            part.add_to(ruleset)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset


def keep_signals() -> None:
    """Let this process, and all that it becomes, signal nothing but its own descendants (ABI 6). Needs no_new_privs."""
    buffer = ctypes.create_string_buffer(pack("=QQQ", 0, 0, _SCOPE_SIGNAL), 24)
    ruleset = linux.syscall("landlock_create_ruleset", ctypes.addressof(buffer), len(buffer), 0)
    try:
        restrict_self(ruleset)
    finally:
        os.close(ruleset)


def restrict_self(ruleset: int) -> None:
    """Put this thread, and all that it becomes, under the ruleset. Needs no_new_privs."""
    linux.syscall("landlock_restrict_self", ruleset, 0)


class Paths:
    """Opens many paths; those in one folder share the way there. `close` leaves what was opened to the caller."""

    __slots__ = ("_folders",)

    def __init__(self) -> None:
        self._folders: dict[str, int | None] = {}  # None where one path has been opened so far

    def open(self, path: str) -> tuple[int, int] | None:
        """(An O_PATH descriptor, the mode) of what is at this absolute path, None when nothing is or a link is in the
        way.

        ValueError for a relative path or a null character, OSError for any other failure.
        """
        head, _, name = path.rpartition("/")
        try:
            if head not in self._folders or name in ("", ".", "..") or not path.startswith("/"):
                descriptor = _open_without_links(path)
                self._folders.setdefault(head)
            else:
                folder = self._folders[head]
                if folder is None:
                    folder = self._folders[head] = _open_without_links(head or "/")
                descriptor = os.open(name, _OPEN_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISLNK(mode):
            os.close(descriptor)
            return None
        return descriptor, mode

    def close(self) -> None:
        """Let go of the folders."""
        for folder in self._folders.values():
            if folder is not None:
                os.close(folder)
        self._folders.clear()


def open_beneath(folder: int, path: str) -> int:
    """The same for a path relative to the folder (a descriptor), and never out of it. OSError when it can't be."""
    return linux.openat2(folder, os.fsencode(path), _BENEATH)


def _open_without_links(path: str) -> int:
    """openat2(2), which can refuse links in every component of a path; an outer filter may not know it. Then a link at
    its end may be what is opened."""
    if not path.startswith("/"):
        raise ValueError(f"{path[:200]!r} is not an absolute path")
    if "\0" in path:
        raise ValueError(f"{path[:200]!r} contains a null character")
    try:
        return linux.openat2(_AT_FDCWD, os.fsencode(path), _WITHOUT_LINKS)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    return os.open(path, _OPEN_FLAGS | os.O_NOFOLLOW)
