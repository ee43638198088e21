"""A plugin's `logging` records on their way to the host: over the event pipe, as claims, and lossy under a flood.

Nothing is imported for it: the handler is put into `logging` when the plugin loads it.
"""

from __future__ import annotations

import posix
import time

from sandbox_worker import errors
from sandbox_worker.messages import LOG, LOG_LIMIT, event_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any, Final

MOST: Final = 500
"""Records a second; what is beyond is counted. Denials go over the same pipe, and a full one would lose them."""


def attach(module: Any, events: int) -> None:
    """Send what `module`, which is `logging`, is told from INFO on to the descriptor `events`."""
    root: logging.Logger = module.getLogger()
    root.addHandler(_handler(module, events))
    root.setLevel(module.INFO)


def _handler(module: Any, events: int) -> logging.Handler:
    formatter: logging.Formatter = module.Formatter()

    class Handler(module.Handler):  # type: ignore[misc]  # logging is not imported here
        """Sends each record to the host."""

        def __init__(self) -> None:
            super().__init__()
            self._second = 0
            self._sent = 0
            self._lost = 0

        def emit(self, record: logging.LogRecord) -> None:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._sent = second, 0
            self._sent += 1
            if self._sent > MOST:
                self._lost += 1
                return
            try:
                text = formatter.format(record)
                if self._lost:
                    text = f"[{self._lost} records before this one are lost] {text}"
                posix.write(events, event_record(f"{LOG}{record.levelno} {record.name}", text, False, LOG_LIMIT))
            except BlockingIOError:
                self._lost += 1
            except Exception:  # noqa: BLE001 - a record that can't be formatted is the plugin's affair
                self.handleError(record)
            else:
                self._lost = 0
                errors.raised += 1  # tells the host that something waits on the event pipe

    made: logging.Handler = Handler()
    return made
