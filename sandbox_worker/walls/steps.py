"""The names of the lockdown's steps, and what a child's exit code says about them. Pure; the host may import this."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

STEPS: Final = (
    "descriptors",
    "session",
    "namespaces",
    "capabilities",
    "parent",
    "limits",
    "no_new_privs",
    "landlock",
    "seccomp",
    "exec",
)
"""In the order in which a child takes them; `lockdown` says what each one does."""

EXIT_BASE: Final = 64
"""A child in which step number N fails ends with exit code EXIT_BASE + N: above the codes that programs use
themselves, below the 128 + signal of shells."""


def step_of(exit_code: int) -> str | None:
    """The step that ended a child with this exit code (not a wait status), or None when no step did."""
    index = exit_code - EXIT_BASE
    return STEPS[index] if 0 <= index < len(STEPS) else None
