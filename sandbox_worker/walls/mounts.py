"""Mounts by descriptor: the file system calls of Linux 5.2 and mount_setattr(2) of 5.12, as thin as possible.

Any kernel with Landlock (5.13) has them all, so nothing here falls back. With them a mount can be restricted before it
is in its place, and no path is resolved twice. Every function raises OSError with the name of the call as its
`filename`.
"""

from __future__ import annotations

import ctypes
import os
from struct import pack

from . import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

# include/uapi/linux/mount.h; MOUNT_ATTR_*
READ_ONLY: Final = 0x01
NO_SUID: Final = 0x02
NO_DEVICES: Final = 0x04
NO_EXEC: Final = 0x08

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 0x1
_O_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_FROM_DESCRIPTOR: Final = 0x04  # MOVE_MOUNT_F_EMPTY_PATH
_MOVE_MOUNT_BOTH_BY_DESCRIPTOR: Final = 0x44  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
_FSOPEN_CLOEXEC: Final = 0x1
_FSMOUNT_CLOEXEC: Final = 0x1
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2

_NOTHING: Final = ctypes.create_string_buffer(b"")
_EMPTY: Final = ctypes.addressof(_NOTHING)


def make_private() -> None:
    """Cut this mount namespace off: what is mounted elsewhere from now on does not come in, nor ours go out."""
    _set_attributes(_AT_FDCWD, b"/", _AT_RECURSIVE, pack("=QQQQ", 0, 0, _MS_PRIVATE, 0))


def clone_of(descriptor: int) -> int:
    """A detached copy of the tree at this open file or folder, with all that is mounted in it, as a descriptor."""
    flags = _OPEN_TREE_CLONE | _O_CLOEXEC | _AT_EMPTY_PATH | _AT_RECURSIVE
    return linux.syscall("open_tree", descriptor, _EMPTY, flags)


def restrict(tree: int, attributes: int) -> None:
    """Set attributes (a union of the constants above) on a mount and on everything mounted in it; clear none."""
    _set_attributes(tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, pack("=QQQQ", attributes, 0, 0, 0))


def close_for_writing(tree: int) -> None:
    """Make this one mount read-only, and nothing that is mounted in it."""
    _set_attributes(tree, b"", _AT_EMPTY_PATH, pack("=QQQQ", READ_ONLY, 0, 0, 0))


def open_for_writing(tree: int) -> None:
    """Undo that. EPERM for a mount that was read-only before this mount namespace was made (mount_namespaces(7))."""
    _set_attributes(tree, b"", _AT_EMPTY_PATH, pack("=QQQQ", 0, READ_ONLY, 0, 0))


def attach(tree: int, place: int) -> None:
    """Put a detached mount over the folder or file `place`, an O_PATH descriptor."""
    linux.move_mount(tree, place, b"", _MOVE_MOUNT_BOTH_BY_DESCRIPTOR)


def attach_in(tree: int, folder: int, name: str) -> None:
    """Put a detached mount over what is called `name` in the folder, a descriptor; a link there is not followed."""
    linux.move_mount(tree, folder, os.fsencode(name), _MOVE_MOUNT_FROM_DESCRIPTOR)


def new_tmpfs(options: Iterable[tuple[bytes, bytes]]) -> int:
    """A detached tmpfs that runs nothing (tmpfs(5) has the options), as a descriptor."""
    name = ctypes.create_string_buffer(b"tmpfs")
    context = linux.syscall("fsopen", ctypes.addressof(name), _FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            key_text, value_text = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
            texts = ctypes.addressof(key_text), ctypes.addressof(value_text)
            linux.syscall("fsconfig", context, _FSCONFIG_SET_STRING, *texts, 0)
        linux.syscall("fsconfig", context, _FSCONFIG_CMD_CREATE, 0, 0, 0)
        return linux.syscall("fsmount", context, _FSMOUNT_CLOEXEC, NO_SUID | NO_DEVICES | NO_EXEC)
    finally:
        os.close(context)


def make_root(root: int) -> None:
    """Make the mount at the folder `root` this namespace's root, and let go of the old one and all in it.

    Both arguments of pivot_root may name the same folder (its manual, "pivot_root(".", ".")"): the old root then lies
    over the new one, where it is unmounted.
    """
    os.fchdir(root)
    here = ctypes.create_string_buffer(b".")
    linux.syscall("pivot_root", ctypes.addressof(here), ctypes.addressof(here))
    linux.syscall("umount2", ctypes.addressof(here), _MNT_DETACH)
    os.chdir("/")


def _set_attributes(descriptor: int, path: bytes, flags: int, attributes: bytes) -> None:
    name = ctypes.create_string_buffer(path)
    structure = ctypes.create_string_buffer(attributes, len(attributes))
    addresses = ctypes.addressof(name), flags, ctypes.addressof(structure), len(attributes)
    linux.syscall("mount_setattr", descriptor, *addresses)
