"""The audit log: one JSON line per event, appended; never a value, an argument or a file's content."""

from __future__ import annotations

import errno
import json
import os
import threading
from typing import TYPE_CHECKING, ClassVar

from host.errors import HostError

if TYPE_CHECKING:
    from host.model.events import Event


class AuditLogBroken(HostError):
    """The audit log can't be written any more; an audit is never optional."""

    status: ClassVar[int] = 10


class AuditLog:
    """Appends to `path`, created with mode 0600. Raises OSError when it can't be opened: an audit is never optional."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, event: Event) -> None:
        """Append one event as one write, so that lines of several processes never mix. Raises OSError."""
        line = (json.dumps(event.line(), ensure_ascii=True, separators=(",", ":")) + "\n").encode("ascii")
        with self._lock:
            if self._fd >= 0 and os.write(self._fd, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file; what comes later is dropped."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def abandon(self) -> None:
        """In a forked child: close, whatever another thread of the parent held."""
        self._lock = threading.Lock()
        self.close()
