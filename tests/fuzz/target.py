"""Reads bytes from a worker as the host does, and says what must never happen.

A frame is refused (WireError) or becomes a message; a message is refused by a parser (WireError) or becomes a record.
Anything else is a finding: another exception, a value that is not plain, a record beyond its bounds.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from sandbox_worker import _msgpack, messages, wire
from sandbox_worker.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REFUSED: Final = "refused"
LIMIT: Final = 1 << 16
"""Bytes in a frame: small, so that the length's own check is met often."""

PARSERS: Final[tuple[Callable[[Any], object], ...]] = (
    messages.kind_of,
    messages.Ready,
    messages.hooks_of,
    messages.failure_of,
    messages.pong_of,
    lambda message: messages.reply_to(1, message),
)
_PLAIN: Final = frozenset((type(None), bool, int, float, str, bytes))


class Finding(Exception):
    """What must never happen, with the bytes that did it."""


class Tally:
    """How many frames came, and what became of them."""

    __slots__ = ("frames", "records", "refused_frames", "refused_streams")

    def __init__(self) -> None:
        self.frames = self.records = self.refused_frames = self.refused_streams = 0

    def __str__(self) -> str:
        return (
            f"{self.frames:,} frames: {self.refused_frames:,} refused by the wire, {self.records:,} records made; "
            f"{self.refused_streams:,} streams ended by a length"
        )


def read_stream(data: bytes, tally: Tally, cut: int = 0) -> None:
    """Read `data` as one connection, in two pieces when `cut` lies in it. Raises Finding.

    A frame that is cut is taken for a long one; up to the first refusal it must mean what it means in one piece.
    """
    whole: list[str] = []
    cut_up: list[str] = []
    _read(data, Tally(), 0, whole)
    with _low_thresholds():
        _read(data, tally, cut, cut_up)
    for one, other in zip(whole, cut_up, strict=False):  # what is not whole may be refused or not
        if one != other:
            raise Finding(f"a stream that means another thing in two pieces, cut at {cut}: {data!r}")
        if one == REFUSED:
            return


@contextlib.contextmanager
def _low_thresholds() -> Iterator[None]:
    before = wire._LONG, wire._SMALL, _msgpack.LARGE
    wire._LONG, wire._SMALL, _msgpack.LARGE = 8, 8, 12  # type: ignore[misc]
    try:
        yield
    finally:
        wire._LONG, wire._SMALL, _msgpack.LARGE = before  # type: ignore[misc]


def _read(data: bytes, tally: Tally, cut: int, outcomes: list[str]) -> None:
    reader = wire.FrameReader(LIMIT)
    try:
        for piece in (data[:cut], data[cut:]):
            body = reader.feed(piece)
            while body is not None:
                outcomes.append(read_frame(body, tally))
                body = reader.next() if reader.buffered else None
    except WireError:
        outcomes.append(REFUSED)
        tally.refused_streams += 1
    except Finding:
        raise
    except Exception as e:
        raise Finding(f"a stream: {type(e).__name__}: {data!r}") from e


def read_frame(body: wire.Body, tally: Tally) -> str:
    """Read one body, by every parser: which of them is asked depends on the state, which is the host's.

    Returns the repr of what it holds, or REFUSED.
    """
    tally.frames += 1
    try:
        message = wire.decode(body)
    except WireError:
        tally.refused_frames += 1
        return REFUSED
    if not is_plain(message, len(body)):
        raise Finding(f"a value that is not plain: {body!r}")
    for parse in PARSERS:
        try:
            parse(message)
        except WireError:
            continue
        tally.records += 1
    return repr(message)


def is_plain(value: object, items: int) -> bool:
    """Whether a value is made of what may cross, and of no more items than bytes that it came in."""
    todo, seen = [(value, 1)], 0
    while todo:
        item, depth = todo.pop()
        seen += 1
        if seen > items or depth > wire.MAX_DEPTH + 1:
            return False
        kind = type(item)
        if kind is list:
            todo.extend((inner, depth + 1) for inner in item)  # type: ignore[attr-defined]
        elif kind is dict:
            if any(type(key) is not str for key in item):  # type: ignore[attr-defined]
                return False
            todo.extend((inner, depth + 1) for inner in item.values())  # type: ignore[attr-defined]
        elif kind not in _PLAIN:
            return False
    return True


def read_events(data: bytes) -> None:
    """Read `data` as what came over an event pipe. Raises Finding."""
    found, rest = messages.events_of(data)
    if len(found) > messages.EVENTS_LIMIT or len(rest) > len(data):
        raise Finding(f"events beyond their bounds: {data!r}")
    if any(len(target) > 4 * messages.LOG_LIMIT for _, target, _ in found):
        raise Finding(f"a target beyond its bounds: {data!r}")
