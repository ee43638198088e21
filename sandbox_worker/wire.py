"""The wire: frames and values, used by both sides; sans-IO, so nothing here reads or writes a descriptor.

A frame is a 4-byte big-endian length and one msgpack array whose first item is the kind of message (`messages`).
What crosses is plain data: None, bool, int of 64 bits, float, str, bytes, list, dict with str keys; a tuple arrives
as a list. Everything is bounded before it is built: the length before a byte of the body is read, depth and the number
of items before the first object is made.

msgpack's C extension is loaded without its package, whose own import of collections would cost a starting worker
another third of a bare interpreter's start (`_msgpack` has the figures).
"""

from __future__ import annotations

from sandbox_worker._msgpack import Packer, unpackb
from sandbox_worker.errors import Unsendable, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

VERSION: Final = 2
HEADER: Final = 4
MAX_DEPTH: Final = 64
MAX_ITEMS: Final = 1 << 20
SENDABLE_ITEMS: Final = MAX_ITEMS - 256
"""Items in a value, or in all arguments of a call: the rest is for the message around it."""
CONTROL_LIMIT: Final = 1 << 20
"""Longest frame, in bytes, of everything but calls and results."""
ENVELOPE: Final = 4096
"""What a result frame may be longer than its value, in bytes."""

_SMALL: Final = 1 << 14  # so few bytes can't claim an amount of objects that matters
_SCALARS: Final = frozenset((type(None), bool, int, float, str, bytes))
_STR: Final = frozenset((str,))
# Bytes that can't open an array or a map (msgpack spec: fixmap 80-8f, fixarray 90-9f, dc-df, and their str/bin/ext kin)
_OPENERS: Final = frozenset((*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF))
_NOT_OPENERS: Final = bytes(b for b in range(256) if b not in _OPENERS)
_FIXED: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8,
}  # fmt: skip
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


class Encoder:
    """Makes frames. One per connection: msgpack's Packer keeps a buffer and is not for two threads at once."""

    __slots__ = ("_pack",)

    def __init__(self) -> None:
        self._pack = Packer(strict_types=True, default=_plain).pack

    def encode(self, message: list[object]) -> bytes:
        """One frame. `message` must have passed `check` where it holds foreign values.

        Raises Unsendable for an int beyond 64 bits, text that is no UTF-8, or a type that is not plain.
        """
        try:
            body: bytes = self._pack(message)
        except (OverflowError, UnicodeEncodeError, TypeError, ValueError) as e:
            raise Unsendable("", _culprit(e)) from e
        return len(body).to_bytes(4, "big") + body


def check(value: Any, where: str = "", depth: int = 3) -> int:
    """How many items `value` is on the wire. Raises Unsendable, with the path and the type, unless it is plain data.

    `depth` is where the value will stand in its frame.
    """
    kind = type(value)
    if kind in _SCALARS:
        if kind is int and not -(1 << 63) <= value < 1 << 64:
            raise Unsendable(where, "int beyond 64 bits")
        if kind is str:
            _check_text(value, where)
        return 1
    if depth >= MAX_DEPTH:
        raise Unsendable(where, f"{kind.__name__} nested deeper than {MAX_DEPTH}")
    if kind is dict:
        count = 1 + len(value)
        for key, item in value.items():
            if type(key) is not str:
                raise Unsendable(where, f"dict with a key of type {type(key).__name__}")
            _check_text(key, where)
            count += check(item, f"{where}[{key[:40]!r}]", depth + 1)
    elif kind is list or kind is tuple:
        if _SCALARS.issuperset(map(type, value)) and _cheap(value):
            count = 1 + len(value)
        else:
            count = 1 + sum(check(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value))
    else:
        raise Unsendable(where, f"{kind.__module__}.{kind.__qualname__}"[:200])
    if count > SENDABLE_ITEMS:
        raise Unsendable(where, f"{kind.__name__} of more than {SENDABLE_ITEMS} items in all")
    return count


def _cheap(items: list[object]) -> bool:
    """True for floats and bytes, which are sendable whatever their value: a look at every number would be slow."""
    return frozenset((float, bytes, bool, type(None))).issuperset(map(type, items))


def _check_text(text: str, where: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unsendable(where, "str that is no valid Unicode text (lone surrogates)") from None


def _plain(value: object) -> object:
    if type(value) is tuple:
        return list(value)
    raise TypeError(type(value).__qualname__)


def _culprit(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def decode(body: bytes, trusted: bool = False) -> object:
    """The value of one frame's body. Raises WireError for anything but exactly one bounded, plain msgpack value.

    `trusted` is for what the host sends, whose `check` has seen to it that keys are text: msgpack takes bytes for keys
    too, and a look at every map costs as much again as reading a small one.
    """
    if len(body) > _SMALL or len(body.translate(None, _NOT_OPENERS)) > MAX_DEPTH:
        _measure(body)
    try:
        return unpackb(
            body,
            strict_map_key=True,
            object_hook=None if trusted else _with_text_keys,
            ext_hook=_no_extension,
            max_ext_len=0,
        )
    except (ValueError, TypeError) as e:
        raise WireError(f"not one plain msgpack value ({type(e).__name__})") from None


def _with_text_keys(value: dict[object, object]) -> dict[object, object]:
    if not _STR.issuperset(map(type, value)):
        raise ValueError("a key that is no text")
    return value


def _no_extension(_code: int, _data: bytes) -> object:
    raise ValueError("extension types do not cross")


def _measure(body: bytes) -> None:
    """Walk the headers without building anything: depth, items and every claimed length must be within bounds."""
    at, end, items = 0, len(body), 0
    open_counts: list[int] = []
    while True:
        items += 1
        if items > MAX_ITEMS:
            raise WireError(f"more than {MAX_ITEMS} items")
        if at >= end:
            raise WireError("truncated value")
        at, children = _header(body, at)
        if at > end or children > end - at:
            raise WireError("a length beyond the frame")
        if children:
            if len(open_counts) >= MAX_DEPTH:
                raise WireError(f"nested deeper than {MAX_DEPTH}")
            open_counts.append(children)
            continue
        while open_counts:
            open_counts[-1] -= 1
            if open_counts[-1]:
                break
            open_counts.pop()
        if not open_counts:
            if at != end:
                raise WireError("bytes behind the value")
            return


def _header(body: bytes, at: int) -> tuple[int, int]:
    """(offset behind the value's own bytes, number of values that belong to it) for the value at `at`."""
    tag = body[at]
    at += 1
    if tag < 0x80 or tag >= 0xE0:
        return at, 0
    if tag < 0x90:
        return at, 2 * (tag & 15)
    if tag < 0xA0:
        return at, tag & 15
    if tag < 0xC0:
        return at + (tag & 31), 0
    if tag in _FIXED:
        return at + _FIXED[tag], 0
    if tag in _SIZED:
        width = _SIZED[tag]
        return at + width + int.from_bytes(body[at : at + width], "big"), 0
    if tag in _COUNTED:
        width, factor = _COUNTED[tag]
        return at + width, factor * int.from_bytes(body[at : at + width], "big")
    raise WireError("an extension or reserved type")


class FrameReader:
    """Cuts a byte stream into frame bodies; `limit` is the longest body in bytes, checked as soon as it is claimed.

    `buffered` is what came behind the last whole frame, for its readers to ask whether there is any.
    """

    __slots__ = ("buffered", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.buffered = bytearray()

    def feed(self, data: bytes) -> bytes | None:
        """Add what was read; the next body once it is whole. Raises WireError for a length beyond the limit."""
        if not self.buffered and len(data) >= HEADER:
            length = int.from_bytes(data[:HEADER], "big")
            if length == len(data) - HEADER and length <= self.limit:
                return data[HEADER:]
        self.buffered += data
        return self.next()

    def next(self) -> bytes | None:
        """The next body that is already whole, if any."""
        length = self._length()
        if length is None or len(self.buffered) < HEADER + length:
            return None
        with memoryview(self.buffered) as whole:
            body = bytes(whole[HEADER : HEADER + length])  # a slice of the bytearray would be one more copy
        del self.buffered[: HEADER + length]
        return body

    def _length(self) -> int | None:
        if len(self.buffered) < HEADER:
            return None
        length = int.from_bytes(self.buffered[:HEADER], "big")
        if length > self.limit:
            raise WireError(f"a frame of {length} bytes where at most {self.limit} may come")
        return length

    @property
    def missing(self) -> int:
        """How many bytes of the frame that has begun are still to come; 0 where that is not known."""
        return max(0, HEADER + (self._length() or 0) - len(self.buffered)) if self.buffered else 0
