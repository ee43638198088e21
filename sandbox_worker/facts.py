"""What a plugin learns about the machine without a `sys` grant: answers that mean nothing, in place of the truth.

An exception would stop ordinary libraries at their import (platform, uuid, logging, asyncio and numpy ask such things
there), and the kernel can't refuse most of these questions without breaking libc. So functions of `posix` are replaced
before anything imports `os`, and those of `_socket` when it is loaded. This holds for Python code that asks in the
ordinary way; it is no wall: native code, or a fresh copy of `posix`, is told the truth (SECURITY.md).
"""

from __future__ import annotations

import posix
import sys

from sandbox_worker._loading import after_loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, Final

NOBODY: Final = 65534
"""What the kernel itself shows for an id without a meaning: /proc/sys/kernel/overflowuid, user_namespaces(7)."""
NODE: Final = "localhost"
RELEASE: Final = "0.0.0"  # libraries split it at its dots and expect numbers
_HOSTS: Final = "networkInterfaces"
_INTERFACES: Final = ((1, "lo"),)
_ENODEV: Final = 19  # errno(3)


def install(granted: Collection[str], page_count: int, interfaces: Collection[tuple[int, str]] = ()) -> None:
    """Answer for every name of `sys` that is not in `granted`.

    `page_count` is the memory that the plugin may use, in pages; `interfaces` what socket.if_nameindex answers where
    networkInterfaces is granted, for a worker can't ask. Modules that are loaded already are changed too, so that a
    grant may be dropped later.
    """
    for name, functions in _posix_answers(granted, page_count).items():
        _replace(("posix", "os"), name, functions)
    after_loading("_socket", lambda _module: _answer_for_socket(granted, interfaces))


def _replace(modules: tuple[str, ...], name: str, function: Callable[..., object]) -> None:
    function.__name__ = function.__qualname__ = name
    for module in modules:
        if hasattr(sys.modules.get(module), name):
            setattr(sys.modules[module], name, function)


def _posix_answers(granted: Collection[str], page_count: int) -> dict[str, Callable[..., object]]:
    """The replacements of functions of `posix`, by name."""
    answers: dict[str, Callable[..., object]] = {}
    if "hostname" not in granted or "osRelease" not in granted:
        answers["uname"] = _uname(posix.uname, "hostname" in granted, "osRelease" in granted)
    if "loadavg" not in granted:
        answers["getloadavg"] = lambda: (0.0, 0.0, 0.0)
    if "uid" not in granted:
        answers |= {name: lambda: NOBODY for name in ("getuid", "geteuid")}
        answers["getresuid"] = lambda: (NOBODY, NOBODY, NOBODY)
    if "gid" not in granted:
        answers |= {name: lambda: NOBODY for name in ("getgid", "getegid")}
        answers["getresgid"] = lambda: (NOBODY, NOBODY, NOBODY)
        answers["getgroups"] = lambda: [NOBODY]
    if "cpus" not in granted:
        answers["cpu_count"] = lambda: 1
        answers["sched_getaffinity"] = lambda _pid: {0}
    fixed: dict[str, int] = {}
    if "cpus" not in granted:
        fixed |= {"SC_NPROCESSORS_CONF": 1, "SC_NPROCESSORS_ONLN": 1}
    if "systemMemoryInfo" not in granted:
        fixed |= {"SC_PHYS_PAGES": page_count, "SC_AVPHYS_PAGES": page_count}
    if fixed:
        answers["sysconf"] = _sysconf(posix.sysconf, fixed)
    return answers


def _uname(ask: Callable[[], posix.uname_result], hostname: bool, release: bool) -> Callable[[], posix.uname_result]:
    def uname() -> posix.uname_result:
        """What runs here, less what is not granted."""
        system, node, version, build, machine = ask()
        shown = (version, build) if release else (RELEASE, "")
        return posix.uname_result((system, node if hostname else NODE, *shown, machine))

    return uname


def _sysconf(ask: Callable[[Any], int], fixed: Mapping[str, int]) -> Callable[[str | int], int]:
    by_number = {posix.sysconf_names[name]: value for name, value in fixed.items()}

    def sysconf(name: str | int) -> int:
        """What sysconf(3) says, less what is not granted."""
        number = posix.sysconf_names.get(name) if isinstance(name, str) else name
        return by_number[number] if number in by_number else ask(name)

    return sysconf


def _answer_for_socket(granted: Collection[str], interfaces: Collection[tuple[int, str]]) -> None:
    """gethostname, and the names of interfaces: to list them takes a socket, which no worker may open."""
    if "hostname" not in granted:
        _replace(("_socket", "socket"), "gethostname", lambda: NODE)
    known = tuple(interfaces) if _HOSTS in granted else _INTERFACES
    _replace(("_socket", "socket"), "if_nameindex", lambda: list(known))
    _replace(("_socket", "socket"), "if_nametoindex", _lookup({name: index for index, name in known}))
    _replace(("_socket", "socket"), "if_indextoname", _lookup(dict(known)))


def _lookup(known: Mapping[Any, object]) -> Callable[[object], object]:
    def look_up(key: object) -> object:
        if key not in known:
            raise OSError(_ENODEV, "no interface with this name")
        return known[key]

    return look_up
