"""What is wrong with a manifest, in one line: the key, the offending text, what is legal."""

from __future__ import annotations

from typing import Final

from .sanitise import quoted, visible
from .units import describe

_KEY_MAX: Final = 64  # characters of a key in a message


class Mistake(ValueError):
    """One mistake: `key` is dotted ("" for the file as a whole), `what` is wrong with it, `legal` what is legal."""

    def __init__(self, key: str, what: str, legal: str) -> None:
        super().__init__(f"{key}{': ' if key else ''}{what}; legal is {legal}")
        self.key = key


def illegal(key: str, value: object, legal: str) -> Mistake:
    """Return the mistake that `value` is not legal, with the value quoted."""
    shown = quoted(value) if isinstance(value, str) else describe(value)
    return Mistake(key, f"{shown} is not legal", legal)


def join(key: str, name: str) -> str:
    """Return the dotted key of `name` inside the table at `key`; `name` may be any text."""
    return f"{key}.{visible(name, _KEY_MAX)}" if key else visible(name, _KEY_MAX)
