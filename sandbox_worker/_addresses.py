"""The second stage of a network decision: which addresses a rule reaches once a name has been resolved. Pure.

The first stage (`_network`) judges text. Here an address is put into a class, and a rule that names no address itself
does not reach what is not public: a granted name that resolves to a private address is how DNS rebinding gets into a
network. Addresses are packed as in sockaddr_in and sockaddr_in6: 4 or 16 bytes.

Source: the IANA special-purpose address registries (RFC 6890 and its updates), and the addresses at which clouds hand
credentials to whoever asks.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from sandbox_worker.permissions import Rule

PUBLIC: Final = "public"
LOOPBACK: Final = "loopback"

_V4: Final = (
    ("metadata", 0xA9FEA9FE, 32),  # 169.254.169.254: AWS, Google, Azure, and most that came after
    ("metadata", 0xA9FEAA00, 24),  # 169.254.170.0/24: credentials of containers on AWS
    ("metadata", 0x646464C8, 32),  # 100.100.100.200: Alibaba
    ("metadata", 0xA83F8110, 32),  # 168.63.129.16: Azure's host, in a public range
    ("metadata", 0xC00000C0, 32),  # 192.0.0.192: Oracle
    ("unspecified", 0x00000000, 8),  # 0.0.0.0 is this machine to connect(2)
    ("private", 0x0A000000, 8),
    ("shared", 0x64400000, 10),  # RFC 6598, carrier-grade NAT
    (LOOPBACK, 0x7F000000, 8),
    ("link-local", 0xA9FE0000, 16),
    ("private", 0xAC100000, 12),
    ("private", 0xC0A80000, 16),
    ("reserved", 0xC0000000, 24),  # IETF protocol assignments
    ("reserved", 0xC0000200, 24),  # documentation
    ("reserved", 0xC0586300, 24),  # RFC 7526, relays of 6to4
    ("reserved", 0xC6120000, 15),  # RFC 2544, benchmarks
    ("reserved", 0xC6336400, 24),  # documentation
    ("reserved", 0xCB007100, 24),  # documentation
    ("multicast", 0xE0000000, 4),
    ("reserved", 0xF0000000, 4),  # with the broadcast address
)
_V6: Final = (
    ("unspecified", 0, 128),
    (LOOPBACK, 1, 128),
    ("metadata", 0xFD000EC2 << 96 | 0x254, 128),  # fd00:ec2::254: AWS
    ("private", 0xFC << 120, 7),  # RFC 4193
    ("link-local", 0xFE80 << 112, 10),
    ("private", 0xFEC0 << 112, 10),  # RFC 3879, site-local of old
    ("multicast", 0xFF << 120, 8),
    ("reserved", 0x20010DB8 << 96, 32),  # documentation
    ("reserved", 0x3FFF << 112, 20),  # documentation, RFC 9637
)
# Prefix, its bits, and how far right of the top the IPv4 address in it ends: what carries IPv4 reaches IPv4.
_EMBEDDED: Final = (
    (0xFFFF, 96, 128),  # ::ffff:0:0/96, IPv4-mapped
    (0x64FF9B << 64, 96, 128),  # 64:ff9b::/96, NAT64 (RFC 6052)
    (0x2002, 16, 48),  # 6to4 (RFC 3056)
)
_TEREDO: Final = 0x20010000  # 2001::/32; the client's address is the last 32 bits, inverted (RFC 4380)
_IETF: Final = 0x200100 >> 1  # 2001::/23, protocol assignments: nothing in it is an ordinary host
_GLOBAL_UNICAST: Final = 0b001  # 2000::/3 (RFC 4291, 2.4); all else is not assigned


def classify(address: bytes) -> str:
    """Say what kind of address it is: `public`, or why it is not. Raises ValueError unless it has 4 or 16 bytes."""
    number = int.from_bytes(address, "big")
    if len(address) == 4:
        return _of_table(number, 32, _V4) or PUBLIC
    if len(address) != 16:
        raise ValueError("an address of 4 or 16 bytes")
    named = _of_table(number, 128, _V6)
    if named:
        return named
    for prefix, bits, end in _EMBEDDED:
        if number >> (128 - bits) == prefix:
            return classify((number >> (128 - end) & 0xFFFF_FFFF).to_bytes(4, "big"))
    if number >> 96 == _TEREDO:
        return classify((~number & 0xFFFF_FFFF).to_bytes(4, "big"))
    if number >> 125 != _GLOBAL_UNICAST or number >> 105 == _IETF:
        return "reserved"
    return PUBLIC


def subject(address: bytes) -> str:
    """Return `address` as the text that patterns match (see `_network`); an IPv4-mapped one counts as IPv4."""
    if len(address) == 16 and address.startswith(_MAPPED):
        address = address[12:]
    number = int.from_bytes(address, "big")
    return f"4:{number:032b}" if len(address) == 4 else f"6:{number:0128b}"


def reachable(rule: Rule, name: str | None, address: bytes) -> bool:
    """Say whether `rule`, which matches `name` or, where that is None, `address` itself, reaches `address`.

    An address that is not public is reached by a rule that names addresses, by one with `private`, and, if it is a
    loopback address, by a rule for `localhost`. `name` is in lower case and without a trailing dot.
    """
    kind = classify(address)
    if kind == PUBLIC or rule.private or rule.pattern.stem.startswith(("4:", "6:")):
        return True
    return kind == LOOPBACK and name == "localhost" and rule.pattern.stem == "name:localhost" and rule.pattern.exact


_MAPPED: Final = bytes(10) + b"\xff\xff"


def _of_table(number: int, size: int, table: tuple[tuple[str, int, int], ...]) -> str:
    for kind, network, bits in table:
        if number >> (size - bits) == network >> (size - bits):
            return kind
    return ""
