"""What each limit of a plugin does to code that runs into it: `python -m tests.benchmarks.limits` prints the table.

Each attack has a worker of its own with the default limits, but for the times, which are 1 s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import host

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB: Final = 1 << 20


@dataclasses.dataclass(frozen=True)
class Attack:
    """One way into a limit: its code stands in a function with the private folder as `data`."""

    limit: str
    what: str
    code: str
    limits: str = ""
    at_import: bool = False


ATTACKS: Final = (
    Attack("memory", "bytes in a loop", "held = []\n    while True: held.append(bytearray(b'x') * (1 << 20))"),
    Attack("memory", "one allocation of 4 GiB", "return len(bytearray(4 << 30))"),
    Attack(
        "memory",
        "shared anonymous maps",
        "held = []\n    while True:\n        held.append(mmap.mmap(-1, 1 << 24)); held[-1].write(b'x' * (1 << 24))",
    ),
    Attack("memory", "a memory file", "os.memfd_create('x')"),
    Attack("cpu_time", "a loop", "while True: pass", "cpu_time = '1 s'"),
    Attack(
        "cpu_time",
        "a loop in four threads",
        "def spin():\n        while True: hash(b'x' * 100_000)\n"
        "    [threading.Thread(target=spin, daemon=True).start() for _ in range(4)]\n    spin()",
        "cpu_time = '1 s'",
    ),
    Attack("call_timeout", "a loop", "while True: pass", "call_timeout = '1 s'"),
    Attack("call_timeout", "sleep", "time.sleep(60)", "call_timeout = '1 s'"),
    Attack("start_timeout", "a loop at the import", "while True: pass", "start_timeout = '1 s'", at_import=True),
    Attack(
        "threads",
        "sleeping threads",
        "while True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
    ),
    Attack("open_files", "open in a loop", "held = []\n    while True: held.append(open('/dev/null'))"),
    Attack("open_files", "pipes in a loop", "while True: os.pipe()"),
    Attack("file_size", "one file", "with open(data + '/f', 'wb') as f:\n        while True: f.write(bytes(1 << 20))"),
    Attack(
        "write_size",
        "many files",
        "for n in itertools.count():\n        with open(f'{data}/{n}', 'wb') as f: f.write(bytes(1 << 23))",
    ),
    Attack(
        "write_size",
        "files without a name",
        "held = []\n    for n in itertools.count():\n        f = open(f'{data}/{n}', 'wb'); os.unlink(f.name)\n"
        "        f.write(bytes(1 << 25)); held.append(f)",
    ),
    Attack("write_files", "empty files", "for n in itertools.count(): open(f'{data}/{n}', 'wb').close()"),
    Attack("result_size", "one result of 32 MiB", "return bytes(1 << 25)"),
)
_SOURCE: Final = """\
import itertools, mmap, os, threading, time
{top}
def use(data):
    {body}
"""
_MANIFEST: Final = """\
schema = 1
[plugin]
name = "attack{number}"
version = "1"
project = "bench"
[permissions]
fs.write = ["${{data}}"]
[functions]
use = "attack_plugin:use"
[limits]
{limits}
"""


class _Peak:
    """The most that a process had resident, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.size = 0
        self.pid: int | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.003):
            with contextlib.suppress(OSError, TypeError, ValueError, IndexError):
                pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
                self.size = max(self.size, pages * os.sysconf("SC_PAGESIZE"))


def rows(attacks: tuple[Attack, ...] = ATTACKS) -> Iterator[tuple[str, str, str, str, str]]:
    """(limit, attack, what came of it, seconds until then, how much it got of what is limited)."""
    with tempfile.TemporaryDirectory() as folder:
        for number, attack in enumerate(attacks):
            yield _tried(attack, Path(folder), number)


def _tried(attack: Attack, folder: Path, number: int) -> tuple[str, str, str, str, str]:
    mine = folder / str(number)
    mine.mkdir()
    top, body = (attack.code, "pass") if attack.at_import else ("", attack.code)
    (mine / "attack_plugin.py").write_text(_SOURCE.format(top=top, body=body))
    (mine / "plughold.toml").write_text(_MANIFEST.format(number=number, limits=_limits(attack)))
    with host.PluginHost("bench", grants="requested", data=folder / "data") as plugins, _Peak() as peak:
        begun = time.perf_counter()
        try:
            plugin = plugins.load(mine / "plughold.toml")
            peak.pid, begun = plugin.pid, time.perf_counter()
            plugin.call("use", data=str(folder / "data" / plugin.name))
            took, end = time.perf_counter() - begun, "nothing"
        except (host.HostError, PermissionError) as error:
            took, limit = time.perf_counter() - begun, getattr(error, "limit", None)
            end = f"{type(error).__name__} ({limit})" if limit else type(error).__name__
    return attack.limit, attack.what, end, f"{took:.3f}", _got(attack, peak.size, folder / "data" / f"attack{number}")


def _got(attack: Attack, peak: int, data: Path) -> str:
    """Memory while it ran, or what is left of its writing; files without a name are gone by now."""
    if attack.limit == "memory" and peak:
        return f"{peak / _MIB:.0f} MiB"
    sizes = [path.stat().st_size for path in data.iterdir()]
    if attack.limit in ("file_size", "write_size") and sizes:
        return f"{sum(sizes) / _MIB:.0f} MiB"
    return f"{len(sizes)} files" if attack.limit == "write_files" else "-"


def _limits(attack: Attack) -> str:
    """The lines of the table; without a time of its own a call has enough to run into what it is to run into."""
    return attack.limits if "call_timeout" in attack.limits else f"call_timeout = '20 s'\n{attack.limits}"


def main() -> None:
    """Print the table."""
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs\n")
    print("| limit | attack | ends as | after (s) | got |\n| --- | --- | --- | --- | --- |")
    for row in rows():
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
