"""Sizes and durations as a manifest, a grant or a ceiling writes them: ``"256 MiB"``, ``"500 ms"``.

Pure and strict: binary multiples only (IEC 80000-13), since ``MB`` means two different sizes; a duration always has a
unit. The patterns are also the JSON Schema's, in the syntax that Python and ECMA-262 share.
"""

from __future__ import annotations

import re
from typing import Final

from .sanitise import quoted

SIZE_PATTERN: Final = "[0-9]{1,16} ?(?:B|KiB|MiB|GiB|TiB)"
DURATION_PATTERN: Final = r"[0-9]{1,9}(?:\.[0-9]{1,3})? ?(?:ms|s|min|h)"

SIZE_MAX: Final = 16 << 40
"""Bytes: beyond any machine's memory, and small enough that four times it fits every system call."""
DURATION_MAX: Final = 24 * 3600.0
"""Seconds: a call that may take longer has no deadline worth the name."""

LEGAL_SIZE: Final = 'a whole number of B, KiB, MiB, GiB or TiB such as "256 MiB", or of bytes; above 0, up to 16 TiB'
LEGAL_DURATION: Final = 'a number of ms, s, min or h such as "5 s", "500 ms", "1.5 min"; above 0, up to 24 h'

_BYTES: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000}
_UNIT: Final = re.compile("[A-Za-z]+")


class UnitError(ValueError):
    """No size or duration: `text` is what offends, `legal` says in one line what is legal."""

    def __init__(self, text: str, legal: str) -> None:
        super().__init__(text, legal)
        self.text = text
        self.legal = legal

    def __str__(self) -> str:
        return f"{quoted(self.text)} is not legal; legal is {self.legal}"


def parse_size(value: int | str) -> int:
    """Return bytes from ``"256 MiB"`` or a plain number of bytes. Raises UnitError."""
    if type(value) is int:
        size = value
    else:
        number, unit = _split(value, SIZE_PATTERN, LEGAL_SIZE)
        size = int(number) * _BYTES[unit]
    if not 0 < size <= SIZE_MAX:
        raise UnitError(describe(value), LEGAL_SIZE)
    return size


def parse_duration(value: str) -> float:
    """Return seconds from ``"5 s"``. Raises UnitError; a bare number has no unit and is refused."""
    number, unit = _split(value, DURATION_PATTERN, LEGAL_DURATION)
    seconds = float(number) * _MILLISECONDS[unit] / 1000
    if not 0 < seconds <= DURATION_MAX:
        raise UnitError(describe(value), LEGAL_DURATION)
    return seconds


def describe(value: object) -> str:
    """Return what a message may quote of any TOML value: the value itself where it is short, else its type."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    # Python refuses to write integers of thousands of digits, which TOML can hold in hexadecimal.
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 64):
        return str(value)
    if isinstance(value, list | dict):
        return f"{'an array' if isinstance(value, list) else 'a table'} of {len(value)}"
    return "a huge integer" if isinstance(value, int) else "a date or time"


def _split(value: object, pattern: str, legal: str) -> tuple[str, str]:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise UnitError(describe(value), legal)
    unit = _UNIT.search(value)
    assert unit is not None
    return value[: unit.start()].rstrip(), unit.group()
