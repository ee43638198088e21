"""Waiting for the end of a process by its handle (pidfd_open(2)), which never names another process."""

from __future__ import annotations

import select


def ended(pidfd: int, seconds: float = 0.0) -> bool:
    """Whether the process has ended, within `seconds`. With poll(2): select(2) takes no descriptor above 1023."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(1000 * seconds))
