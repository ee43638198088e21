"""The one execve that the filter lets through: known by the addresses of its arguments.

A worker has to execve once, after its walls are up, and never again. A filter can't count and can't read strings, but
it sees the three pointers of execve(path, argv, envp). So the child draws three secret addresses, maps pages there,
puts the arguments in, has the addresses compared by the filter, and calls execve with exactly these. The exec replaces
the memory that knew them, the new image starts with cleared registers, and no unprivileged call reads a filter back
(PTRACE_SECCOMP_GET_FILTER wants CAP_SYS_ADMIN, and the worker may not call ptrace). Drawing after the fork keeps them
from the spawner and from every other worker.

How hard to guess: an address is a multiple of 8 from [2^32, 2^38), one of 2^35 - 2^29 ~ 2^34.98. All three must match
in one call: about 2^104.9 combinations. The filter compares them without a branch in between (`bpf.pointers`), so the
time that a refusal takes does not tell how much of a guess was right.

The range begins above what a small non-PIE program maps, and ends inside the 39-bit address space that is the smallest
usual one of arm64 (Documentation/arch/arm64/memory.rst), below where the kernel puts PIE programs and libraries.
"""

from __future__ import annotations

import errno
import os
from struct import pack

from . import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

_LOWEST: Final = 2**32
_HIGHEST: Final = 2**38
_ALIGNMENT: Final = 8  # a vector is an array of pointers
_ATTEMPTS: Final = 64


class ExecGate:
    """The arguments of an execve in place at secret addresses. Made in the child, used by it once."""

    __slots__ = ("_addresses",)

    def __init__(self, path: bytes, argv: Sequence[bytes], environment: Sequence[bytes]) -> None:
        """Put the arguments in place. `environment` is NAME=VALUE. OSError when no memory can be mapped."""
        self._addresses = (
            _place(len(path) + 1, lambda _: path + b"\0"),
            _place(vector_size(argv), lambda address: vector(argv, address)),
            _place(vector_size(environment), lambda address: vector(environment, address)),
        )

    def addresses(self) -> tuple[int, int, int]:
        """Where path, argv and envp are: the values of the filter's slots."""
        return self._addresses

    def execute(self) -> None:
        """Call execve with them. Returns only by raising OSError."""
        linux.execute(*self._addresses)


def vector_size(strings: Sequence[bytes]) -> int:
    """Bytes that `vector` takes."""
    return 8 * (len(strings) + 1) + sum(map(len, strings)) + len(strings)


def vector(strings: Sequence[bytes], address: int) -> bytes:
    """What lies in memory at `address` for argv or envp: pointers to the strings, a null pointer, the strings.

    The strings have no null character in them: the kernel would see them end there.
    """
    pointers = []
    position = address + 8 * (len(strings) + 1)
    for string in strings:
        pointers.append(position)
        position += len(string) + 1
    return pack(f"={len(pointers) + 1}Q", *pointers, 0) + b"".join(string + b"\0" for string in strings)


def draw() -> int:
    """A random address of the range. The remainder favours no address by more than 2^-29 of its chance."""
    places = (_HIGHEST - _LOWEST) // _ALIGNMENT
    return _LOWEST + int.from_bytes(os.urandom(8), "little") % places * _ALIGNMENT


def _place(size: int, content: Callable[[int], bytes]) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    for _ in range(_ATTEMPTS):
        address = draw()
        start = address - address % page
        if linux.map_memory(start, -(-(address + size - start) // page) * page):
            linux.write_memory(address, content(address))
            return address
    raise OSError(errno.ENOMEM, "no free memory at random addresses")
