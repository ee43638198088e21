"""A manifest: what a plugin is, and what its author requests.

Reading is strict and starts nothing: the first mistake is a ManifestError that names the file, the key, the offending
text and what is legal. `manifest_schema` says what each key may hold; here is what takes more than one value or the
file system to tell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import keyword
import os
import pwd
import re
import stat
import sys
import tomllib
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from host.errors import ManifestError
from sandbox_worker.permissions import ENFORCED_KINDS, KINDS, UNIX, RuleError

from .manifest_schema import DOCUMENT, LIMITS, VARIABLES
from .mistakes import Mistake, illegal, join
from .rules import parse_rule
from .sanitise import quoted, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sandbox_worker.permissions import Rule

__all__ = ["ENFORCED_KINDS", "Entry", "Limits", "Manifest", "expand", "load_manifest"]

FILE_MAX: Final = 1 << 20
"""Bytes of a manifest."""
DOTS_MAX: Final = 10_000_000
"""All dots of a manifest times those of its fullest line. tomllib's time and memory grow with that product, where the
dots part keys: a single line of them would take all memory there is."""

# Stand-ins for folders that are only known at a start. No written path begins like them: `${` is refused elsewhere.
_PLACEHOLDERS: Final[Mapping[str, str]] = {name: f"/${{{name}}}" for name in VARIABLES}
_LEGAL_VARIABLE: Final = (
    f"one of {', '.join(f'${{{name}}}' for name in VARIABLES)} at the start of an fs target or behind unix:, "
    "then / or the end"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One request or one deny: `target` of `kind`, as written. `private` is for the net kinds alone, `argv` for run:
    the arguments that are requested (`sandbox_worker._argv`), None for all."""

    kind: str
    target: str
    reason: str = ""
    optional: bool = False
    private: bool = False
    argv: tuple[str, ...] | None = None


def _default(name: str) -> Any:
    return LIMITS[name].check(name, LIMITS[name].default)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may use up: sizes in bytes, times in seconds. `memory` is per worker, `cpu_time` per call."""

    memory: int = _default("memory")
    call_timeout: float = _default("call_timeout")
    start_timeout: float = _default("start_timeout")
    cpu_time: float = _default("cpu_time")
    open_files: int = _default("open_files")
    file_size: int = _default("file_size")
    write_size: int = _default("write_size")
    write_files: int = _default("write_files")
    threads: int = _default("threads")
    result_size: int = _default("result_size")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that has been checked. `file` and `path` are absolute and resolved.

    Either `entry` is set (``module`` or ``module:object``) or `functions` maps hook names to ``module:callable``.
    """

    file: Path
    name: str
    version: str
    project: str
    entry: str | None
    path: Path
    environment: str = "isolated"
    instances: int = 1
    description: str = ""
    permissions: tuple[Entry, ...] = ()
    deny: tuple[Entry, ...] = ()
    functions: Mapping[str, str] = dataclasses.field(default_factory=lambda: MappingProxyType({}), hash=False)
    limits: Limits = Limits()

    @property
    def outside(self) -> bool:
        """Whether `path` lies outside the manifest's folder: reading it is then an implied request."""
        return not self.path.is_relative_to(self.file.parent)


def load_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Read and check the manifest at `path`, a TOML 1.0 file in UTF-8 of at most 1 MiB.

    Raises ManifestError, with `.path` as given and `.key` where one is at fault; never OSError.
    """
    given = os.fspath(path)
    try:
        file, text = _read(Path(given))
        return _manifest(file, _parse(text))
    except Mistake as mistake:
        raise ManifestError(f"{visible(given)}: {mistake}", path=given, key=mistake.key or None) from None


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace the variable at the start of `text`, or behind its `unix:`, if one is there, by its folder, an absolute
    path.

    `variables` maps names without ``${}``. Raises RuleError where the variable is unknown or runs on into a name.
    """
    if text.startswith(UNIX + "${"):
        return UNIX + expand(text[len(UNIX) :], variables)
    if not text.startswith("${"):
        return text
    name, closed, rest = text[2:].partition("}")
    if not closed or name not in variables or (rest and not rest.startswith("/")):
        raise RuleError(text, _LEGAL_VARIABLE)
    return variables[name] + rest


def _read(path: Path) -> tuple[Path, str]:
    """Return the resolved path of a manifest and its text; Mistake for whatever can't be read."""
    legal = f"a readable file of at most {FILE_MAX >> 10} KiB of UTF-8"
    try:
        with open(path, "rb", opener=_open) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise Mistake("", "no regular file", legal)
            content = stream.read(FILE_MAX + 1)
        file = path.resolve(strict=True)
    except OSError as error:
        raise Mistake("", f"can't be read ({error.strerror})", legal) from None
    except ValueError as error:  # a NUL, a surrogate
        raise error if isinstance(error, Mistake) else Mistake("", "no path of a file", legal) from None
    if len(content) > FILE_MAX:
        raise Mistake("", "larger than a manifest may be", legal)
    try:
        return file, content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Mistake("", f"byte {error.start} is no UTF-8", legal) from None


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO would wait for a writer, fifo(7)


def _parse(text: str) -> dict[str, Any]:
    lines = text.split("\n")
    dots = [line.count(".") for line in lines]
    if sum(dots) * max(dots) > DOTS_MAX:
        line = dots.index(max(dots))
        raise Mistake("", f"line {line + 1}: {quoted(lines[line])} is not legal", "a shorter line, with fewer dots")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line ([0-9]+), column", str(error))
        place = f"line {found[1]}: {quoted(lines[int(found[1]) - 1])}: " if found else ""
        raise Mistake("", f"{place}{visible(str(error), 200)}", "TOML 1.0") from None
    except (ValueError, RecursionError):
        raise Mistake("", "a number too long or values nested too deeply", "what a manifest needs") from None


def _manifest(file: Path, document: Mapping[str, Any]) -> Manifest:
    checked = DOCUMENT.check("", document)
    plugin = checked["plugin"]
    functions = checked["functions"] or {}
    if (plugin["entry"] is None) is (not functions):
        what = "is missing, and so is [functions]" if not functions else "stands beside [functions]"
        raise Mistake("plugin.entry", what, "either an entry or a [functions] table")
    for hook in functions:
        if keyword.iskeyword(hook):
            raise illegal(join("functions", hook), hook, "a hook's name that is no keyword of Python")
    return Manifest(
        file=file,
        **plugin | {"path": _folder(file, plugin["path"])},
        permissions=tuple(_entries("permissions", checked["permissions"], ENFORCED_KINDS)),
        deny=tuple(_entries("permissions.deny", checked["permissions"]["deny"], KINDS)),
        functions=MappingProxyType(functions),
        limits=Limits(**checked["limits"]),
    )


def _entries(key: str, table: Mapping[str, Any], possible: tuple[str, ...]) -> Iterator[Entry]:
    """Yield the entries of all kinds in the table at `key`, each a rule of its grammar and none there twice."""
    for kind in KINDS:
        group, _, member = kind.partition(".")
        items = table[group][member] if member else table[group]
        if items and kind not in possible:
            what = f"{quoted(items[0]['target'])} can't be enforced by this version yet"
            raise Mistake(f"{key}.{kind}", what, f"no entry; this version enforces {', '.join(possible)}")
        seen: dict[object, str] = {}
        for index, item in enumerate(items):
            entry, place = Entry(kind, **item), f"{key}.{kind}[{index}]"
            pattern = _rule(place, entry).pattern
            first = seen.setdefault((pattern.stem, pattern.exact, pattern.ports, entry.argv), place)
            if first is not place:
                raise Mistake(place, f"{quoted(entry.target)} says the same as {first}", "each target once")
            yield entry


def _rule(key: str, entry: Entry) -> Rule:
    """Return the rule of one entry, with stand-ins for its variables; Mistake where the grammar refuses it."""
    text = entry.target
    variable = "${" in text
    try:
        if variable:
            start = len(UNIX) if entry.kind.startswith("net.") and text.startswith(UNIX) else 0
            if text.rfind("${") != start or not (start or entry.kind.startswith("fs.")):
                raise RuleError(text, _LEGAL_VARIABLE)
            text = expand(text, _PLACEHOLDERS)
        rule = parse_rule(entry.kind, text, private=entry.private)
    except RuleError as error:
        raise illegal(key, entry.target, error.legal) from None
    # `..` must not climb from a folder that only a start knows to one that nobody reviewed.
    beneath = tuple(f"{folder}/" for folder in _PLACEHOLDERS.values()) if variable else ""
    if not rule.pattern.stem.removeprefix(UNIX).startswith(beneath):
        raise illegal(key, entry.target, "a path that stays beneath its variable")
    return rule


def _folder(file: Path, written: str) -> Path:
    """Return the resolved `path` of a manifest, which becomes importable and readable."""
    key = "plugin.path"
    try:
        folder = (file.parent / written).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: before 3.13 a loop of links
        raise illegal(key, written, "the path of an existing folder") from None
    if not folder.is_dir():
        raise illegal(key, written, "the path of an existing folder")
    if _holds_more(folder) or folder.parent == Path("/home"):
        legal = "a folder of the plugin's own; not /, a home folder itself or the interpreter's prefix"
        raise illegal(key, written, legal)
    return folder


def _holds_more(folder: Path) -> bool:
    """Whether it is one that holds far more than a plugin: the root, a home, a prefix of the interpreter."""
    others = {"/", "/home", "/root", os.path.expanduser("~"), _home_of(os.getuid())}
    others |= {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    found = os.stat(folder)
    for other in others:
        with contextlib.suppress(OSError):  # not every machine has them all
            if os.path.samestat(os.stat(other), found):
                return True
    return False


@functools.cache
def _home_of(user: int) -> str:
    """The folder that the user database names, for HOME may say something else; the root where it knows no such user,
    as in many containers."""
    try:
        return pwd.getpwuid(user).pw_dir
    except KeyError:
        return "/"
