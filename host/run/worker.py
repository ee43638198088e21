"""One worker as the host speaks with it: its start and its calls.

The calling thread writes the call and reads its own reply: two writes and two reads, no reader thread in between. The
deadline of a call is kept by the watcher, which kills: the read then sees the pipe's end.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Final

from host.errors import (
    HostError,
    PluginCrashed,
    PluginStartError,
    PluginTimeout,
    ProtocolViolation,
    ResourceLimitExceeded,
)
from host.model.sanitise import visible
from host.run.process import BREACH, CLOSED, TIMEOUT, UNCOVERED, WorkerProcess
from sandbox_worker import messages, wire
from sandbox_worker.errors import WireError
from sandbox_worker.walls.steps import step_of

if TYPE_CHECKING:
    from collections.abc import Callable


_CPU_SIGNAL: Final = signal.SIGXCPU
_UNCOVERED_TEXT: Final = "was ended, for a path that it is denied was replaced from outside; the next call starts anew"


class Undelivered(Exception):
    """The worker died before it read the call: nothing of it ran, another worker may have it. `crash` is its end."""

    def __init__(self, crash: PluginCrashed) -> None:
        super().__init__(str(crash))
        self.crash = crash


def _nobody(_ask: messages.Ask) -> list[object]:
    raise WireError("an ask where nobody answers")


class Worker(WorkerProcess):
    """One worker. A call at a time (the plugin's turn sees to that); the watcher reads the attributes."""

    hooks: tuple[messages.Hook, ...] = ()
    call_id = turn = last_call = 0
    """The innermost call that runs, the outermost, to whose account it goes, and the one that ended last."""
    _calls = _asks = 0

    # --- the start

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
            return self.fault(PluginStartError, _UNCOVERED_TEXT)
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

    # --- a call

    def call(
        self, hook: str, arguments: dict[str, Any], answer: Callable[[messages.Ask], list[object]] = _nobody
    ) -> messages.Result | messages.Error:
        """One call and its reply; `answer` makes the message for each function that the plugin asks for meanwhile.

        In such an answer it may be called again. Raises Undelivered, WorkerError or one of its subclasses; Unsendable
        before all.
        """
        call_id = self._calls + 1
        frame = self._wire.encode([messages.CALL, call_id, hook, arguments])
        outer = (self.call_id, self.hook) if self.busy else None
        sent = self._wire.sent
        self._calls = self.call_id = call_id
        if outer is None:
            self.turn = call_id
        self.hook, self.busy = hook, True
        self._run_until(time.monotonic() + self.limits.call_timeout)
        try:
            self._wire.send(frame)
            return self._reply(call_id, answer)
        except WireError as e:
            self.kill(BREACH)
            self.wait()
            raise self.fault(ProtocolViolation, f"broke the protocol: {e}") from None
        except (OSError, EOFError):
            raise self._death(sent) from None
        except BaseException:  # KeyboardInterrupt: the reply can't be told from the next one's any more
            self.kill(CLOSED)
            raise
        finally:
            self.busy, self.deadline, self.last_call = False, None, call_id
            if outer is not None:
                (self.call_id, self.hook), self.busy = outer, True

    def _run_until(self, deadline: float) -> None:
        """Let the worker work until then, or be killed."""
        self.deadline = deadline
        if self._watcher.asleep:
            self._watcher.wake()

    def _reply(self, call_id: int, answer: Callable[[messages.Ask], list[object]]) -> messages.Result | messages.Error:
        while True:
            body = self._wire.receive_last()
            reply = messages.reply_to(call_id, wire.decode(body))
            if isinstance(reply, messages.Ask):
                self._answer(reply, answer)
                continue
            if type(reply) is messages.Result and len(body) > self.limits.result_size + wire.ENVELOPE:
                raise WireError("a result longer than result_size")
            return reply

    def _answer(self, ask: messages.Ask, answer: Callable[[messages.Ask], list[object]]) -> None:
        """Answer one ask; meanwhile the clock of the call stands still."""
        if ask.id != self._asks + 1:
            raise WireError("an ask out of turn")
        self._asks = ask.id
        begun, deadline = time.monotonic(), self.deadline
        self.deadline = None
        frame = self._wire.encode(answer(ask))
        if deadline is not None:
            self._run_until(deadline + time.monotonic() - begun)
        self._wire.send(frame)

    def _death(self, sent: int) -> Exception:
        unread = self._wire.unread_since(sent)
        self.kill(self.ended or "")
        self.wait()
        if self.ended == TIMEOUT:
            return self.fault(PluginTimeout, f"took longer than {self.limits.call_timeout:g} s (call_timeout)")
        if self.ended == UNCOVERED:
            return self.fault(PluginCrashed, _UNCOVERED_TEXT)
        if self.ended == CLOSED:
            return HostError("the plugin was closed during the call")
        if self.ended:
            return self.fault(ResourceLimitExceeded, f"exceeded its limit of {self.ended}", limit=self.ended)
        if self.signal == _CPU_SIGNAL:
            return self.fault(ResourceLimitExceeded, "exceeded its limit of cpu_time", limit="cpu_time")
        crash = self.fault(PluginCrashed, f"died during the call ({self.obituary()})")
        return Undelivered(crash) if unread else crash
