"""Searches a tree of text files for a regular expression, in the order of their paths.

A pattern may be written so that matching takes longer than the universe will last. No check here tries to tell such
patterns from good ones: the host ends a call that takes longer than `call_timeout`, whatever it does.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from sandbox_worker.plugin_api import HookimplMarker

if TYPE_CHECKING:
    from collections.abc import Iterator

hookimpl: Final = HookimplMarker("demo")

MATCHES_MAX: Final = 1000
LINE_MAX: Final = 300
"""Characters of a matching line that are returned."""


@hookimpl
def search(folder: str, pattern: str) -> list[dict[str, str | int]]:
    """Return the lines below `folder`, an absolute path, in which the regular expression `pattern` is found.

    Each is a `file` relative to `folder`, a `line` counted from 1 and its `text`; at most `MATCHES_MAX` of them. Files
    with a NUL are taken for binary, symbolic links are not followed. Raises re.error for a pattern that is none and
    OSError for a folder or file that can't be read.
    """
    wanted = re.compile(pattern)
    found: list[dict[str, str | int]] = []
    for file in _files(folder):
        for number, text in enumerate(_lines(file), 1):
            if wanted.search(text):
                found.append({"file": os.path.relpath(file, folder), "line": number, "text": text[:LINE_MAX]})
                if len(found) == MATCHES_MAX:
                    return found
    return found


def _files(folder: str) -> Iterator[str]:
    """Yield the paths of the regular files below `folder`, sorted within each folder, files first."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    yield from (entry.path for entry in found if entry.is_file(follow_symlinks=False))
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)


def _lines(file: str) -> list[str]:
    with open(file, "rb") as stream:
        content = stream.read()
    return [] if b"\0" in content else content.decode("utf-8", "replace").splitlines()
