"""Takes out of a log what should not leave the machine: mail addresses, IP addresses, secrets, card numbers.

Where a text only might be one of these, it goes: what is lost can be looked up in the log itself, what leaks can't be
called back.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from sandbox_worker.plugin_api import HookimplMarker

hookimpl: Final = HookimplMarker("demo")

_TOKEN: Final = re.compile(
    r"(?P<scheme>\bBearer\s+)[\w.~+/=-]{8,}"  # RFC 6750
    r"|(?<![\w-])eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # a JSON Web Token, RFC 7519
    r"|\bAKIA[0-9A-Z]{16}\b"  # an AWS access key
    r"|\bgh[pousr]_[0-9A-Za-z]{36,}"  # a GitHub token
)
_SECRET: Final = re.compile(
    r"(?P<name>(?<![A-Za-z0-9])(?:password|passwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*)"
    r"(?:\"[^\"\n]*\"|'[^'\n]*'|[\"']?[^\s\"'&,;]+)",
    re.IGNORECASE,
)
# RFC 5321, section 4.5.3.1: 64 octets before the @.
_EMAIL: Final = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}\b")
# In one piece, in groups of four, or as 4-6-5 and 4-6-4. Zero-width, since a number before it may look like its start.
_CARD: Final = re.compile(
    r"(?<![\d-])(?=((?:\d{13,19}|\d{4}([ -])\d{4}\2\d{4}\2\d{1,7}|\d{4}([ -])\d{6}\3\d{4,5})(?!\d)))"
)
_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\w)")
_IPV6: Final = re.compile(r"(?<![\w:.])(?=:{0,2}[0-9A-Fa-f])[0-9A-Fa-f:]{2,45}(?:\d{1,3}(?:\.\d{1,3}){3})?(?!\.?\w)")


@hookimpl
def redact(text: str) -> str:
    """Return `text` with `[token]`, `[secret]`, `[email]`, `[card]` and `[ip]` in the place of such data."""
    text = _TOKEN.sub(lambda match: f"{match['scheme'] or ''}[token]", text)
    text = _SECRET.sub(r"\g<name>[secret]", text)
    text = _EMAIL.sub("[email]", text)
    text = _without_cards(text)
    return _IPV4.sub(_address, _IPV6.sub(_address, text))


@hookimpl
def redact_file(source: str, target: str) -> dict[str, int]:
    """Write the log at `source` to `target`, redacted, and return how many `lines` it has and how many were `changed`.

    Both are absolute paths. Raises OSError where one can't be opened; bytes that are no UTF-8 become U+FFFD.
    """
    lines = changed = 0
    with (
        open(source, encoding="utf-8", errors="replace", newline="\n") as read,
        open(target, "w", encoding="utf-8", newline="\n") as written,
    ):
        for line in read:
            clean = redact(line)
            written.write(clean)
            lines += 1
            changed += clean != line
    return {"lines": lines, "changed": changed}


def _without_cards(text: str) -> str:
    """Replace what looks like a card number and has a right check digit."""
    pieces, end = [], 0
    for match in _CARD.finditer(text):
        start = match.start()
        if start >= end and _checks(re.sub("[ -]", "", match[1])):
            pieces += [text[end:start], "[card]"]
            end = match.end(1)
    return "".join(pieces) + text[end:]


def _checks(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (Luhn's algorithm, ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _address(match: re.Match[str]) -> str:
    """The word for an address; a time of day or a MAC address only looks like one."""
    for behind in ("", ":"):  # "from 2001:db8::1: refused"
        try:
            ipaddress.ip_address(match[0].removesuffix(behind))
        except ValueError:
            continue
        return "[ip]" + behind
    return match[0]
