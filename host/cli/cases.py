"""Rows of the permission corpus, judged as they come: JSON Lines in, JSON Lines out."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any, Final

from sandbox_worker.permissions import verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE_MAX: Final = 1 << 20
"""Bytes of one row."""


def judged(stream: IO[bytes]) -> Iterator[str]:
    """One line of JSON for each row of `stream`; blank lines are none.

    A row is ``{"id", "kind", "allow": […], "deny": […], "request"}``, its line ``{"id", "verdict", "rule"}``. A row
    that is none, or can't be judged, has the verdict ``error`` and a key ``error`` that says why.
    """
    for line in _lines(stream):
        if len(line) > LINE_MAX or line.strip():
            yield json.dumps(_answer(line))


def _answer(line: bytes) -> dict[str, Any]:
    if len(line) > LINE_MAX:
        return _error(None, f"a row of more than {LINE_MAX} bytes")
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return _error(None, f"no JSON: {error}"[:200])
    if not isinstance(row, dict):
        return _error(None, "no JSON object")
    row_id = row.get("id") if isinstance(row.get("id"), str | int | float) else None
    found, rule = verdict(row.get("kind"), row.get("allow"), row.get("deny"), row.get("request"))
    if found == "error":
        return _error(row_id, str(rule))
    return {"id": row_id, "verdict": found, "rule": rule}


def _error(row_id: object, why: str) -> dict[str, Any]:
    return {"id": row_id, "verdict": "error", "rule": None, "error": why}


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of `stream`; of one that is too long only its beginning, which shows that it is."""
    while line := stream.readline(LINE_MAX + 1):
        rest = line
        while len(rest) > LINE_MAX and not rest.endswith(b"\n"):
            rest = stream.readline(LINE_MAX + 1)
        yield line


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")  # RFC 8259, section 6


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is beyond a number of 64 bits")
    return number
