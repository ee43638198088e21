"""Whether what a worker is denied is still what was covered for it.

In tier `walled` a denied path is mounted over. A mount sits on a file or folder, not on its name: replaced or moved
from outside (rename(2), by whoever may), the name stands for something new, which has no cover. The audit hook judges
the name and still refuses; for native code it would be open, so the watcher looks, and ends such a worker.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Covers:
    """The denied paths that exist when this is made, which is before the worker is."""

    def __init__(self, paths: Iterable[str]) -> None:
        found = {path: _identity(path) for path in paths}
        self._identities = {path: identity for path, identity in found.items() if identity is not None}

    def lost(self) -> bool:
        """Whether one of them is now something else. One that is gone has nothing to cover."""
        return any(_identity(path) not in (identity, None) for path, identity in self._identities.items())


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
