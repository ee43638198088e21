"""One worker process as the host holds it: started, listened to beside the wire, killed, reaped.

What is said over the wire is `host.run.worker`'s.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Final, Self, TypeVar

from host.errors import HostError
from host.run.conversation import Conversation
from host.run.launch import Bare, Launch, Walled, Watches
from host.run.output import Output
from host.run.pidfd import ended
from sandbox_worker import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from host.model.manifest import Limits
    from host.run.brokerage import Brokerage
    from host.run.interpreter import Interpreter
    from host.run.spawner import Spawner

_E = TypeVar("_E", bound=Exception)

_CHUNK: Final = 1 << 16
_GRACE: Final = 0.25
"""Seconds that a worker has to end by itself when it is closed."""
_REAP_TIMEOUT: Final = 5.0
"""Seconds that a killed process has to be gone."""
_CPU_SIGNAL: Final = signal.SIGXCPU

TIMEOUT: Final = "timeout"
CLOSED: Final = "closed"
BREACH: Final = "protocol"
UNCOVERED: Final = "uncovered"
CANCELLED: Final = "cancelled"

UNCOVERED_TEXT: Final = "was ended, for a path that it is denied was replaced from outside; the next call starts anew"


def _add_pipes(ours: list[int], theirs: list[int]) -> None:
    """The ends of a worker's four pipes: calls go to it, replies, events and output come back."""
    for downwards in (True, False, False, False):
        read, write = os.pipe2(os.O_CLOEXEC)
        ours.append(write if downwards else read)
        theirs.append(read if downwards else write)


class WorkerProcess:
    """The process, its pipes and its end. The watcher drains and kills from its own thread."""

    __slots__ = (
        "_event_rest", "_lock", "_output", "_proven", "_refusal_rest", "_watcher", "_wire", "broker", "busy",
        "deadline", "ended", "events", "hook", "limits", "orphaned", "output", "pid", "pidfd", "process", "rules",
        "started", "status", "tier",
    )  # fmt: skip

    def __init__(
        self,
        launch: Launch,
        limits: Limits,
        interpreter: Interpreter,
        spawner: Spawner | None,
        watcher: Watches,
        broker: Brokerage | None = None,
        born: list[Self] | None = None,
    ) -> None:
        """Start the process; `broker` is for a `launch` of which something is brokered. It is in `born` from then on,
        for who is interrupted (Ctrl-C) before he has it.

        Raises OSError (no descriptors left), HostError (spawner or broker can't).
        """
        self.tier: Final = launch.tier
        self.rules: Final = launch.rules
        self.limits: Final = limits
        self.started = time.monotonic()
        self.hook = ""
        self.busy = False
        self.deadline: float | None = self.started + limits.start_timeout
        self.ended: str | None = None
        self._output: Final = Output()
        self._event_rest = self._refusal_rest = b""
        self.broker: Final = broker
        self._proven = False  # until READY, refusals on the event pipe are the probes' own
        self._watcher: Final = watcher
        self._lock = threading.RLock()  # the watcher and the calling thread both drain, kill and reap
        self.status: int | None = None
        """As wait(2) gives it, once it is reaped."""
        self.orphaned = False
        ours: list[int] = []
        theirs: list[int] = []
        born = [] if born is None else born
        try:
            _add_pipes(ours, theirs)
            if broker is not None:
                theirs.append(broker.announce())
            helper = broker.reader if broker is not None else 0
            self.process = (
                Walled(spawner, interpreter, launch, theirs, helper) if spawner else Bare(interpreter, launch, theirs)
            )
            self.pid: Final = self.process.pid
            self.pidfd: Final = os.pidfd_open(self.pid)
            self._wire: Final = Conversation(*ours[:2])
            self.events, self.output = ours[2:4]
            os.set_blocking(self.events, False)
            os.set_blocking(self.output, False)
            while theirs:
                os.close(theirs.pop())
            born.append(self)
        except BaseException as e:
            if not born:
                self._undo(spawner, e, (*ours, *theirs))
            raise

    def _undo(self, spawner: Spawner | None, error: BaseException, descriptors: Sequence[int]) -> None:
        """Leave nothing of a start that failed in the middle."""
        for descriptor in {*descriptors, getattr(self, "pidfd", -1)} - {-1}:
            os.close(descriptor)
        if self.broker is not None:
            for descriptor in self.broker.descriptors():
                os.close(descriptor)
        process = getattr(self, "process", None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError, HostError):  # dead with its spawner
                os.kill(process.pid, signal.SIGKILL)
                process.reap()
        elif spawner is not None and not isinstance(error, Exception):
            spawner.hang_up()  # whether it has forked, and whom, is not known any more

    # --- what it says beside the wire

    def drain_events(self) -> list[tuple[str, str, bool]]:
        """The denials on the event pipe by now, as (kind, target, by a deny rule): the plugin's own claims."""
        with self._lock, contextlib.suppress(OSError):
            data = os.read(self.events, _CHUNK)
            found, self._event_rest = messages.events_of(self._event_rest + data)
            return found if self._proven else []
        return []

    @property
    def refusals(self) -> int:
        """The pipe with what the broker refused, -1 where it has had nothing to say."""
        return self.broker.refusals if self.broker is not None else -1

    def drain_refusals(self) -> list[tuple[str, str, bool]]:
        """What the broker refused by now, as `drain_events` gives it: the broker's own word."""
        with self._lock, contextlib.suppress(OSError):
            data = os.read(self.refusals, _CHUNK)
            found, self._refusal_rest = messages.events_of(self._refusal_rest + data)
            return found
        return []

    def drain_output(self) -> None:
        """Take in what it printed by now."""
        with self._lock, contextlib.suppress(OSError):
            self._output.drain(self.output)

    @property
    def log(self) -> list[str]:
        """The last lines that it printed, as they came."""
        return self._output.lines

    def note(self, line: str) -> None:
        """Keep a line of its log among those that it printed; an empty one is none."""
        with self._lock:
            if line:
                self._output.add(line)

    # --- its end

    @property
    def usable(self) -> bool:
        """False once it ended or was told to."""
        return self.ended is None and self.status is None

    @property
    def connected(self) -> bool:
        """False when the broker that it needs is gone: it runs, but what it asks of it fails."""
        return self.broker is None or self.broker.connected

    @property
    def exit_code(self) -> int | None:
        """Its exit status, once it is reaped and ended by itself."""
        return os.waitstatus_to_exitcode(self.status) if self.status is not None and os.WIFEXITED(self.status) else None

    @property
    def signal(self) -> int | None:
        """The signal that ended it, once it is reaped."""
        return os.WTERMSIG(self.status) if self.status is not None and os.WIFSIGNALED(self.status) else None

    def obituary(self) -> str:
        """How it ended, in words."""
        if self.signal is not None:
            with contextlib.suppress(ValueError):
                return f"signal {signal.Signals(self.signal).name}"
        return f"signal {self.signal}" if self.signal else f"exit status {self.exit_code}"

    def kill(self, reason: str) -> None:
        """SIGKILL to its whole process group. The pid can't be another's: it stays a zombie until it is reaped."""
        with self._lock:
            if self.status is not None:
                return
            self.ended = self.ended or reason
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Reap it; it must be dead or killed. Idempotent."""
        with self._lock:
            if self.status is None:
                ended(self.pidfd, _REAP_TIMEOUT)
                try:
                    self.status = self.process.reap()
                except HostError:  # the spawner is gone, and PDEATHSIG took the worker with it
                    self.status, self.orphaned = signal.SIGKILL, True

    def close(self) -> None:
        """Hang up, wait a moment, kill, reap, and give every descriptor back. Idempotent."""
        if not self._wire.open and self.events < 0:
            return
        doomed = self.busy or self.ended is not None
        if self.status is None:
            self.ended = self.ended or CLOSED  # first: whoever is interrupted below leaves no worker that looks usable
        self._wire.hang_up()
        if self.status is None:
            if doomed or not ended(self.pidfd, _GRACE):
                self.kill(CLOSED)
            self.wait()
        self.drain_output()
        with self._lock:
            self.abandon()

    def abandon(self) -> None:
        """Close the descriptors and nothing else: all that a forked child may do."""
        mine = {self.events, self.output, self.pidfd} - {-1}
        # Another thread may be about to drain, and a number that is given back soon names something else.
        self.events = self.output = -1
        mine |= self.broker.descriptors() if self.broker is not None else set()
        self._wire.abandon()
        for descriptor in mine:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def fault(self, kind: Callable[..., _E], text: str, **fields: object) -> _E:
        """An error of `kind` about this process, with how it ended and what it printed last."""
        self.drain_output()
        return kind(
            text,
            pid=self.pid,
            exit_code=self.exit_code,
            signal=self.signal,
            stderr_tail=self._output.tail(),
            hook=self.hook or None,
            **fields,
        )
