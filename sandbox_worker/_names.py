"""The grammar of the kinds that are plain names: `env`, `host`, `sys` and `native`.

Each function raises ValueError whose message says what is legal.
"""

from __future__ import annotations

from sandbox_worker._patterns import Pattern

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

# The names of Deno's `--allow-sys` that a Python plugin can use, so that Deno's documentation carries over.
SYS_NAMES: Final = (
    "hostname",
    "osRelease",
    "osUptime",
    "loadavg",
    "networkInterfaces",
    "systemMemoryInfo",
    "uid",
    "gid",
    "cpus",
)

_LEGAL_RULE: Final = {
    "env": "the name of a variable, or a prefix and one * at its end, without = and white space",
    "host": 'a dotted name such as storage.get, or storage.*, or "*" alone',
    "sys": f'one of {", ".join(SYS_NAMES)}, or "*" alone',
    "native": 'the name of a package: ASCII letters, digits, dots, hyphens and underscores; or "*" alone',
}
_LEGAL_REQUEST: Final = {
    "env": "the name of a variable, without = and NUL",
    "host": "a dotted name such as storage.get",
    "sys": f"one of {', '.join(SYS_NAMES)}",
    "native": "the name of a package: ASCII letters, digits, dots, hyphens and underscores",
}


def parse_rule(kind: str, text: str) -> Pattern:
    """Return the pattern of a rule of one of the four kinds."""
    if text == "*":
        return Pattern("")
    # The prefix of a variable ends anywhere, that of a function at a dot.
    ending = {"env": "*", "host": ".*"}.get(kind, "")
    name = text.removesuffix(ending)
    if not _is_name(kind, name) or "*" in name or any(char.isspace() for char in name):
        raise ValueError(_LEGAL_RULE[kind])
    exact = name == text
    return Pattern(name if exact else text.removesuffix("*"), exact)


def parse_request(kind: str, text: str) -> str:
    """Return the requested name as it stands; a `*` in the name of a variable is a character like any other."""
    if not _is_name(kind, text):
        raise ValueError(_LEGAL_REQUEST[kind])
    return text


def _is_name(kind: str, text: str) -> bool:
    if kind == "env":
        # The two characters that putenv(3) and the block of NUL-terminated strings of environ(7) cannot hold.
        return text != "" and "=" not in text and "\0" not in text
    if kind == "sys":
        return text in SYS_NAMES
    if kind == "host":
        return text.isascii() and all(part.isidentifier() for part in text.split("."))
    # PEP 508 names, and a leading underscore as in the import names of many extension modules.
    bare = text.replace(".", "").replace("-", "").replace("_", "")
    return text.isascii() and bare.isalnum() and text[0] not in ".-" and text[-1] not in ".-"
