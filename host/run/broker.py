"""The host's side of the broker: the one process that does for workers with a grant what no filter can judge, on the
network and with the metadata and locks of files.

It is a child of the host, exec'd when the first such worker starts (`sandbox_worker.broker.server`), and nobody waits
for that: what is sent to it and asked of it waits in its sockets until it serves. It decides with the rules of
everything else, on its own copy of what a worker asks for.
"""

from __future__ import annotations

import functools
import itertools
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from host.run.helper import Helper, HelperGone

if TYPE_CHECKING:
    from host.run.interpreter import Interpreter


class BrokerGone(HelperGone):
    """The broker died or stopped answering. What its workers ask of it fails; each is replaced at its next call, by one
    that a new broker serves."""


class Broker(Helper):
    """One broker process. Thread-safe; `close` is idempotent."""

    name = "broker"
    gone = BrokerGone

    def __init__(self, interpreter: Interpreter) -> None:
        super().__init__(interpreter, "sandbox_worker.broker.server")
        self._numbers: Final = itertools.count(1)

    @functools.cached_property
    def abilities(self) -> tuple[str, tuple[str, ...]]:
        """How it gets at a worker's socket, "pidfd_getfd", "addfd", or "handed" where Python code has to hand each call
        over; and what keeps it from a better way. Waits until that is found. Raises HostError."""
        _, found = self._ask("abilities", ["abilities"])
        return found["variant"], tuple(found["missing"])

    def serve(self, policy: dict[str, Any], *, replace: bool = False, handed: bool = False) -> tuple[int, int, int]:
        """Announce one worker; gives (its number, the descriptor for its lockdown, the pipe with what it is refused).

        The caller closes both descriptors. `policy` is as `sandbox_worker.broker.policy.policy_of` takes it; `replace`
        is for a worker with a network of its own, `handed` for one that hands its calls over. What the broker makes no
        sense of it closes, and then the worker's lockdown fails. Raises HostError.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET if handed else socket.SOCK_STREAM)
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        number = next(self._numbers)
        try:
            wanted = {**policy, "replace": replace, "handed": handed}
            self._tell(["serve", number, wanted], [ours.fileno(), write])
            return number, theirs.detach(), read
        except BaseException:
            os.close(read)
            raise
        finally:
            ours.close()
            theirs.close()
            os.close(write)

    def narrow(self, number: int, policy: dict[str, Any]) -> None:
        """Judge the worker of that number, as `serve` gave it, by `policy` from now on. Raises HostError."""
        self._ask("narrowed", ["narrow", number, policy])
