"""System calls that Python does not offer, through ctypes; as thin as possible.

Every function raises OSError with the kernel's errno. `syscall` takes calls by name and raises KeyError on a machine
without a table; what the spawner needs to say so works there all the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from struct import pack

from .syscalls import ARCHITECTURES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

_SIXTY_FOUR_BIT = sys.maxsize > 2**32
MACHINE: Final = os.uname().machine if _SIXTY_FOUR_BIT else f"32-bit interpreter on {os.uname().machine}"
ARCHITECTURE: Final = ARCHITECTURES.get(MACHINE)

_NUMBERS: Final = ARCHITECTURE.numbers if ARCHITECTURE else {}

_libc = ctypes.CDLL(None, use_errno=True)


def _typed(*arguments: type[ctypes._SimpleCData[Any]]) -> Callable[..., int]:
    """syscall(2) for these arguments, each time another object: to convert six where one will do takes twice as long
    again."""
    function = _libc["syscall"]
    function.restype = ctypes.c_long
    function.argtypes = [ctypes.c_long, *arguments]
    return function


_by_count: Final = tuple(_typed(*[ctypes.c_long] * count) for count in range(7))
_open: Final = _typed(ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_long)
_move_mount: Final = _typed(ctypes.c_long, ctypes.c_char_p, ctypes.c_long, ctypes.c_char_p, ctypes.c_long)
_prctl = _libc.prctl
_prctl.restype = ctypes.c_int
_prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_mmap = _libc.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]

_PROT_READ_WRITE: Final = 0x3
_MAP_PRIVATE_ANONYMOUS: Final = 0x22
_MAP_FIXED_NOREPLACE: Final = 0x100000
CAPABILITY_HEADER: Final = ctypes.create_string_buffer(pack("=Ii", 0x20080522, 0), 8)  # version 3, this thread
NO_CAPABILITIES: Final = ctypes.create_string_buffer(24)
_EMPTY: Final = ctypes.create_string_buffer(b"")
AT_EMPTY_PATH: Final = 0x1000
SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_GET_ACTION_AVAIL: Final = 2
_SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 1 << 3
_SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5


def syscall(name: str, *arguments: int) -> int:
    """Make the call and give its result, with all arguments that it takes; pointers as addresses."""
    result = _by_count[len(arguments)](_NUMBERS[name], *arguments)
    if result == -1:
        raise _error(name)
    return result


def open_how(flags: int, resolve: int) -> ctypes.Array[ctypes.c_char]:
    """A struct open_how; `resolve` are RESOLVE_* flags of openat2(2)."""
    return ctypes.create_string_buffer(pack("=QQQ", flags, 0, resolve), 24)


def openat2(folder: int, path: bytes, how: ctypes.Array[ctypes.c_char]) -> int:
    """openat2(2) of a path without null characters, `how` being a struct open_how."""
    result = _open(_NUMBERS["openat2"], folder, path, how, len(how))
    if result == -1:
        raise _error("openat2")
    return result


def move_mount(tree: int, folder: int, name: bytes, flags: int) -> None:
    """move_mount(2) of the mount `tree`, a descriptor."""
    if _move_mount(_NUMBERS["move_mount"], tree, b"", folder, name, flags) == -1:
        raise _error("move_mount")


def prctl(option: int, value: int = 0) -> int:
    """prctl(2) with one value; the kernel wants the other arguments zero."""
    result: int = _prctl(option, value, 0, 0, 0)
    if result < 0:
        raise _error(f"prctl {option}")
    return result


def drop_capabilities() -> None:
    """Empty this thread's effective, permitted and inheritable capabilities (capset(2)); needs no privilege."""
    if _libc.capset(CAPABILITY_HEADER, NO_CAPABILITIES):
        raise _error("capset")


def close_range(first: int, last: int) -> None:
    """Close all descriptors from `first` to `last`.

    Not os.closerange(): where libc lacks close_range(2), as musl does, that tries every number in between. Only a
    machine or a kernel (before 5.9) that lacks it gets that, up to the limit of open files.
    """
    try:
        syscall("close_range", first, last, 0)
    except (KeyError, OSError):
        os.closerange(first, min(last + 1, os.sysconf("SC_OPEN_MAX")))


def map_memory(address: int, size: int) -> bool:
    """Map `size` bytes of private memory, read and write, at exactly `address`; False when something is there.

    A kernel before 4.17 does not know MAP_FIXED_NOREPLACE and takes the address as a hint: then False too.
    """
    result: int | None = _mmap(address, size, _PROT_READ_WRITE, _MAP_PRIVATE_ANONYMOUS | _MAP_FIXED_NOREPLACE, -1, 0)
    if result == address:
        return True
    if result != ctypes.c_void_p(-1).value:
        return False
    error = _error("mmap")
    if isinstance(error, FileExistsError):
        return False
    raise error


def write_memory(address: int, data: bytes) -> None:
    """Copy `data` to memory that `map_memory` has mapped."""
    ctypes.memmove(address, data, len(data))


def set_times(descriptor: int, times: bytes | None) -> None:
    """Set access and modification time of the very file behind an O_PATH descriptor, a symbolic link's own too.

    `times` are two struct timespec, None is now (utimensat(2); AT_EMPTY_PATH since Linux 5.8).
    """
    pair = None if times is None else ctypes.create_string_buffer(times, len(times))
    address = 0 if pair is None else ctypes.addressof(pair)
    syscall("utimensat", descriptor, ctypes.addressof(_EMPTY), address, AT_EMPTY_PATH)


def install_filter(code: bytes) -> None:
    """Make `code`, an array of struct sock_filter, a seccomp filter of this thread. Needs no_new_privs."""
    instructions = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(instructions)), 16)
    syscall("seccomp", SECCOMP_SET_MODE_FILTER, 0, ctypes.addressof(program))


def install_supervised_filter(code: bytes) -> int:
    """As `install_filter`; gives the descriptor (close-on-exec) at which another process answers what is NOTIFY.

    EBUSY where an outer filter has such a descriptor already, EINVAL where the kernel knows none.
    """
    instructions = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(instructions)), 16)
    return supervised(lambda flags: syscall("seccomp", SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(program)))


def supervised(install: Callable[[int], int]) -> int:
    """What `install` gives for the best flags of seccomp(2) for a filter with a listener that this kernel knows."""
    try:
        # A signal would make the kernel ask again, and the broker act twice (Linux 5.19).
        return install(_SECCOMP_FILTER_FLAG_NEW_LISTENER | _SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return install(_SECCOMP_FILTER_FLAG_NEW_LISTENER)


def require_filter_action(action: int) -> None:
    """OSError when this kernel has no seccomp filters, or not this action (a SECCOMP_RET_* value)."""
    value = ctypes.create_string_buffer(pack("=I", action), 4)
    syscall("seccomp", _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.addressof(value))


def execute(path: int, argv: int, envp: int) -> None:
    """execve(2) with exactly these addresses. Returns only by raising."""
    syscall("execve", path, argv, envp)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
