"""A plugin's logging records in the application: claims, made visible, bounded, and handed on with no lock held."""

from __future__ import annotations

import collections
import logging
import time
from typing import Final

from host.model.sanitise import visible
from sandbox_worker.messages import LOG_LIMIT

LOGGER: Final = "host.plugin."
"""With the plugin's name behind it: the logger that its records come from."""

_WAITING: Final = 1000
_RATE: Final = 500
"""Records a second, and as many at once."""
_NAME: Final = 100
_log: Final = logging.getLogger("host")


class Records:
    """The records of one plugin on their way to `logging`. `add` from any thread, `hand_on` with no lock held."""

    __slots__ = ("_allowed", "_dropped", "_logger", "_seen", "waiting")

    def __init__(self, plugin: str) -> None:
        self._logger = logging.getLogger(LOGGER + plugin)
        self.waiting: collections.deque[logging.LogRecord] = collections.deque()
        self._allowed, self._seen, self._dropped = float(_RATE), time.monotonic(), 0

    def add(self, claim: str, text: str) -> str:
        """One record, `claim` being level and logger; the line that says it, or "" where there are too many."""
        now = time.monotonic()
        self._allowed = min(_RATE, self._allowed + (now - self._seen) * _RATE) - 1
        self._seen = now
        if self._allowed < 0:
            self._allowed, self._dropped = 0.0, self._dropped + 1
            return ""
        if self._dropped:
            self._keep(logging.WARNING, self._logger.name, f"{self._dropped} records of this plugin were dropped")
            self._dropped = 0
        digits, _, name = claim.partition(" ")
        level = min(int(digits), logging.CRITICAL) if digits.isascii() and digits.isdigit() else logging.INFO
        name, message = visible(name, _NAME), visible(text, LOG_LIMIT, multiline=True)
        self._keep(level, name, message)
        return f"{logging.getLevelName(level)} {name}: {message}"

    def _keep(self, level: int, name: str, message: str) -> None:
        if len(self.waiting) >= _WAITING:
            self._dropped += 1
        elif self._logger.isEnabledFor(level):
            record = logging.LogRecord(self._logger.name, level, "", 0, message, (), None)
            record.plugin_logger = name
            self.waiting.append(record)

    def hand_on(self) -> None:
        """Give what waits to the application's handlers. What they raise is logged."""
        while self.waiting:
            try:
                self._logger.handle(self.waiting.popleft())
            except IndexError:  # another thread took it
                return
            except Exception:  # noqa: BLE001 - its own affair: the plugins go on
                _log.exception("a handler or filter raised for a record of %s", self._logger.name)
