"""The table of what holds each permission is what workers of each tier show."""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING, Any, Final

import pytest

from host import LockdownUnavailable
from host.model.enforcement import ANSWERS, HOOK, HOST, KERNEL, ROWS, START, TIERS, markdown, of_tier
from host.run import tiers
from sandbox_worker.permissions import ENFORCED_KINDS, KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CELLS: Final = {row.subject: row.cells for row in ROWS}
C: Final = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def done(number):
    if number < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return number
"""
ATTEMPTS: Final = {
    "fs.read": ("open(outside).read()", "done(libc.open(outside.encode(), 0))"),
    "fs.write": ("open(readable, 'a').close()", "done(libc.open(readable.encode(), 1))"),
    "deny inside allow": ("open(denied).read()", "done(libc.open(denied.encode(), 0))"),
    "names, sizes, times": ("import os; os.stat(outside)", "done(libc.access(outside.encode(), 0))"),
    "chmod, utime": ("import os; os.chmod(readable, 0o777)", "libc.chmod(readable.encode(), 0o777)"),
    "flock": (
        "import fcntl; fcntl.flock(open(readable), fcntl.LOCK_SH)",
        "done(libc.flock(done(libc.open(readable.encode(), 0)), 1))",
    ),
    "net.connect": (
        "import socket; socket.create_connection(('127.0.0.1', port), 5).close()",
        "import struct; where = struct.pack('=HH4s8x', 2, (port >> 8) | (port & 255) << 8, bytes((127, 0, 0, 1)))\n"
        "done(libc.connect(done(libc.socket(2, 1, 0)), where, 16))",
    ),
    "net.listen": (
        "import socket; socket.create_server(('127.0.0.1', 0)).close()",
        "done(libc.listen(done(libc.socket(2, 1, 0)), 5))",
    ),
    "run": (
        f"import subprocess; subprocess.run([{shutil.which('true')!r}])",
        "pid = done(libc.fork())\nif not pid: libc._exit(0)\nlibc.waitpid(pid, None, 0)",
    ),
    "native": (
        "import ctypes; ctypes.CDLL(readable)",
        "libc.mmap.restype = ctypes.c_ssize_t\nfile = done(libc.open(readable.encode(), 0))\n"
        "done(libc.mmap(None, 4096, 5, 2, file, 0))",
    ),
    "other processes": ("import os; os.kill(parent, 0)", "done(libc.kill(parent, 0))"),
}
"""By subject: (as Python code, past the audit hook). Each raises where it is refused; chmod is judged outside."""


@pytest.fixture
def layers_of(attacker: Any, tmp_path: Path, must_work: Any) -> Callable[[str, str], tuple[str, ...]]:
    """``layers_of(subject, tier)``: who refuses what `ATTEMPTS` has for the subject, in workers of the tier."""
    readable, denied, outside = (tmp_path / name for name in ("open/readable", "open/denied", "outside"))
    readable.parent.mkdir()
    for file in (readable, denied, outside):
        file.write_bytes(bytes(4096))
        file.chmod(0o600)

    def try_both(subject: str, tier: str) -> tuple[str, ...]:
        python, past_the_hook = ATTEMPTS[subject]
        with socket.create_server(("127.0.0.1", 0)) as server:
            names = {
                "readable": readable,
                "denied": denied,
                "outside": outside,
                "port": server.getsockname()[1],
                "parent": os.getpid(),
            }
            rules: dict[str, Any] = {
                "permissions": {"fs.read": [str(readable.parent)], "native": []},
                "deny": {"fs.read": [str(denied)]},
                "tier": tier,
                "minimum_tier": tier,
            }
            hook = _started(attacker, must_work, rules).is_denied(python, **names)
            rules["permissions"] = {"fs.read": [str(readable.parent)], "native": ["ctypes"]}
            stopped = attacker(**rules).is_stopped(C + past_the_hook, **names)
        kernel = readable.stat().st_mode & 0o777 == 0o600 if subject == "chmod, utime" else stopped
        return (*((HOOK,) if hook else ()), *((KERNEL,) if kernel else ()))

    return try_both


def _started(attacker: Any, must_work: Any, rules: dict[str, Any]) -> Any:
    try:
        return attacker(**rules)
    except LockdownUnavailable as e:
        must_work(False, str(e))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("subject", ATTEMPTS)
def test_who_refuses_is_who_the_table_names(layers_of: Any, subject: str, tier: str) -> None:
    assert layers_of(subject, tier) == CELLS[subject][tier].layers


@pytest.mark.parametrize("tier", TIERS)
def test_the_environment_is_not_there(attacker: Any, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGHOLD_TEST_TOKEN", "secret")
    worker = attacker(tier=tier, minimum_tier=tier, permissions={"native": ["ctypes"]})
    assert worker.run(C + "result = libc.getenv(b'PLUGHOLD_TEST_TOKEN')") == 0
    assert CELLS["env"][tier].layers == (START,)


@pytest.mark.parametrize("tier", TIERS)
def test_facts_are_neutral_to_python_code(attacker: Any, tier: str) -> None:
    worker = attacker(tier=tier, minimum_tier=tier)
    assert worker.run("import os; result = os.uname().release") == "0.0.0"
    assert CELLS["sys"][tier].layers == (ANSWERS,)


def test_every_kind_and_every_tier_is_there() -> None:
    assert set(KINDS) <= set(CELLS)
    assert set(CELLS) == {*ATTEMPTS, "env", "sys", "host"}
    assert all(tuple(cells) == TIERS for cells in CELLS.values())
    assert tuple(reversed(tiers.TIERS)) == TIERS


def test_what_nothing_grants_yet_says_so() -> None:
    told = {row.subject for row in ROWS if row.cannot.endswith("in this version")}
    assert told == set(KINDS) - set(ENFORCED_KINDS)
    assert CELLS["host"]["walled"].layers == (HOST,)


def test_the_table_has_a_line_per_row_and_no_stray_bar() -> None:
    lines = markdown().splitlines()
    assert len(lines) == len(ROWS) + 2
    assert {line.count("|") for line in lines} == {len(TIERS) + 3}


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_is_told_by_the_same_cells(tier: str) -> None:
    assert [(subject, held) for subject, held, _ in of_tier(tier)] == [
        (row.subject, str(row.cells[tier])) for row in ROWS
    ]


@pytest.mark.parametrize("tier", ["walled", "confined"])
def test_a_denied_path_that_does_not_exist_yet_is_not_made_by_native_code(
    attacker: Any, tmp_path: Path, tier: str
) -> None:
    """It can't be covered, so nothing around it may be opened for writing as a whole."""
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "there").touch()
    rules: dict[str, Any] = {"fs.read": [str(folder)], "fs.write": [str(folder)], "native": ["ctypes"]}
    worker = attacker(permissions=rules, deny={"fs.write": [str(folder / "later")]}, tier=tier, minimum_tier=tier)
    later = folder / "later"
    assert worker.is_stopped(C + "done(libc.open(later.encode(), 0o101, 0o600))", later=later)
    assert worker.run(C + "result = done(libc.open(there.encode(), 2)) >= 0", there=folder / "there")
    assert not later.exists()


@pytest.mark.parametrize("tier", ["walled", "confined"])
def test_a_plugin_that_may_read_and_write_everything_writes_no_device(attacker: Any, tier: str) -> None:
    permissions = {"fs.read": ["*"], "fs.write": ["*"], "native": ["ctypes"]}
    worker = attacker(permissions=permissions, tier=tier, minimum_tier=tier)
    assert worker.is_stopped(C + "done(libc.open(b'/dev/urandom', 1))")
    assert worker.is_stopped(C + "done(libc.open(b'/proc/self/comm', 1))")
