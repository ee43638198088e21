"""The rules of manifests, grants and ceilings. A text is read once: a manifest's is wanted when it is checked, when it
is decided on, and at each start of a worker."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from sandbox_worker import permissions

if TYPE_CHECKING:
    from sandbox_worker.permissions import Rule

_MOST: Final = 1 << 14
"""Rules that are kept: far more than a host has, and no more memory than a few megabytes."""


def parse_rule(kind: str, text: str, *, private: bool = False) -> Rule:
    """As `permissions.parse_rule`, for texts. Raises RuleError."""
    return _parsed(kind, text, private)


@functools.lru_cache(_MOST)
def _parsed(kind: str, text: str, private: bool) -> Rule:
    return permissions.parse_rule(kind, text, private=private)
