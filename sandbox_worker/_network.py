"""The grammar of `net.connect` and `net.listen`: hosts, addresses, networks and ports; unix sockets by their path.

Every host becomes one text, so that containment is a common prefix: `4:` and the bits of an IPv4 address, `6:` and the
bits of an IPv6 address, `name:` and the labels of a name from the right (`name:com.example.api`). A network is the
first bits of its addresses, and `*.example.com` is `name:com.example.`, which the name itself does not start with.
A unix socket is `unix:` and its one path, normalised: no rule covers several, and none for hosts reaches it.

Only text is judged here. Where a name leads is looked up, and judged again, by the part that connects.
Each function raises ValueError whose message says what is legal.
"""

from __future__ import annotations

from sandbox_worker import _paths
from sandbox_worker._paths import UNIX
from sandbox_worker._patterns import Pattern, merge_ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from sandbox_worker._patterns import Ports

_NAME_MAX: Final = 253  # RFC 1035, 2.3.4: 255 octets on the wire, without the first length and the root's
_LABEL_MAX: Final = 63  # RFC 1035, 2.3.4
_PORT_MAX: Final = 65535

_HEX: Final = frozenset("0123456789abcdefABCDEF")
_LABEL_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")

_LEGAL_RULE: Final = (
    "a host name, *.suffix, an IPv4 address or an [IPv6] address, an address with /bits, and optionally :ports; "
    'unix: and the path of a socket; "*" alone for any host'
)
_LEGAL_REQUEST: Final = (
    "a host name, an IPv4 address or an [IPv6] address, and optionally :port; or unix: and the path of a socket"
)
_LEGAL_UNIX: Final = "unix: and the absolute path of one socket, the same for every process, without * and NUL"
_LEGAL_PORTS: Final = "ports from 0 to 65535, such as 443 or 443,8443 or 8000-8010"
_LEGAL_NAME: Final = "a host name: labels of letters, digits, hyphens and underscores, joined by single dots"
_LEGAL_IPV4: Final = "an IPv4 address as four decimal numbers from 0 to 255 without leading zeros"
_LEGAL_IPV6: Final = "an IPv6 address in brackets (RFC 4291, 2.2), without a zone"
_LEGAL_BITS: Final = "an address with the number of its leading bits, at most /32 for IPv4 and /128 for IPv6"


def parse_rule(text: str) -> Pattern:
    """Return the pattern of a rule; a rule without ports covers any port."""
    if text == "*":
        return Pattern("")
    if is_unix(text):
        return Pattern(_parse_unix(text), exact=True)
    host, bits, port_text = _split(text, _LEGAL_RULE)
    ports = None if port_text is None else _parse_ports(port_text)
    suffix = host.removeprefix("*.")
    stem = _parse_host(suffix)
    is_name = stem.startswith("name:")
    if suffix != host:
        if not is_name or bits is not None:
            raise ValueError(_LEGAL_RULE)
        return Pattern(stem + ".", ports=ports)
    if bits is not None:
        stem = _parse_network(stem, host, bits)
    return Pattern(stem, is_name, ports)


def parse_request(text: str) -> tuple[str, int | None]:
    """Return the host as one text, and the port or None."""
    if is_unix(text):
        return _parse_unix(text), None
    host, bits, port = _split(text, _LEGAL_REQUEST)
    if bits is not None:
        raise ValueError(_LEGAL_REQUEST)
    return _parse_host(host), None if port is None else _decimal(port, _PORT_MAX, _LEGAL_PORTS)


def is_unix(text: str) -> bool:
    """Say whether a rule or a request is about a unix socket; `unix:443` is a port of a host with that name."""
    return text.startswith(UNIX) and not text[len(UNIX) :].startswith(tuple("0123456789"))


def _parse_unix(text: str) -> str:
    path = text[len(UNIX) :]
    if not path.startswith("/") or "*" in path or "\0" in path:
        raise ValueError(_LEGAL_UNIX)
    try:
        return UNIX + _paths.parse_rule("run", path).stem
    except ValueError:
        raise ValueError(_LEGAL_UNIX) from None


def _split(text: str, legal: str) -> tuple[str, str | None, str | None]:
    """Cut `host/bits:ports` into its three parts; the brackets stay with the host."""
    after_bracket = text.find("]") + 1
    head, colon, ports = text[after_bracket:].partition(":")
    tail, slash, bits = head.partition("/")
    host = text[:after_bracket] + tail
    if not host or ":" in ports or "/" in ports:  # an IPv6 address without brackets, a URL
        raise ValueError(legal)
    return host, bits if slash else None, ports if colon else None


def _parse_ports(text: str) -> Ports:
    ranges = []
    for item in text.split(","):
        low_text, dash, high_text = item.partition("-")
        low = _decimal(low_text, _PORT_MAX, _LEGAL_PORTS)
        high = _decimal(high_text, _PORT_MAX, _LEGAL_PORTS) if dash else low
        if high < low:
            raise ValueError(_LEGAL_PORTS)
        ranges.append((low, high))
    return merge_ports(ranges)


def _parse_host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return _address_text(_parse_ipv6(host[1:-1]))
    name = _to_ascii(host)
    last = name.rpartition(".")[2]
    # What ends in a number is an address, exactly as written, or nothing (WHATWG URL, "ends in a number"): inet_aton(3)
    # reads `127.1`, `2130706433`, `0177.0.0.1` and `0x7f000001` as 127.0.0.1, past every rule that names that address.
    if last.isdigit() or (last.startswith("0x") and _HEX.issuperset(last[2:])):
        return f"4:{_parse_ipv4(host):032b}"
    labels = name.split(".")
    if len(name) > _NAME_MAX or not all(_is_label(label) for label in labels):
        raise ValueError(_LEGAL_NAME)
    return "name:" + ".".join(reversed(labels))


def _parse_network(address: str, host: str, bits: str) -> str:
    """Return the leading `bits` of an `address`; the bits after them are ignored, as in `10.0.0.1/8`."""
    if address.startswith("name:"):
        raise ValueError(_LEGAL_BITS)
    if not host.startswith("["):
        return address[: 2 + _decimal(bits, 32, _LEGAL_BITS)]
    size = _decimal(bits, 128, _LEGAL_BITS)
    # A network inside ::ffff:0:0/96 is one of IPv4, a wider one holds IPv6 addresses that merely begin alike.
    if address.startswith("4:") and size >= 96:
        return address[: 2 + size - 96]
    return f"6:{_parse_ipv6(host[1:-1]):0128b}"[: 2 + size]


def _address_text(address: int) -> str:
    """Write an IPv6 `address` in bits, and an IPv4-mapped one (RFC 4291, 2.5.5.2) as the IPv4 address it stands for."""
    if address >> 32 == 0xFFFF:
        return f"4:{address & 0xFFFF_FFFF:032b}"
    return f"6:{address:0128b}"


def _to_ascii(host: str) -> str:
    """Return a name in lower case and without its trailing dot, encoded as the `socket` module does it."""
    # Bounded before encoding, whose cost grows faster than its input.
    if len(host) > _NAME_MAX + 1:
        raise ValueError(_LEGAL_NAME)
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(_LEGAL_NAME) from None
    return host.removesuffix(".").lower()


def _is_label(label: str) -> bool:
    # The underscore is no host name of RFC 1123, but resolvers and many names use it.
    legal = 0 < len(label) <= _LABEL_MAX and _LABEL_CHARS.issuperset(label)
    return legal and label[0] != "-" and label[-1] != "-"


def _parse_ipv4(text: str) -> int:
    parts = text.split(".")
    if len(parts) != 4:
        raise ValueError(_LEGAL_IPV4)
    address = 0
    for part in parts:
        address = address << 8 | _decimal(part, 255, _LEGAL_IPV4)
    return address


def _parse_ipv6(text: str) -> int:
    head, gap, tail = text.partition("::")
    left = _parse_groups(head, dotted=not gap)
    right = _parse_groups(tail, dotted=True)
    missing = 8 - len(left) - len(right)
    if missing < 1 if gap else missing != 0:
        raise ValueError(_LEGAL_IPV6)
    address = 0
    for group in (*left, *(0,) * missing, *right):
        address = address << 16 | group
    return address


def _parse_groups(text: str, *, dotted: bool) -> list[int]:
    """Read 16-bit groups; where `dotted`, the last 32 bits may be written as an IPv4 address."""
    if not text:
        return []
    parts = text.split(":")
    low: list[int] = []
    if dotted and "." in parts[-1]:
        address = _parse_ipv4(parts.pop())
        low = [address >> 16, address & 0xFFFF]
    if not all(0 < len(part) <= 4 and _HEX.issuperset(part) for part in parts):
        raise ValueError(_LEGAL_IPV6)
    return [int(part, 16) for part in parts] + low


def _decimal(text: str, most: int, legal: str) -> int:
    """Read digits without sign, blanks and leading zeros: what no two readers take for different numbers."""
    plain = 0 < len(text) <= 5 and text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")
    if not plain or int(text) > most:
        raise ValueError(legal)
    return int(text)
