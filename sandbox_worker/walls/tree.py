"""What the descendants of this process take together, from /proc (proc(5)); seen from outside their namespaces."""

from __future__ import annotations

import contextlib
import os
import resource

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Usage:
    """`processes` counts threads too; `memory` is resident, in bytes; `cpu` in seconds, of those that ended as well."""

    __slots__ = ("cpu", "memory", "processes")

    def __init__(self) -> None:
        self.processes = 0
        self.memory = 0
        self.cpu = cpu_of_ended()


def cpu_of_ended() -> float:
    """Seconds of processor time of the children that were waited for, and of those that they waited for."""
    times = resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.ru_utime + times.ru_stime


def is_known() -> bool:
    """Whether this kernel lists children (CONFIG_PROC_CHILDREN)."""
    return os.path.exists("/proc/thread-self/children")


def children() -> list[int]:
    """The pids of this process's own children. OSError where the kernel does not list them."""
    return [int(pid) for pid in _children("self")]


def usage(most: int) -> Usage:
    """Look at all descendants, or at as many as are more than `most`."""
    found = Usage()
    todo = _children("self")
    while todo and found.processes <= most:
        process = todo.pop()
        with contextlib.suppress(OSError, IndexError, ValueError):
            _add(found, process)
            todo += _children(process)
    return found


def _add(found: Usage, process: str) -> None:
    with open(f"/proc/{process}/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()  # from the state, field 3, on
    found.processes += max(1, int(fields[17]))
    found.memory += int(fields[21]) * _PAGE
    found.cpu += sum(map(int, fields[11:15])) / _TICKS  # its own, and of those that it waited for


def _children(process: str) -> list[str]:
    found: list[str] = []
    for thread in os.listdir(f"/proc/{process}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{process}/task/{thread}/children", "rb") as children:
            found += children.read().decode().split()
    return found
