"""What one worker prints: its stdout and stderr, cut into bounded lines."""

from __future__ import annotations

import os
from typing import Final

from host.model.sanitise import visible

_CHUNK: Final = 1 << 16
_READS: Final = 4
"""Chunks that are taken in at once: what prints more than that in a tick of the watcher waits for it."""
_LINES: Final = 1000
_LINE: Final = 2000
_TAIL_LINES: Final = 50
_TAIL: Final = 4000


class Output:
    """The last lines of a worker, from the host's end of its output pipe. Its owner holds a lock around `drain`."""

    __slots__ = ("_partial", "lines")

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._partial = b""

    def drain(self, descriptor: int) -> None:
        """Take in what it printed by now. Raises OSError where there is nothing (the pipe does not block)."""
        for _ in range(_READS):
            data = os.read(descriptor, _CHUNK)
            *lines, self._partial = (self._partial + data).split(b"\n")
            if len(self._partial) > _LINE:
                lines, self._partial = [*lines, self._partial], b""
            self.add(*(line[:_LINE].decode("utf-8", "backslashreplace") for line in lines))
            if len(data) < _CHUNK:
                break

    def add(self, *lines: str) -> None:
        """Keep lines, and as many of the older ones as there is room for."""
        self.lines += lines
        del self.lines[:-_LINES]

    def tail(self) -> str:
        """The last lines, made visible."""
        lines = [*self.lines[-_TAIL_LINES:], self._partial.decode("utf-8", "backslashreplace")]
        return visible("\n".join(lines)[-_TAIL:].strip("\n"), 10 * _TAIL, multiline=True)[-_TAIL:]
