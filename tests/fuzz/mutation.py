"""Spoils good frames: bit flips, cuts, copies, wrong lengths, swapped tags. Seeded, so that a finding comes again."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TAGS: Final = bytes((*range(0x80, 0xA0, 3), *range(0xC0, 0xE0)))  # of arrays, maps, lengths, extensions
_EDGES: Final = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00")


def streams(seeds: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Streams of 1 to 6 frames without end, most of them spoiled. Mostly the header is made true again afterwards."""
    draw = random.Random(seed)
    while True:
        yield b"".join(_frame(draw, seeds) for _ in range(1 + int(draw.random() * 6)))


def _frame(draw: random.Random, seeds: Sequence[bytes]) -> bytes:
    frame = seeds[int(draw.random() * len(seeds))]
    how = draw.random()
    if how < 0.05:
        return frame
    body = frame[4:]
    for _ in range(1 + int(draw.random() * 3)):
        body = _spoiled(draw, body, seeds)
    if how < 0.1:
        return frame[:4] + body
    return len(body).to_bytes(4, "big") + body


def _spoiled(draw: random.Random, body: bytes, seeds: Sequence[bytes]) -> bytes:
    at, how = int(draw.random() * (len(body) + 1)), int(draw.random() * 7)
    if how == 0 and body:
        at = min(at, len(body) - 1)
        return body[:at] + bytes((body[at] ^ 1 << int(draw.random() * 8),)) + body[at + 1 :]
    if how == 1:
        return body[:at] + bytes((_TAGS[int(draw.random() * len(_TAGS))],)) + body[at + 1 :]
    if how == 2:
        return body[:at] + _EDGES[int(draw.random() * len(_EDGES))] + body[at + 1 :]
    if how == 3:
        return body[:at]
    if how == 4:
        other = seeds[int(draw.random() * len(seeds))]
        return body[:at] + other[4:]
    if how == 5:
        return body[:at] + draw.randbytes(1 + int(draw.random() * 4)) + body[at:]
    return body[:at] + body[at : at + 8] * 2 + body[at + 8 :]
