"""What holds each permission in each tier, and what that can't do: the table of docs/tiers.md and of `doctor`. Pure.

The layers of a cell are no opinion: tests/escape/test_enforcement.py makes the attempt in a worker of that tier, once
as Python code and once past the audit hook, and compares who refused.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOOK: Final = "audit hook"
"""Python code is refused before it begins, with the rule and what to do next."""
KERNEL: Final = "kernel"
"""Native code is refused too."""
START: Final = "start"
"""It is not there: the worker is started without it."""
ANSWERS: Final = "neutral answers"
"""Python code is told nothing true."""
HOST: Final = "host"
"""The host decides, on its own side of the wire."""

TIERS: Final = ("walled", "confined", "filtered", "hooked")
"""Strongest first, as the table has them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """Which `layers` hold one thing in one tier; none: nothing does. `how` says it more closely."""

    layers: tuple[str, ...]
    how: str = ""

    def __str__(self) -> str:
        return " + ".join(self.layers or ("nothing",)) + (f": {self.how}" if self.how else "")


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One thing that a plugin may lack: a permission kind, or what belongs to none. `cannot` is what is not held."""

    subject: str
    cells: Mapping[str, Cell]
    cannot: str


def _row(subject: str, walled: Cell, confined: Cell, filtered: Cell, hooked: Cell, cannot: str) -> Row:
    return Row(subject, dict(zip(TIERS, (walled, confined, filtered, hooked), strict=True)), cannot)


_BOTH: Final = (HOOK, KERNEL)
_HOOKED: Final = Cell((HOOK,))

ROWS: Final = (
    _row(
        "fs.read",
        Cell(_BOTH, "not mounted; Landlock"),
        Cell(_BOTH, "Landlock"),
        _HOOKED,
        _HOOKED,
        "a shared lock of fcntl(2) on a readable file; a grant of a single file follows the file, not the name",
    ),
    _row(
        "fs.write",
        Cell(_BOTH, "mounted read-only; Landlock"),
        Cell(_BOTH, "Landlock"),
        _HOOKED,
        _HOOKED,
        "a file that does not exist can't be granted, only its folder; total size is watched, not reserved; in walled "
        "a file moves by copy alone (EXDEV) from one grant to another, and out of a folder that leads to a denied path",
    ),
    _row(
        "deny inside allow",
        Cell(_BOTH, "mounted over"),
        Cell(_BOTH, "all else granted by name"),
        _HOOKED,
        _HOOKED,
        "walled: a denied path that is replaced from outside is open to native code until the watcher ends the worker; "
        "confined: a new name beside it is refused until the next start, names stay listable",
    ),
    _row(
        "names, sizes, times",
        Cell((KERNEL,), "not there"),
        Cell((), "visible"),
        Cell((), "visible"),
        Cell((), "visible"),
        "walled: folders on the way to a grant exist, and denied names in granted folders",
    ),
    _row(
        "chmod, utime",
        Cell(_BOTH, "they work inside write grants"),
        Cell(_BOTH, "the broker makes them inside write grants"),
        Cell(_BOTH, "as confined"),
        _HOOKED,
        "extended attributes are not supported in any tier with seccomp; nothing is made set-uid, nothing given away; "
        "without seccomp notifications confined and filtered report success inside write grants and do nothing",
    ),
    _row(
        "flock",
        Cell((KERNEL,), "the broker takes them inside write grants"),
        Cell((KERNEL,), "as walled"),
        Cell((KERNEL,), "as walled"),
        Cell((), "not held"),
        "inside write grants a plugin may keep others waiting; in containers native code may win a race for any lock",
    ),
    _row(
        "net.connect",
        Cell(_BOTH, "no interface, and without a grant no socket; with one the broker connects"),
        Cell(_BOTH, "without a grant no socket; with one the broker connects"),
        Cell(_BOTH, "as confined"),
        Cell((HOOK,), "with a grant the broker connects"),
        "TCP and unix streams alone; where sockets are replaced (walled, containers) only the usual options set before "
        "connecting stay; where doctor shows handed, Python code alone connects, and in hooked C code is not held",
    ),
    _row(
        "net.listen",
        Cell(_BOTH, "as net.connect"),
        Cell(_BOTH, "as net.connect"),
        Cell(_BOTH, "as net.connect"),
        Cell((HOOK,), "as net.connect, but for listen(2) past `socket`"),
        "no port that is shared (SO_REUSEPORT) or that the kernel chooses; a unix socket gets mode 0700",
    ),
    _row(
        "env",
        Cell((START,), "built from the list"),
        Cell((START,), "built from the list"),
        Cell((START,), "built from the list"),
        Cell((START,), "built from the list"),
        "-",
    ),
    _row(
        "run",
        Cell(_BOTH, "no fork, no second execve; a granted command is started by the keeper, behind the same walls"),
        Cell(_BOTH, "as walled"),
        Cell(_BOTH, "as walled, but a granted command reaches every file that the host reaches"),
        Cell((HOOK,), "nothing is granted"),
        "a command has no network and starts no other program; without namespaces or Linux 6.12 it has no children",
    ),
    _row(
        "native",
        Cell(_BOTH, "only the interpreter's own folders and granted packages are mapped as code"),
        Cell((HOOK,), "kernel: no code made at run time"),
        Cell((HOOK,), "kernel: no code made at run time"),
        _HOOKED,
        "native code of the standard library is every plugin's; what a grant loads, the kernel's walls alone hold",
    ),
    _row(
        "sys",
        Cell((ANSWERS,), "files and the host name: kernel"),
        Cell((ANSWERS,), "files: kernel"),
        Cell((ANSWERS,)),
        Cell((ANSWERS,)),
        "native code is told the truth, but for the host name in walled",
    ),
    _row(
        "host",
        Cell((HOST,), "by its own copy of the rules"),
        Cell((HOST,), "by its own copy of the rules"),
        Cell((HOST,), "by its own copy of the rules"),
        Cell((HOST,), "by its own copy of the rules"),
        "a function does what the application made it do; a plain one that hangs can't be interrupted",
    ),
    _row(
        "other processes",
        Cell(_BOTH, "signals, tracing, limits"),
        Cell(_BOTH, "signals, tracing, limits"),
        Cell(_BOTH, "signals, tracing, limits"),
        _HOOKED,
        "-",
    ),
)
"""Every permission kind by its name, and what belongs to no kind."""


def of_tier(tier: str) -> Iterator[tuple[str, str, str]]:
    """For one tier: (subject, what holds it, what that can't do)."""
    for row in ROWS:
        yield row.subject, str(row.cells[tier]), row.cannot


def markdown() -> str:
    """The whole table, a line per row."""
    head = ("what a plugin may lack", *TIERS, "what it can't do")
    lines = [head, ("---",) * len(head)]
    lines += [(row.subject, *(str(row.cells[tier]) for tier in TIERS), row.cannot) for row in ROWS]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
