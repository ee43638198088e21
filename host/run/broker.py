"""The host's side of the broker: the one process that opens the way to the network for workers with a grant of it.

It is a child of the host, exec'd when the first such worker starts (`sandbox_worker.broker.server`). It decides with
the rules of everything else, on its own copy of what a worker asks for.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Final

from host.errors import LockdownUnavailable
from host.run.helper import Helper, HelperGone

if TYPE_CHECKING:
    from host.run.interpreter import Interpreter


class BrokerGone(HelperGone):
    """The broker died or stopped answering. What its workers ask of the network fails; each is replaced at its next
    call, by one that a new broker serves."""


class Broker(Helper):
    """One broker process. Thread-safe; `close` is idempotent.

    `variant` is how it gets at a worker's socket: "pidfd_getfd", "addfd", or "" where it can't; `missing` says what
    keeps it from a better one.
    """

    name = "broker"
    gone = BrokerGone

    def __init__(self, interpreter: Interpreter) -> None:
        super().__init__(interpreter, "sandbox_worker.broker.server")
        try:
            found: dict[str, Any] = self._ask("ready", None)[1]
        except BaseException:
            self.close()
            raise
        self.variant: Final[str] = found["variant"]
        self.missing: Final[tuple[str, ...]] = tuple(found["missing"])

    def serve(self, policy: dict[str, Any], *, replace: bool = False) -> tuple[int, int, int]:
        """Announce one worker; gives (its number, the descriptor for its lockdown, the pipe with what it is refused).

        The caller closes both descriptors. `policy` is as `sandbox_worker.broker.policy.policy_of` takes it; `replace`
        is for a worker with a network of its own. Raises LockdownUnavailable where this machine has no notifications.
        """
        if not self.variant:
            text = f"net.connect and net.listen can't be held here: {'; '.join(self.missing)}"
            raise LockdownUnavailable(text, tier=None, missing=("seccomp notifications",))
        ours, theirs = socket.socketpair()
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _, number = self._ask("serving", ["serve", {**policy, "replace": replace}], [ours.fileno(), write])
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
