"""Titles for URLs. A plain library that knows nothing of plugins: the manifest's [functions] table makes it one."""

from __future__ import annotations

import re
import unicodedata

# Letters that Unicode does not decompose into a base letter and a mark.
_LETTERS = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L"}
    | {"đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "TH", "ı": "i"}  # noqa: RUF001 - the letter is meant
)


def slugify(text: str, separator: str = "-", length: int = 80) -> str:
    """Return `text` as lower-case ASCII words joined by `separator`, at most `length` characters, cut between words.

    A first word that is longer than `length` is cut itself. Letters without an ASCII form are left out.
    """
    plain = unicodedata.normalize("NFKD", text.translate(_LETTERS)).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z0-9]+", re.sub(r"['`]", "", plain).lower())
    slug = ""
    for word in words:
        longer = slug + separator + word if slug else word[:length]
        if len(longer) > length:
            break
        slug = longer
    return slug
