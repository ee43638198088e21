"""The audit hook as a worker builds it, called as CPython calls it, without installing it: that can't be undone."""

from __future__ import annotations

import os
from typing import Final

from sandbox_worker import audit_hook, messages, permissions
from sandbox_worker.errors import ImportDenied

OWN_PID: Final = 4242


def table(allow: list[str], deny: list[str]) -> tuple[tuple[str, ...], ...]:
    """(allow, special, deny) prefixes as a worker gets them."""
    allowed, special = permissions.path_prefixes(permissions.parse_rule("fs.read", text) for text in allow)
    denied = permissions.path_prefixes(permissions.parse_rule("fs.read", text) for text in deny)
    return allowed, special, denied[0] + denied[1]


class Built:
    """A hook, and the pipe that it reports to."""

    def __init__(
        self,
        read: list[str] | None = None,
        write: list[str] | None = None,
        deny: list[str] | None = None,
        *,
        kernel: bool = True,
        network: tuple[object, ...] = (),
    ) -> None:
        self.reports, self.pipe = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(self.reports, False)
        rules = {
            "read": table(read or [], deny or []),
            "write": table(write or [], deny or []),
            "libraries": ("/usr/lib/python3/", "/opt/lib/"),
            "network": network,
        }
        self.hook = audit_hook.build(rules, kernel=kernel, event_fd=self.pipe, pid=OWN_PID)

    def refuses(self, event: str, *arguments: object) -> bool:
        """Whether the hook raises for this event."""
        try:
            self.hook(event, arguments)
        except (OSError, ImportDenied):
            return True
        return False

    def reported(self) -> list[tuple[str, str, bool]]:
        """What came over the pipe."""
        try:
            return messages.events_of(os.read(self.reports, 1 << 16))[0]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.reports)
        os.close(self.pipe)
