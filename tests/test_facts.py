"""What a plugin is told about the machine: the truth for the names of `sys` that it was granted, else nothing in it."""

from __future__ import annotations

import os
import platform
import socket
from typing import TYPE_CHECKING, Any

import pytest

import host
from sandbox_worker.facts import NOBODY, NODE, RELEASE
from sandbox_worker.permissions import SYS_NAMES

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = 256 << 20
PAGES = MEMORY // os.sysconf("SC_PAGE_SIZE")
LO = [[1, "lo"]]

# Name of `sys`: (expression in the plugin, without the grant, with it)
ANSWERS: dict[str, list[tuple[str, Any, Any]]] = {
    "hostname": [
        ("socket.gethostname()", NODE, socket.gethostname()),
        ("os.uname().nodename", NODE, os.uname().nodename),
        ("platform.node()", NODE, platform.node()),
    ],
    "osRelease": [
        ("os.uname().release", RELEASE, os.uname().release),
        ("platform.release()", RELEASE, platform.release()),
        ("os.uname().version", "", os.uname().version),
    ],
    "loadavg": [("os.getloadavg() == (0.0, 0.0, 0.0)", True, None), ("len(os.getloadavg())", 3, 3)],
    "uid": [
        ("os.getuid()", NOBODY, os.getuid()),
        ("os.geteuid()", NOBODY, os.geteuid()),
        ("list(os.getresuid())", [NOBODY] * 3, list(os.getresuid())),
    ],
    "gid": [
        ("os.getgid()", NOBODY, os.getgid()),
        ("os.getegid()", NOBODY, os.getegid()),
    ],
    "cpus": [
        ("os.cpu_count()", 1, os.cpu_count()),
        ("sorted(os.sched_getaffinity(0))", [0], sorted(os.sched_getaffinity(0))),
        ("os.sysconf('SC_NPROCESSORS_CONF')", 1, os.sysconf("SC_NPROCESSORS_CONF")),
    ],
    "systemMemoryInfo": [
        ("os.sysconf('SC_PHYS_PAGES')", PAGES, os.sysconf("SC_PHYS_PAGES")),
        ("os.sysconf(os.sysconf_names['SC_PHYS_PAGES'])", PAGES, os.sysconf("SC_PHYS_PAGES")),
    ],
    "networkInterfaces": [
        ("[list(pair) for pair in socket.if_nameindex()]", LO, [list(pair) for pair in socket.if_nameindex()]),
        ("socket.if_nametoindex('lo')", 1, socket.if_nametoindex("lo")),
    ],
    "osUptime": [],  # no function of Python's asks for it alone
}
FILES = {
    "hostname": "/proc/sys/kernel/hostname",
    "osRelease": "/proc/sys/kernel/osrelease",
    "osUptime": "/proc/uptime",
    "loadavg": "/proc/loadavg",
    "systemMemoryInfo": "/proc/meminfo",
    "cpus": "/proc/cpuinfo",
}
LIBRARIES = "platform uuid getpass tempfile asyncio multiprocessing concurrent.futures logging.handlers webbrowser"


def told(tmp_path: Path, code: str, granted: str = "[]", rules: str = "") -> Any:
    """What `code`, the body of a hook, returns in a worker with `sys = granted`."""
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    (tmp_path / "asker.py").write_text(f"import os, platform, socket\ndef ask():\n{lines}")
    manifest = tmp_path / "asker.toml"
    manifest.write_text(
        'schema = 1\n[plugin]\nname = "asker"\nversion = "1"\nproject = "t"\n[functions]\nask = "asker:ask"\n'
        f"[permissions]\nsys = {granted}\n{rules}\n[limits]\nmemory = {MEMORY}\n"
    )
    with host.PluginHost("t", grants="requested", on_failure="raise") as plugins:
        return plugins.load(manifest).call("ask")


def everything() -> str:
    return f"return [{', '.join(expression for rows in ANSWERS.values() for expression, _, _ in rows)}]"


def expected(granted: set[str]) -> list[Any]:
    return [truth if name in granted else neutral for name, rows in ANSWERS.items() for _, neutral, truth in rows]


def same(found: list[Any], wanted: list[Any]) -> bool:
    return all(want is None or got == want for got, want in zip(found, wanted, strict=True))


def test_every_name_of_the_rules_has_its_answers() -> None:
    assert set(ANSWERS) == set(SYS_NAMES)


def test_without_a_grant_every_answer_is_neutral(tmp_path: Path) -> None:
    assert told(tmp_path, everything()) == expected(set())


def test_with_everything_granted_every_answer_is_true(tmp_path: Path) -> None:
    assert same(told(tmp_path, everything(), '["*"]'), expected(set(SYS_NAMES)))


@pytest.mark.parametrize("name", SYS_NAMES)
def test_one_name_tells_its_own_truth_alone(tmp_path: Path, name: str) -> None:
    assert same(told(tmp_path, everything(), f'["{name}"]'), expected({name}))


def test_a_denied_name_is_neutral_inside_everything(tmp_path: Path) -> None:
    found = told(tmp_path, everything(), '["*"]', '[permissions.deny]\nsys = ["hostname", "cpus"]')
    assert same(found, expected(set(SYS_NAMES) - {"hostname", "cpus"}))


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_name_opens_its_file_and_nothing_else_does(tmp_path: Path, name: str) -> None:
    code = f"return bool(open({FILES[name]!r}).read())"
    with pytest.raises(host.PermissionDenied):
        told(tmp_path, code, str([other for other in SYS_NAMES if other != name]).replace("'", '"'))
    assert told(tmp_path, code, f'["{name}"]') is True


def test_ordinary_libraries_import_and_ask_without_an_exception(tmp_path: Path) -> None:
    code = f"import importlib\nfor name in {LIBRARIES!r}.split(): importlib.import_module(name)\n"
    code += "return [bool(platform.platform()), os.path.expanduser('~x'), len(str(__import__('uuid').uuid1()))]"
    assert told(tmp_path, code) == [True, "~x", 36]


def test_an_unknown_interface_is_an_os_error(tmp_path: Path) -> None:
    code = "try:\n    socket.if_nametoindex('no')\nexcept OSError as e:\n    return e.errno"
    assert told(tmp_path, code) == 19
