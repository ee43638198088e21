"""The start of a worker, as the host speaks with it: settings go down; what it is, and its hooks, come up."""

from __future__ import annotations

from typing import Any

from host.errors import PluginStartError, ProtocolViolation, ResourceLimitExceeded
from host.model.sanitise import visible
from host.run.process import BREACH, CLOSED, TIMEOUT, UNCOVERED, UNCOVERED_TEXT, WorkerProcess
from sandbox_worker import messages, wire
from sandbox_worker.errors import WireError
from sandbox_worker.walls.steps import step_of


class StartingWorker(WorkerProcess):
    """A worker until it serves calls."""

    __slots__ = ("hooks", "modules")

    hooks: tuple[messages.Hook, ...]

    def handshake(self, settings: dict[str, Any], expected_proofs: frozenset[str]) -> None:
        """Send the settings, check READY, receive the hooks. Raises PluginStartError and what a call raises."""
        try:
            self._wire.send(self._wire.encode([messages.INIT, settings]))
            ready = messages.Ready(self._message(messages.READY))
            if ready.version != wire.VERSION or ready.tier != self.tier or not expected_proofs.issubset(ready.proofs):
                raise WireError("READY is not what this worker was started for")
            self.modules = ready.modules
            self.drain_events()
            self._proven = True
            self.hooks = messages.hooks_of(self._message(messages.HOOKS))
        except WireError as e:
            self.kill(BREACH)
            raise self.fault(ProtocolViolation, f"broke the protocol at its start: {e}") from None
        except (OSError, EOFError):
            raise self._start_failure() from None
        # An error may be longer than a result; `call` looks at results themselves.
        self._wire.limit_to(max(self.limits.result_size + wire.ENVELOPE, wire.CONTROL_LIMIT))
        self.deadline = None

    def _message(self, kind: int) -> Any:
        message = wire.decode(self._wire.receive())
        if messages.kind_of(message) == messages.FAILED:
            stage, text, limit = messages.failure_of(message)
            self.kill(CLOSED)
            if limit is not None:
                raise self.fault(ResourceLimitExceeded, f"exceeded its limit of {limit} at its import", limit=limit)
            what = "could not be imported" if stage == "import" else "can't serve as a plugin"
            raise self.fault(PluginStartError, f"{what}:\n{visible(text, messages.TRACEBACK_LIMIT, multiline=True)}")
        if messages.kind_of(message) != kind:
            raise WireError("a message out of turn")
        return message

    def _start_failure(self) -> Exception:
        self.kill(self.ended or "")
        self.wait()
        if self.ended == TIMEOUT:
            return self.fault(PluginStartError, f"did not start within {self.limits.start_timeout:g} s (start_timeout)")
        if self.ended == UNCOVERED:
            return self.fault(PluginStartError, UNCOVERED_TEXT)
        if self.ended:
            return self.fault(
                ResourceLimitExceeded, f"exceeded its limit of {self.ended} as it started", limit=self.ended
            )
        step = step_of(self.exit_code) if self.exit_code is not None else None
        self.drain_output()
        said = f":\n{tail}" if (tail := self._output.tail()) else ""
        if step is not None:
            return self.fault(PluginStartError, f"could not be locked down: step {step!r} failed{said}")
        return self.fault(PluginStartError, f"died while it started ({self.obituary()}){said}")
