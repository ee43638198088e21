"""Foreign text made visible: what a plugin or a manifest says can't forge the terminal, the log or the reader's eye.

Pure. Escaping applies to every text of foreign origin, wherever it is shown (Unicode UTR 36 and UTS 55 describe what
the invisible characters can do).
"""

from __future__ import annotations

from typing import Final

_QUOTED_MAX: Final = 200  # characters of an offending text in a message

# `str.isprintable` is false for controls, format characters (bidi, zero-width, tags), line and paragraph separators,
# spaces other than U+0020, surrogates, private use and unassigned code points. What it passes although nothing, or
# nothing but a gap, is drawn: the remaining Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, and
# the blank Braille pattern.
_INVISIBLE: Final = frozenset(
    chr(code)
    for first, last in (
        (0x034F, 0x034F),  # combining grapheme joiner
        (0x115F, 0x1160),  # Hangul fillers
        (0x17B4, 0x17B5),  # Khmer inherent vowels
        (0x180B, 0x180F),  # Mongolian variation selectors
        (0x2800, 0x2800),  # Braille pattern blank
        (0x3164, 0x3164),  # Hangul filler
        (0xFE00, 0xFE0F),  # variation selectors
        (0xFFA0, 0xFFA0),  # halfwidth Hangul filler
        (0xE0100, 0xE01EF),  # variation selectors supplement
    )
    for code in range(first, last + 1)
)


def visible(text: str, limit: int = 2000, *, multiline: bool = False) -> str:
    r"""Return `text` with everything invisible escaped (``\x1b``, ``\u202e``), newlines too unless `multiline`.

    At most `limit` characters, then a note of how many characters of `text` are left out. An escape is never cut.
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    shown: list[str] = []
    room = limit
    for char in text[:limit]:
        piece = char if is_safe(char) or (multiline and char == "\n") else _escape(char)
        room -= len(piece)
        if room < 0:
            break
        shown.append(piece)
    left = len(text) - len(shown)
    return "".join(shown) + (f"… ({left} more characters)" if left else "")


def quoted(text: str, limit: int = _QUOTED_MAX) -> str:
    """Return `text` for a message: visible, on one line, bounded by `limit` characters, in double quotes."""
    return f'"{visible(text, limit)}"'


def is_safe(char: str) -> bool:
    """Say whether one character shows as itself and changes nothing around it."""
    return char.isprintable() and char not in _INVISIBLE


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")  # surrogates too; it leaves only ASCII printables alone
