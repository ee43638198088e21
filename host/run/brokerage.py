"""One worker's way to the broker, which most workers never go.

The worker's lockdown leaves the listener of its filter in a socket. Where the first question comes with the first
import, as of the network, the other end is the broker's from the start. Where it may never come, as of files' metadata,
the host keeps it and its watcher looks when something is asked: only then is there a need for a broker.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from host.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from host.run.broker import Broker


class Brokerage:
    """Thread-safe. `find` gives the broker, started if need be; `policy`, `replace` and `handed` are as `Broker.serve`
    has them.

    `refusals` is the pipe with what the broker refused, `awaited` a descriptor that is ready when `attend` has
    something to do; -1 while there is none.
    """

    def __init__(
        self,
        find: Callable[[], Broker],
        policy: dict[str, Any],
        *,
        replace: bool,
        at_once: bool,
        handed: bool = False,
    ) -> None:
        self._find = find
        self._policy = policy
        self._replace = replace
        self._handed = handed
        self._at_once = at_once
        self._lock = threading.RLock()
        self._broker: Broker | None = None
        self._number = 0
        self._pid = b""
        self.refusals = self.awaited = -1

    def announce(self) -> int:
        """The descriptor for the worker's lockdown, which the caller closes. Raises OSError, HostError."""
        if self._at_once:
            return self._serve()
        ours, theirs = socket.socketpair()
        self.awaited = ours.detach()
        return theirs.detach()

    @property
    def reader(self) -> int:
        """The process that will read the worker's memory, or its ancestor."""
        return self._broker.pid if self._broker is not None else os.getpid()

    def attend(self) -> None:
        """Take the listener that has come; bring it to the broker when the worker asks something. Raises OSError,
        HostError."""
        with self._lock:
            if not self._pid:
                self._take_listener()
                return
            listener, self.awaited = self.awaited, -1
            try:
                if not _asks(listener):  # the worker has ended, of which the listener tells in the same way
                    return
                channel = self._serve()
                with socket.socket(fileno=channel) as connection:
                    socket.send_fds(connection, [self._pid], [listener])
            finally:
                os.close(listener)

    def narrow(self, policy: dict[str, Any]) -> None:
        """Have the worker judged by `policy` from now on; with the broker gone, nothing is allowed anyway."""
        with self._lock:
            self._policy = policy
            if self._broker is not None:
                with contextlib.suppress(HostError):
                    self._broker.narrow(self._number, policy)

    @property
    def connected(self) -> bool:
        """False when the broker that serves the worker is gone."""
        return self._broker is None or self._broker.alive

    def descriptors(self) -> set[int]:
        """What is open here, for the caller to close: nothing is known of it any more."""
        held = {self.refusals, self.awaited} - {-1}
        self.refusals = self.awaited = -1
        return held

    def _serve(self) -> int:
        self._broker = broker = self._find()
        self._number, channel, self.refusals = broker.serve(self._policy, replace=self._replace, handed=self._handed)
        return channel

    def _take_listener(self) -> None:
        with socket.socket(fileno=self.awaited) as connection:
            self.awaited = -1
            self._pid, descriptors, _, _ = socket.recv_fds(connection, 4, 1, socket.MSG_CMSG_CLOEXEC)
        if descriptors:
            self.awaited = descriptors[0]


def _asks(listener: int) -> bool:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))
