"""Frames as a worker could forge them."""

from __future__ import annotations

import msgpack


def frame(*message: object) -> bytes:
    """One whole frame of any message."""
    body: bytes = msgpack.packb(list(message))
    return len(body).to_bytes(4, "big") + body


def sized(length: int, body: bytes = b"") -> bytes:
    """A header that claims `length`, and what follows it."""
    return length.to_bytes(4, "big") + body
