"""One worker as the host speaks with it: its calls.

The calling thread writes the call and reads its own reply: two writes and two reads, no reader thread in between. The
deadline of a call is kept by the watcher, which kills: the read then sees the pipe's end.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from typing import TYPE_CHECKING, Any, Final

from host.errors import HostError, PluginCrashed, PluginTimeout, ProtocolViolation, ResourceLimitExceeded, WorkerError
from host.run.process import BREACH, CANCELLED, CLOSED, TIMEOUT, UNCOVERED, UNCOVERED_TEXT
from host.run.starting import StartingWorker
from host.run.steps import run
from sandbox_worker import messages, wire
from sandbox_worker.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from host.run.steps import Steps


CREDIT: Final = 16
"""Items of a stream that the worker may be ahead."""
GRACE: Final = 0.25
"""Seconds that a call has to end by itself when it is asked to."""
_CANCELLED_BY_US: Final = "sandbox_worker.errors.Cancelled"
_CPU_SIGNAL: Final = signal.SIGXCPU
_BOUNDED: Final = (list, messages.Item)


class Undelivered(Exception):
    """The worker died before it read the call: nothing of it ran, another worker may have it. `crash` is its end."""

    def __init__(self, crash: PluginCrashed) -> None:
        super().__init__(str(crash))
        self.crash = crash


def _nobody(_ask: messages.Ask) -> list[object]:
    raise WireError("an ask where nobody answers")


class Worker(StartingWorker):
    """One worker. A call at a time (the plugin's turn sees to that); the watcher reads the attributes."""

    __slots__ = ("_asks", "_calls", "_open", "_pings", "_sent_call", "_told", "call_id", "last_call", "stop", "turn")

    def __init__(self, *how: Any) -> None:
        """As `WorkerProcess`."""
        self.call_id = self.turn = self.last_call = 0
        """The innermost call that runs, the outermost, to whose account it goes, and the one that ended last."""
        self.stop: tuple[int, float, str] | None = None
        """The call that was asked to stop, when it will be killed, and why."""
        self._told = False
        self._open: tuple[tuple[int, str], ...] = ()
        """Number and hook of each call that runs, the outermost first."""
        self._calls = self._asks = self._pings = 0
        self._sent_call = 0
        """The last call that was written: what is said of one before it would be lost."""
        super().__init__(*how)

    # --- a call

    def call(
        self, hook: str, arguments: dict[str, Any], answer: Callable[[messages.Ask], list[object]] = _nobody
    ) -> messages.Result | messages.Error:
        """One call and its reply; `answer` makes the message for each function that the plugin asks for meanwhile.

        In such an answer it may be called again. Raises Undelivered, WorkerError or one of its subclasses; Unsendable
        before all. It is what `steps` does, without the generators.
        """
        call_id, outer, sent = self._calls + 1, self._open, self._wire.sent
        frame = self._wire.encode([messages.CALL, call_id, hook, arguments])
        self._begin(call_id, hook)
        try:
            self._wire.send(frame)
            self._sent_call = call_id
            body = self._wire.read()
            if body is not None and not self._wire.behind:
                reply = self._reply(call_id, body)
                if type(reply) is list:
                    return reply if self.stop is None else self._in_time(reply)
            return run(self._replies(call_id, body, answer))
        except (HostError, WireError, OSError, EOFError) as e:
            raise self._failed(e, sent) from None
        except BaseException:  # KeyboardInterrupt: the reply can't be told from the next one's any more
            self.kill(CLOSED)
            raise
        finally:
            self._end(call_id, outer)

    def steps(
        self,
        hook: str,
        arguments: dict[str, Any],
        answer: Callable[[messages.Ask], list[object]],
        begun: Callable[[int], None] | None = None,
    ) -> Steps[messages.Result | messages.Error]:
        """`call`, step by step. `begun` is told the call's number when it can be cancelled, and may raise HostError."""
        call_id, outer, sent = self._calls + 1, self._open, self._wire.sent
        frame = self._wire.encode([messages.CALL, call_id, hook, arguments])
        self._begin(call_id, hook)
        try:
            if begun is not None:
                begun(call_id)
            if len(frame) <= self._wire.at_once:
                self._wire.send(frame)
            else:
                yield functools.partial(self._wire.send, frame)
            self._sent_call = call_id
            return (yield from self._replies(call_id, None, answer))
        except (HostError, WireError, OSError, EOFError) as e:
            raise (yield functools.partial(self._failed, e, sent)) from None
        except BaseException:  # KeyboardInterrupt: the reply can't be told from the next one's any more
            self.kill(CLOSED)
            raise
        finally:
            self._end(call_id, outer)

    def _replies(
        self, call_id: int, body: wire.Body | None, answer: Callable[[messages.Ask], list[object]]
    ) -> Steps[messages.Result | messages.Error]:
        """The reply to a call that was sent, `body` being what was read of it; asks are answered until it comes."""
        while True:
            if body is None:
                yield self._wire.replies
                body = self._wire.read()
                continue
            self._wire.expect_nothing()
            reply = self._reply(call_id, body)
            if isinstance(reply, messages.Item):
                raise WireError("an item where no stream is open")
            if not isinstance(reply, messages.Ask):
                return reply if self.stop is None else self._in_time(reply)
            yield from self._answered(reply, answer)
            body = None

    def stream(
        self, hook: str, arguments: dict[str, Any], answer: Callable[[messages.Ask], list[object]] = _nobody
    ) -> Generator[object, None, messages.Result | messages.Error]:
        """One call whose result is an iterator: yields its items, returns how it ended. Raises as `call`.

        The clock runs while an item is waited for. Closing it cancels the call.
        """
        call_id, outer, sent = self._calls + 1, self._open, self._wire.sent
        frame = self._wire.encode([messages.OPEN, call_id, hook, arguments, CREDIT])
        self._begin(call_id, hook)
        taken, credit = 0, CREDIT
        try:
            self._wire.send(frame)
            self._sent_call = call_id
            while True:
                reply = self._next(call_id, self._wire.receive(), answer)
                if reply is None:
                    continue
                if not isinstance(reply, messages.Item):
                    self._wire.expect_nothing()
                    return self._in_time(reply)
                taken += 1
                if reply.number != taken or taken > credit:
                    raise WireError("an item out of turn")
                self.deadline = None
                yield reply.value
                self._run_until(time.monotonic() + self.limits.call_timeout)
                if taken > credit - CREDIT // 2:
                    credit += CREDIT // 2
                    with contextlib.suppress(OSError):  # what it sent before it died is still there to be read
                        self._wire.send(self._wire.encode([messages.MORE, call_id, CREDIT // 2]))
        except GeneratorExit:
            self._give_up(call_id, answer)
            raise
        except (HostError, WireError, OSError, EOFError) as e:
            raise self._failed(e, sent) from None
        except BaseException:
            self.kill(CLOSED)
            raise
        finally:
            self._end(call_id, outer)

    def _give_up(self, call_id: int, answer: Callable[[messages.Ask], list[object]]) -> None:
        """Cancel a stream and read it to its end, which is near: the worker is killed after the grace."""
        self._run_until(time.monotonic() + GRACE)
        self.cancel(call_id)
        try:
            while True:
                reply = self._next(call_id, self._wire.receive(), answer)
                if isinstance(reply, list | messages.Error):
                    self._wire.expect_nothing()
                    return
        except WireError:
            self.kill(BREACH)
        except (OSError, EOFError):
            self.kill(CANCELLED)
        self.wait()

    def _begin(self, call_id: int, hook: str) -> None:
        self._calls = self.call_id = call_id
        self._open = opened = (*self._open, (call_id, hook))
        self.turn = opened[0][0]
        self.hook, self.busy = hook, True
        self.deadline = time.monotonic() + self.limits.call_timeout
        if self._watcher.asleep:
            self._watcher.wake()

    def _end(self, call_id: int, outer: tuple[tuple[int, str], ...]) -> None:
        self.deadline, self.last_call, self._open = None, call_id, outer
        if outer:
            self.call_id, self.hook = outer[-1]
        else:
            self.busy, self.stop = False, None

    def _run_until(self, deadline: float) -> None:
        """Let the worker work until then, or be asked to stop and killed."""
        self.deadline = deadline
        if self._watcher.asleep:
            self._watcher.wake()

    def _next(
        self, call_id: int, body: wire.Body, answer: Callable[[messages.Ask], list[object]]
    ) -> messages.Result | messages.Error | messages.Item | None:
        """What one frame says for an open call, None when it was an ask, which is answered then."""
        reply = self._reply(call_id, body)
        if not isinstance(reply, messages.Ask):
            return reply
        self._wire.expect_nothing()
        run(self._answered(reply, answer))
        return None

    def _reply(self, call_id: int, body: wire.Body) -> messages.Result | messages.Error | messages.Item | messages.Ask:
        reply = messages.reply_to(call_id, wire.decode(body))
        if type(reply) in _BOUNDED and len(body) > self.limits.result_size + wire.ENVELOPE:
            raise WireError("a result longer than result_size")
        return reply

    def _in_time(self, reply: messages.Result | messages.Error) -> messages.Result | messages.Error:
        """The reply, unless it came after the call's time was over. Raises PluginTimeout, HostError."""
        if self.stop is not None and self.stop[0] == self.call_id:
            if self.stop[2] == TIMEOUT:
                raise self._timeout()
            if isinstance(reply, messages.Error) and reply.type_name == _CANCELLED_BY_US:
                raise HostError("was asked to stop, and did")
        return reply

    def _answered(self, ask: messages.Ask, answer: Callable[[messages.Ask], list[object]]) -> Steps[None]:
        """Answer one ask; meanwhile the clock of the call stands still."""
        if ask.id != self._asks + 1:
            raise WireError("an ask out of turn")
        self._asks = ask.id
        begun, deadline = time.monotonic(), self.deadline
        self.deadline = None
        frame = self._wire.encode((yield functools.partial(answer, ask)))
        if deadline is not None:
            self._run_until(deadline + time.monotonic() - begun)
        stop = self.stop
        if stop is not None and not self._told:  # before the answer, which may have been refused for it
            frame = self._cancel_frame(stop[0]) + frame
        if len(frame) <= self._wire.at_once:
            self._wire.send(frame)
        else:
            yield functools.partial(self._wire.send, frame)

    def cancel(self, call_id: int = 0, reason: str = CANCELLED) -> None:
        """Ask an open call, or the outermost, to stop; the watcher kills the worker after the grace. From any thread.

        A call that has ended is passed over; so is one that was asked before, or one around it, and has its grace.
        """
        numbers, stop = [number for number, _ in self._open], self.stop
        call_id = call_id or (numbers[0] if numbers else 0)
        if call_id not in numbers or (stop is not None and stop[0] in numbers and stop[0] <= call_id):
            return
        self._told = False
        self.stop = call_id, time.monotonic() + GRACE, reason
        self._tell(call_id)
        if self._watcher.asleep:
            self._watcher.wake()

    def stopping(self) -> Callable[[], bool]:
        """Tells, from any thread and also later, whether the call that runs now was asked to stop, or one around it."""
        numbers = [number for number, _ in self._open]

        def asked() -> bool:
            stop = self.stop
            return stop is not None and stop[0] in numbers

        return asked

    def _tell(self, call_id: int) -> None:
        self._told = call_id <= self._sent_call and self._wire.note(self._cancel_frame(call_id))

    @staticmethod
    def _cancel_frame(call_id: int) -> bytes:
        frame: bytes = wire.Encoder().encode([messages.CANCEL, call_id])
        return frame

    def overdue(self, now: float) -> str | None:
        """Why it has to be killed now, if it has. The watcher asks; at a call's deadline it is asked to stop first."""
        stop, opened, deadline = self.stop, self._open, self.deadline
        if stop is not None and any(stop[0] == number for number, _ in opened):
            if not self._told:
                self._tell(stop[0])
            return stop[2] if now > stop[1] else None
        if deadline is None or now <= deadline:
            return None
        if not opened:
            return TIMEOUT
        self.cancel(opened[-1][0], TIMEOUT)
        return None

    def ping(self, seconds: float) -> bool:
        """Whether it answers in that time; one that does not is killed. Not while a call runs."""
        self._pings += 1
        self._run_until(time.monotonic() + seconds)
        try:
            self._wire.send(self._wire.encode([messages.PING, self._pings]))
            if messages.pong_of(wire.decode(self._wire.receive_last())) != self._pings:
                raise WireError("a reply to another ping")
        except (WireError, OSError, EOFError):
            self.kill(self.ended or BREACH)
            self.wait()
            return False
        except BaseException:
            self.kill(CLOSED)
            raise
        finally:
            self.deadline = None
        return True

    def cause_of_death(self) -> WorkerError:
        """Why it is dead, where it died while no call ran."""
        if self.ended:
            text = f"exceeded its limit of {self.ended} between two calls"
            return self.fault(ResourceLimitExceeded, text, limit=self.ended)
        return self.fault(PluginCrashed, f"died between two calls ({self.obituary()})")

    def _failed(self, error: Exception, sent: int) -> Exception:
        if isinstance(error, HostError):
            return error
        if isinstance(error, WireError):
            self.kill(BREACH)
            self.wait()
            return self.fault(ProtocolViolation, f"broke the protocol: {error}")
        return self._death(sent)

    def _timeout(self) -> PluginTimeout:
        return self.fault(PluginTimeout, f"took longer than {self.limits.call_timeout:g} s (call_timeout)")

    def _death(self, sent: int) -> Exception:
        unread = self._wire.unread_since(sent)
        self.kill(self.ended or "")
        self.wait()
        if self.ended == TIMEOUT:
            return self._timeout()
        if self.ended == CANCELLED:
            return HostError(f"was cancelled, and ended as it went on for more than {GRACE:g} s")
        if self.ended == UNCOVERED:
            return self.fault(PluginCrashed, UNCOVERED_TEXT)
        if self.ended == CLOSED:
            return HostError("the plugin was closed during the call")
        if self.ended:
            return self.fault(ResourceLimitExceeded, f"exceeded its limit of {self.ended}", limit=self.ended)
        if self.signal == _CPU_SIGNAL:
            return self.fault(ResourceLimitExceeded, "exceeded its limit of cpu_time", limit="cpu_time")
        crash = self.fault(PluginCrashed, f"died during the call ({self.obituary()})")
        return Undelivered(crash) if unread else crash
