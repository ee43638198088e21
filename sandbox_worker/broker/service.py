"""The threads of one worker's broker: one waits for its calls, and hands the waiting on before it does what takes long.

So an answer costs no change of threads, and no call waits for another one's connection or name. There are at most
`THREADS_MAX` per worker, so that one plugin that connects to nowhere holds up itself alone.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from sandbox_worker.broker.calls import Calls
from sandbox_worker.broker.handed import Handed
from sandbox_worker.broker.notify import Listener, Notified, Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from sandbox_worker.broker.names import Names
    from sandbox_worker.broker.policy import Policy
    from sandbox_worker.broker.sockets import Way

THREADS_MAX: Final = 8
HANDOVER_TIMEOUT: Final = 20.0
"""Seconds within which a worker that was announced sends its listener, or never does."""


class Service:
    """Serves one worker from `start` to its end. Owns `channel` and `events`.

    By the channel the worker's listener comes or, where `handed`, each of its calls.
    """

    def __init__(self, channel: int, events: int, policy: Policy, names: Names, *, replace: bool, handed: bool) -> None:
        self._channel = socket.socket(fileno=channel)
        self._events = events
        self._policy = policy
        self._names = names
        self._replace = replace
        self._handed = handed
        self._turn = threading.Lock()
        self._count = threading.Lock()
        self._waiting = 0
        self._threads = 0
        self._ended = False

    def start(self) -> None:
        """Begin, on a thread of its own."""
        self._add(self._begin)

    def _add(self, target: Callable[[], None]) -> None:
        with self._count:
            self._threads += 1
        threading.Thread(target=target, daemon=True).start()

    def _begin(self) -> None:
        try:
            way = Handed(self._channel) if self._handed else self._take_listener()
        except OSError:  # it is dead already
            os.close(self._events)
            return
        self._way: Way = way
        self._calls = Calls(way, self._policy, self._names, self._events, replace=self._replace)
        self._serve()

    def _take_listener(self) -> Notified:
        with self._channel:
            self._channel.settimeout(HANDOVER_TIMEOUT)
            message, descriptors, _, _ = socket.recv_fds(self._channel, 4, 1, socket.MSG_CMSG_CLOEXEC)
        if len(message) != 4 or len(descriptors) != 1:
            raise OSError("the worker ended before its lockdown did")
        listener = Listener(descriptors[0])
        try:
            return Notified(listener, Process(int.from_bytes(message, "big")))
        except BaseException:
            listener.close()
            raise

    def _serve(self) -> None:
        try:
            while (slow := self._lead()) is not None:
                slow()
        except BaseException:  # noqa: BLE001 - without an answer its calls wait for ever: the end of the listener ends them
            sys.excepthook(*sys.exc_info())
            self._ended = True
        with self._count:
            self._threads -= 1
            last = not self._threads
        if last:
            self._way.close()
            os.close(self._events)

    def _lead(self) -> Callable[[], None] | None:
        """Answer calls until one takes long; None when the worker is gone."""
        with self._count:
            self._waiting += 1
        with self._turn:
            with self._count:
                self._waiting -= 1
            while not self._ended:
                call = self._way.receive()
                if call is None:
                    self._ended = True
                    self._calls.close()
                elif (slow := self._calls.act(call)) is not None:
                    with self._count:
                        follow = not self._waiting and self._threads < THREADS_MAX
                    if follow:
                        self._add(self._serve)
                    return slow
            return None
