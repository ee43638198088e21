"""Values as a terminal or a JSON document can bear them. Pure."""

from __future__ import annotations

import base64
import json
import math
from typing import TYPE_CHECKING, Any, Final

from host.model.sanitise import is_safe, quoted, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST_ESCAPE: Final = 10  # \U000e0100
_UNITS: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def shown(text: str) -> str:
    """All of `text` with everything invisible escaped but newlines; already bounded where it comes from."""
    return visible(text, _LONGEST_ESCAPE * len(text) + 1, multiline=True)


def one_line(text: str) -> str:
    """All of `text` with everything invisible escaped, newlines too."""
    return visible(text, _LONGEST_ESCAPE * len(text) + 1)


def shown_arguments(arguments: Sequence[str] | None) -> str:
    """What a command may be given, on one line; an argument that could be taken for several, or for none, in quotes."""
    if arguments is None:
        return "with any arguments"
    return " ".join(map(_argument, arguments)) or "without arguments"


def _argument(text: str) -> str:
    plain = text and not any(char in " \"'\\" or not is_safe(char) for char in text)
    return text if plain else quoted(text.replace("\\", "\\\\").replace('"', '\\"'), _LONGEST_ESCAPE * len(text))


def shown_value(value: object) -> str:
    """A plugin's result for a person: a text as it is, everything else as indented JSON; visible either way."""
    text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False, indent=2)
    return shown(text)


def plain(value: object) -> Any:
    """`value`, plain data of the wire, as JSON can hold it.

    Bytes become ``{"base64": …}``; NaN and the infinities, which JSON has no numbers for (RFC 8259, section 6), their
    names as texts.
    """
    match value:
        case bytes():
            return {"base64": base64.b64encode(value).decode("ascii")}
        case float() if not math.isfinite(value):
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


def size(number: int) -> str:
    """Bytes in the largest unit that divides them, as a manifest writes them: ``256 MiB``."""
    for name, factor in _UNITS:
        if number and number % factor == 0:
            return f"{number // factor} {name}"
    return f"{number} B"


def duration(seconds: float) -> str:
    """A measured time, in milliseconds below one second: ``34.2 ms``, ``1.50 s``."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
