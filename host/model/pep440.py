"""The pattern of a version as PEP 440 has it, in the syntax that Python and ECMA-262 share. Pure."""

from __future__ import annotations

from typing import Final


def _any_case(*words: str) -> str:
    """Return a pattern for `words` in any case: JSON Schema has no flag for it."""
    return "|".join("".join(f"[{char}{char.upper()}]" for char in word) for word in words)


PEP_440: Final = (
    r"[vV]?(?:[0-9]+!)?[0-9]+(?:\.[0-9]+)*"
    rf"(?:[-_.]?(?:{_any_case('alpha', 'a', 'beta', 'b', 'preview', 'pre', 'c', 'rc')})[-_.]?[0-9]*)?"
    rf"(?:-[0-9]+|[-_.]?(?:{_any_case('post', 'rev', 'r')})[-_.]?[0-9]*)?"
    rf"(?:[-_.]?{_any_case('dev')}[-_.]?[0-9]*)?"
    r"(?:\+[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*)?"
)
"""Appendix B of PEP 440, in one line and without named groups."""
