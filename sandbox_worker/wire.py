"""The wire: frames and values, used by both sides; sans-IO, so nothing here reads or writes a descriptor.

A frame is a 4-byte big-endian length and one msgpack array whose first item is the kind of message (`messages`).
What crosses is plain data: None, bool, int of 64 bits, float, str, bytes, list, dict with str keys; a tuple arrives
as a list. Everything is bounded before it is built: the length before a byte of the body is read, depth and the number
of items before the first object is made.

A large bytes value crosses by two copies, into the pipe and out of it: the sender writes it from where it is
(`LongFrame`), the receiver reads it to where it stays (`LongBody`). In the stream it is msgpack as any other.

msgpack's C extension is loaded without its package, for a faster start (`_msgpack` has the figures).
"""

from __future__ import annotations

from _io import BytesIO

from sandbox_worker._msgpack import LARGE, MAX_DEPTH, MAX_ITEMS, Packer, Walk, unpackb
from sandbox_worker.errors import Unsendable, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeAlias

    Body: TypeAlias = "bytes | LongBody"

VERSION: Final = 2
HEADER: Final = 4
SENDABLE_ITEMS: Final = MAX_ITEMS - 256
"""Items in a value, or in all arguments of a call: the rest is for the message around it."""
CONTROL_LIMIT: Final = 1 << 20
"""Longest frame, in bytes, of everything but calls and results."""
ENVELOPE: Final = 4096
"""What a result frame may be longer than its value, in bytes."""
APART: Final = 1 << 40
"""What `check` adds to its count for each large value."""

_LONG: Final = 1 << 16  # a longer body is looked through while it comes
_AHEAD: Final = 64
_LEAD: Final = (1 << 16) - 48  # 48: where bytes begin in their first page (malloc's 16, the object's 32)
_SMALL: Final = 1 << 14  # so few bytes can't claim an amount of objects that matters
SCALARS: Final = frozenset((type(None), bool, int, float, str, bytes))
FLAT: Final = SCALARS - {bytes}  # never Apart; what of it can't cross an Encoder refuses, too, in fewer words
_STR: Final = frozenset((str,))
# Bytes that can't open an array or a map (msgpack spec: fixmap 80-8f, fixarray 90-9f, dc-df)
_NOT_OPENERS: Final = bytes({*range(256)} - {*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF})


class Encoder:
    """Makes frames. One per connection: msgpack's Packer keeps a buffer and is not for two threads at once."""

    __slots__ = ("_pack",)

    def __init__(self) -> None:
        self._pack = Packer(strict_types=True, default=_plain).pack

    def encode(self, message: list[object]) -> Any:
        """One frame, as bytes; a LongFrame if anything in it is Apart. What is foreign in it must have passed `check`.

        Raises Unsendable for an int beyond 64 bits, text that is no UTF-8, or a type that is not plain.
        """
        try:
            body: bytes = self._pack(message)
        except _HoldsLarge:
            return LongFrame(message)
        except (OverflowError, UnicodeEncodeError, TypeError, ValueError) as e:
            raise Unsendable("", f"{type(e).__name__}: {e}"[:200]) from e
        return len(body).to_bytes(4, "big") + body


class Apart:
    """A value with large ones in it, or one itself."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class _HoldsLarge(Exception):
    """Packing came to what is Apart."""


class LongFrame:
    """A frame in `pieces`, to be written one after the other; `len()` is that of the frame.

    What comes before a large value takes the value's beginning with it. So pages of the pipe begin where pages of the
    value do, on both sides: between addresses that lie differently in their pages a copy takes longer.
    """

    __slots__ = ("_length", "pieces")

    def __init__(self, message: list[object]) -> None:
        """Raises Unsendable as `Encoder.encode`."""
        packer = Packer(strict_types=True, default=_plain, autoreset=False)
        found: list[Any] = [b""]
        try:
            _put(message, packer, found)
            found[-1] += packer.bytes()
            length = sum(map(len, found))
            found[0] = length.to_bytes(4, "big") + found[0]
        except (OverflowError, UnicodeEncodeError, TypeError, ValueError) as e:
            raise Unsendable("", f"{type(e).__name__}: {e}"[:200]) from e
        self._length = HEADER + length
        self.pieces = [memoryview(piece) for piece in found]

    def __len__(self) -> int:
        return self._length

    def __radd__(self, before: bytes) -> LongFrame:
        """This frame behind another, to be written at once."""
        self.pieces[0], self._length = memoryview(before + self.pieces[0]), len(before) + self._length
        return self


def _put(value: Any, packer: Any, found: list[Any]) -> None:
    """Pack `value`, but for the large ones in it."""
    kind = type(value)
    if kind is Apart:
        _put(value.value, packer, found)
    elif kind is bytes and len(value) >= LARGE:
        found[-1] += b"".join((packer.bytes(), b"\xc6", len(value).to_bytes(4, "big"), value[:_LEAD]))
        found += memoryview(value)[_LEAD:], b""
        packer.reset()
    elif kind is dict:
        packer.pack_map_header(len(value))
        for key, item in value.items():
            packer.pack(key)
            _put(item, packer, found)
    elif kind is list or kind is tuple:
        packer.pack_array_header(len(value))
        for item in value:
            _put(item, packer, found)
    else:
        packer.pack(value)


def apart(items: int, value: object) -> tuple[int, object]:
    """For a count beyond SENDABLE_ITEMS: what it is without large values' APART, and `value` as it is to be sent.

    Raises Unsendable where it is too many all the same.
    """
    if items % APART > SENDABLE_ITEMS:
        raise Unsendable("", f"{type(value).__name__}, with which the arguments are too many items")
    return items % APART, Apart(value)


def check(value: Any, where: str = "", depth: int = 3) -> int:  # noqa: C901, PLR0912 - each value would pay for a call
    """How many items `value` is on the wire, and APART for each that is large: it must be sent as Apart then.

    Raises Unsendable, with the path and the type, unless it is plain data. `depth` is where it will stand in its frame.
    """
    kind = type(value)
    if kind in SCALARS:
        if kind is str:
            if not value.isascii():
                _check_text(value, where)
        elif kind is int:
            if not -(1 << 63) <= value < 1 << 64:
                raise Unsendable(where, "int beyond 64 bits")
        elif kind is bytes and len(value) >= LARGE:
            return 1 + APART
        return 1
    if depth >= MAX_DEPTH:
        raise Unsendable(where, f"{kind.__name__} nested deeper than {MAX_DEPTH}")
    if kind is dict:
        count = 1 + len(value)
        for key, item in value.items():
            if type(key) is not str:
                raise Unsendable(where, f"dict with a key of type {type(key).__name__}")
            if not key.isascii():
                _check_text(key, where)
            count += check(item, f"{where}[{key[:40]!r}]", depth + 1)
    elif kind is list or kind is tuple:
        if SCALARS.issuperset(map(type, value)) and _cheap(value):
            count = 1 + len(value)
        else:
            count = 1 + sum(check(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value))
    else:
        raise Unsendable(where, f"{kind.__module__}.{kind.__qualname__}"[:200])
    if count > SENDABLE_ITEMS and count % APART > SENDABLE_ITEMS:
        raise Unsendable(where, f"{kind.__name__} of more than {SENDABLE_ITEMS} items in all")
    return count


def _cheap(items: list[object]) -> bool:
    """True for floats and short bytes, sendable whatever their value: a look at every number would be slow."""
    kinds = set(map(type, items))
    large = bytes in kinds and max(len(item) for item in items if type(item) is bytes) >= LARGE
    return not large and frozenset((float, bytes, bool, type(None))).issuperset(kinds)


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unsendable(where, "str that is no valid Unicode text (lone surrogates)") from None


def _plain(value: object) -> object:
    if type(value) is tuple:
        return list(value)
    if type(value) is Apart:
        raise _HoldsLarge
    raise TypeError(type(value).__qualname__)


def _no_extension(_code: int, _data: bytes) -> object:
    raise ValueError("extension types do not cross")


def decode(body: Body | bytearray, trusted: bool = False, extension: Callable[..., object] = _no_extension) -> object:
    """The value of one frame's body. Raises WireError for anything but exactly one bounded, plain msgpack value.

    A short body is looked at once it is read: msgpack itself goes no deeper than 1024. What the host sends is trusted:
    its `check` has seen to bounds and to keys, which are text and might be bytes; a look at each map costs much.
    """
    long = len(body) > _SMALL
    if type(body) is LongBody:
        body, extension = body.taken()
    elif long and not trusted:
        Walk(len(body)).go(body)
    try:
        keys = None if trusted else _with_text_keys
        value: object = unpackb(body, strict_map_key=True, object_hook=keys, ext_hook=extension, max_ext_len=0)
    except (ValueError, TypeError) as e:
        raise WireError(f"not one plain msgpack value ({type(e).__name__})") from None
    flat = trusted or (type(value) is list and SCALARS.issuperset(map(type, value)))
    if not (long or flat) and len(body.translate(None, _NOT_OPENERS)) > MAX_DEPTH:  # type: ignore[union-attr]
        Walk(len(body)).go(body)
    return value


def _with_text_keys(value: dict[object, object]) -> dict[object, object]:
    if not _STR.issuperset(map(type, value)):
        raise ValueError("a key that is no text")
    return value


class LongBody:
    """The body of a long frame while it comes, and then: large values in objects of their own, all else aside.

    `left` is how many bytes are to come. A large value has `ahead` times the memory of what came of it, or _LONG bytes:
    a claim alone costs nothing.
    """

    __slots__ = (*"_ahead _filled _holes _length _plain _room _size _space _value _values _walk".split(), "left")

    def __init__(self, length: int, ahead: int) -> None:
        self._length = self.left = length
        self._ahead, self._walk = ahead, Walk(length)
        self._plain = bytearray()  # with nil in the place of each large value
        self._holes: list[int] = []  # where these are
        self._values: list[bytes] = []
        self._size = self._filled = 0  # of the value that is coming: its bytes, and how many are here
        self._value: BytesIO | None = None
        self._room = self._space = memoryview(b"")

    def __len__(self) -> int:
        return self._length

    def space(self) -> memoryview | None:
        """Where the next bytes go to if they are a large value's; `filled` takes how many were put there."""
        if self._value is None:
            return None
        if self._filled == len(self._room):
            self._make_room(self._filled)
        self._space = self._room[self._filled :]
        return self._space

    def _make_room(self, came: int) -> None:
        bigger = BytesIO(bytes(min(self._size, max(_LONG, self._ahead * came))))
        room = bigger.getbuffer()
        room[: self._filled] = self._room[: self._filled]
        self._room.release()
        self._value, self._room = bigger, room

    def filled(self, count: int) -> None:
        """Note that `count` bytes came into the space."""
        self._filled += count
        self.left -= count
        self._space.release()  # whose copy the caller may keep; while there is a view, getvalue() makes a copy
        if self._value is not None and self._filled == self._size:
            self._room.release()
            self._values.append(self._value.getvalue())
            self._value, self._room = None, memoryview(b"")

    def add(self, data: memoryview) -> None:
        """Take the next bytes. Raises WireError."""
        while data:
            space = self.space()
            if space is not None:
                count = min(len(space), len(data))
                space[:count] = data[:count]
                self.filled(count)
                data = data[count:]
                continue
            plain, walk = self._plain, self._walk
            plain += data
            self.left -= len(data)
            self._size = walk.go(plain, large=True)
            if not self._size:
                return
            data = memoryview(plain[walk.at + 5 :])
            self.left += len(data)
            self._holes.append(walk.at)
            plain[walk.at :] = b"\xc0"
            walk.end -= self._size + 4
            self._filled = 0
            self._make_room(len(data))

    def taken(self) -> tuple[bytearray, Callable[[int, bytes], object]]:
        """The body with empty extensions where large values were, and what gives these in turn. Raises WireError."""
        self._walk.go(self._plain)
        plain, values = self._plain, iter(self._values)
        for hole in reversed(self._holes):
            plain[hole : hole + 1] = b"\xc7\0\0"
        return plain, lambda _code, _data: next(values)


class FrameReader:
    """Cuts a byte stream into frame bodies; `limit` is the longest body in bytes, checked as soon as it is claimed.

    `buffered` is what came behind the last whole frame, for its readers to ask whether there is any; of a long frame it
    is the header. One that is `trusted` has a large value's memory at once.
    """

    __slots__ = ("_ahead", "_long", "buffered", "limit")

    def __init__(self, limit: int, trusted: bool = False) -> None:
        self.limit = limit
        self.buffered = bytearray()
        self._long: LongBody | None = None
        self._ahead = 1 << 32 if trusted else _AHEAD

    def feed(self, data: bytes) -> Body | None:
        """Add what was read; the next body once it is whole. Raises WireError for a length beyond the limit."""
        if not self.buffered and len(data) >= HEADER:
            length = int.from_bytes(data[:HEADER], "big")
            if length == len(data) - HEADER and length <= self.limit:
                return data[HEADER:]
        if self._long is None:
            self.buffered += data
            return self.next()
        left = self._long.left
        self._long.add(memoryview(data)[:left])
        return self._ended(data[left:])

    def next(self) -> Body | None:
        """The next body that is already whole, if any."""
        length = self._length()
        if length is None or self._long is not None:
            return None
        if len(self.buffered) < HEADER + length:
            if length > _LONG:
                came = self.buffered[HEADER:]
                del self.buffered[HEADER:]
                self._long = LongBody(length, self._ahead)
                self._long.add(memoryview(came))
            return None
        with memoryview(self.buffered) as whole:
            body = bytes(whole[HEADER : HEADER + length])  # a slice of the bytearray would be one more copy
        del self.buffered[: HEADER + length]
        return body

    def space(self) -> memoryview | None:
        """Where to read to what comes next, and then say so to `filled`; None where it is to be fed."""
        return None if self._long is None else self._long.space()

    def filled(self, count: int) -> Body | None:
        """The next body once it is whole, when `count` bytes came into the space."""
        if self._long is None:
            return None
        self._long.filled(count)
        return self._ended(b"")

    def _ended(self, behind: bytes) -> LongBody | None:
        body = self._long
        if body is None or body.left:
            return None
        self._long = None
        self.buffered[:] = behind
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
        if self._long is not None:
            return self._long.left
        return max(0, HEADER + (self._length() or 0) - len(self.buffered)) if self.buffered else 0
