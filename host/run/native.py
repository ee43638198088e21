"""What a `native` grant lets load: the compiled modules of the named packages and of all that these require.

Found in the folders that the plugin imports from, in their order, from the installer's own records (the core metadata
specifications: RECORD, Requires-Dist); a package without records is its folder, or its one file. Never a whole
site-packages, unless the grant is "*". A package may also be named as it is imported: `PIL` is `pillow`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from importlib import machinery, metadata
from typing import TYPE_CHECKING, Final

from host.errors import GrantError, PluginStartError
from sandbox_worker.permissions import parse_rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from host.model.grants import Effective
    from host.model.manifest import Manifest

EVERYTHING: Final = "*"
CALLS: Final = "ctypes"
"""The grant of calling native code by address, with ctypes or cffi."""

_CTYPES: Final = ("ctypes", "_ctypes")
_CFFI: Final = ("cffi", "_cffi_backend")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # at the start of a requirement, PEP 508


@dataclasses.dataclass(frozen=True, slots=True)
class Native:
    """What one grant is worth: `paths`, folders and files whose compiled modules may load, and `calls`, modules that
    call by address and may be imported."""

    paths: tuple[str, ...]
    calls: tuple[str, ...]


def resolve(manifest: Manifest, effective: Effective, folders: Sequence[str]) -> dict[str, Native]:
    """What each granted name stands for in `folders`, the plugin's import path, absolute and resolved.

    Raises PluginStartError for a package that is not there (an optional one is left out), GrantError where the plugin
    may itself write what it may load.
    """
    optional = {entry.target for entry in manifest.permissions if entry.kind == "native" and entry.optional}
    found: dict[str, Native] = {}
    for name in (rule.text for rule in effective.allow.get("native", ())):
        native = _one(name, folders)
        if native is not None:
            found[name] = native
        elif name not in optional:
            text = f"plugin {manifest.name}: native = [{name!r}]: no such package in {', '.join(folders)}"
            raise PluginStartError(text, plugin=manifest.name)
    found = _without(found, [rule.text for rule in effective.deny.get("native", ())], folders)
    for name, native in found.items():
        _refuse_writable(manifest, name, native, effective)
    return found


def _one(name: str, folders: Sequence[str]) -> Native | None:
    if name == EVERYTHING:
        return Native(tuple(folders), (*_CTYPES, *_CFFI))
    if name == CALLS:
        return Native(tuple(_closure("cffi", folders) or ()), (*_CTYPES, *_CFFI))
    paths = _closure(name, folders)
    if paths is None:
        return None
    # What needs cffi's compiled half (cryptography, say) can't do without it, and whoever imports it can call anything.
    has_cffi = any(os.path.basename(path).startswith(_CFFI[1] + ".") for path in paths)
    return Native(tuple(paths), _CFFI if has_cffi else ())


def _without(found: dict[str, Native], denied: list[str], folders: Sequence[str]) -> dict[str, Native]:
    """`found` less the denied packages, also where another package needs them."""
    if EVERYTHING in denied:
        return {}
    gone = {path for name in denied for path in (_package(name, folders) or _Package((), ())).paths}
    no_calls = CALLS in denied
    return {
        name: Native(
            tuple(path for path in native.paths if path not in gone),
            () if no_calls else native.calls,
        )
        for name, native in found.items()
        if name not in denied
    }


def _refuse_writable(manifest: Manifest, name: str, native: Native, effective: Effective) -> None:
    """Code that a plugin can write is code that nobody granted."""
    denied = [rule.pattern for rule in effective.deny.get("fs.write", ())]
    for path in {*native.paths, *map(os.path.realpath, native.paths)}:
        tree = parse_rule("fs.write", path).pattern
        for rule in effective.allow.get("fs.write", ()):
            meets = rule.pattern.contains(tree) or tree.contains(rule.pattern)
            if meets and not any(deny.contains(tree) for deny in denied):
                text = (
                    f"{manifest.name}: native = [{name!r}] loads code from {path}, "
                    f"and fs.write = [{rule.text!r}] may change it"
                )
                raise GrantError(text, plugin=manifest.name)


# --- packages, as installed


@dataclasses.dataclass(frozen=True, slots=True)
class _Package:
    """`paths` as in `Native`, `requires` the names of the distributions that it needs."""

    paths: tuple[str, ...]
    requires: tuple[str, ...]


def _closure(name: str, folders: Sequence[str]) -> list[str] | None:
    """The paths of a package and of all that it requires, as far as that is installed; None where itself is not."""
    paths: dict[str, None] = {}
    seen: set[str] = set()
    todo = [name]
    while todo:
        name = todo.pop()
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in seen:
            continue
        package = _package(name, folders)
        if package is None and not seen:
            return None
        seen.add(key)
        if package is not None:
            paths.update(dict.fromkeys(package.paths))
            todo += package.requires
    return list(paths)


def _package(name: str, folders: Iterable[str]) -> _Package | None:
    """The first package of that name in `folders`, by its distribution's name or the one it is imported by."""
    for folder in folders:
        by_name = next(iter(metadata.distributions(name=name, path=[folder])), None)
        if by_name is not None:
            return _recorded(by_name, folder)
        plain = tuple(_plain(name, folder))
        if plain:
            owner = next((d for d in metadata.distributions(path=[folder]) if name in _tops(d)), None)
            return _recorded(owner, folder) if owner is not None else _Package(plain, ())
    return None


def _recorded(distribution: metadata.Distribution, folder: str) -> _Package:
    """A distribution's top-level folders and files that hold compiled code, as its RECORD lists them."""
    compiled = {file.parts[0] for file in distribution.files or () if _is_compiled(file.name)} - {"..", "/"}
    paths = [os.path.join(folder, top) for top in sorted(compiled)]
    if distribution.files is None:  # a distribution's package manager may leave RECORD out
        tops = (distribution.read_text("top_level.txt") or distribution.metadata["Name"]).split()
        paths = [path for top in tops for path in _plain(top, folder)]
    needed = (requirement.partition(";") for requirement in distribution.requires or ())
    requires = [match[0] for text, _, marker in needed if "extra" not in marker and (match := _NAME.match(text))]
    return _Package(tuple(paths), tuple(requires))


def _tops(distribution: metadata.Distribution) -> set[str]:
    """The names by which a distribution's modules are imported."""
    return {file.parts[0].partition(".")[0] for file in distribution.files or ()}


def _plain(name: str, folder: str) -> Iterator[str]:
    """What a name is in `folder` without records: a package's folder and its libraries, or a module's file."""
    package = os.path.join(folder, name)
    if os.path.isdir(package):
        yield from (path for path in (package, f"{package}.libs") if os.path.isdir(path))
    else:
        files = (package + suffix for suffix in machinery.EXTENSION_SUFFIXES)
        yield from (path for path in files if os.path.isfile(path))


def _is_compiled(name: str) -> bool:
    return name.endswith(".so") or ".so." in name
