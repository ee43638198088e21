"""How a worker imports: the standard library as ever, the plugin's folders from source alone, three packages by name.

Bytecode that lies beside a plugin's source is never read, since a poisoned `__pycache__` would run instead of source
that somebody reviewed; the interpreter's own is, because a `pycache_prefix` for everything makes imports 4.3 times as
slow. Nothing here is a wall: the kernel and the audit hook decide what may be opened.
"""

from __future__ import annotations

import sys
from _frozen_importlib_external import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    spec_from_file_location,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _frozen_importlib import ModuleSpec
    from collections.abc import Callable, Sequence
    from types import CodeType, ModuleType


class SourceOnlyLoader(SourceFileLoader):
    """Compiles what it reads; neither reads nor writes bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        """The module's code, from its source text as it is now."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def source_only_hook(trusted: tuple[str, ...]) -> Callable[[str], FileFinder]:
    """A `sys.path_hooks` entry for every folder that is not below `trusted`, a tuple of prefixes that end in "/"."""
    details = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceOnlyLoader, SOURCE_SUFFIXES))

    def hook(path: str) -> FileFinder:
        if not path or (path + "/").startswith(trusted) or path.endswith(".zip"):
            raise ImportError(path)
        return FileFinder(path, *details)

    return hook


class PackageFinder:
    """A meta path finder for exactly the packages in `folders` (name to folder), wherever they are installed."""

    def __init__(self, folders: dict[str, str]) -> None:
        self._folders = folders

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a package that is listed; None leaves the name to the other finders."""
        folder = self._folders.get(fullname)
        if folder is None:
            return None
        return spec_from_file_location(fullname, folder + "/__init__.py", submodule_search_locations=[folder])


def install(path: list[str], trusted: tuple[str, ...], packages: dict[str, str]) -> None:
    """Put the plugin's folders first on sys.path, read them from source alone, and find `packages` (name to folder)."""
    sys.path_hooks.insert(0, source_only_hook(trusted))
    sys.meta_path.append(PackageFinder(packages))
    sys.path[:0] = path
