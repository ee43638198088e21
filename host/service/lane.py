"""One place for a worker of a plugin: one worker after the other, what each may and reports, and what its end costs."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Final

from host.errors import HostError, PluginCrashed, PluginTimeout, SerializationError, WorkerError
from host.model.events import PermissionDropped, PermissionName, WorkerPid
from host.model.grants import narrowed
from host.model.plan import FILE_KINDS, NET_KINDS, begins_later, broker_policy
from host.model.sanitise import visible
from host.model.supervision import Change, Life, State
from host.run.process import CLOSED, TIMEOUT, UNCOVERED
from host.run.steps import run
from host.run.worker import Undelivered, Worker
from host.service.denials import ALLOWED, advice, reason_for
from host.service.remote_errors import add_hint, may_come_of, rebuild
from sandbox_worker.errors import DENY_RULE, DROPPED, Unsendable
from sandbox_worker.messages import DROP, LOG, Ask

if TYPE_CHECKING:
    from collections.abc import Generator

    from host.model.grants import Effective
    from host.run.steps import Steps
    from host.service.functions import Asked
    from host.service.plugin import SandboxedPlugin
    from host.service.ticket import Ticket

READY: Final = State.READY
BUSY: Final = State.BUSY
LINES: Final = 1000
"""Lines of output that are kept."""


class Lane:
    """A place; for one thread at a time, which has its turn."""

    __slots__ = (
        "_asked", "_events_lock", "_plugin", "_refused", "_tmp", "_vacant", "effective", "life", "lines", "outdated",
        "restarts", "worker",
    )  # fmt: skip

    def __init__(self, plugin: SandboxedPlugin, effective: Effective) -> None:
        self._plugin: Final = plugin
        self.life: Final = Life()
        self.worker: Worker | None = None
        self.effective = effective
        self.restarts = 0
        self.lines: list[str] = []
        self.outdated = False
        """Its worker was started with a permission that the plugin has given up since, in another one."""
        self._vacant = False
        self._tmp: str | None = None
        self._events_lock = threading.Lock()  # who waits for it finds recorded what another thread has drained
        self._refused: tuple[tuple[int, int], tuple[str, str, str]] | None = None
        """What the broker refused last: (worker, call), (kind, target, reason)."""

    def connect(self, asked: Asked[Lane]) -> None:
        """Let its workers ask for functions."""
        self._asked = asked

    def wait(self, now: float) -> float:
        """Seconds until a caller has any use of it; below zero with a worker that is ready."""
        if self.life.state is State.READY:
            return -1.0  # first, for all that follows costs each call
        return 0.0 if self._plugin._settled else self.life.left(now)

    @property
    def state(self) -> State:
        """What it is at; without a worker where the one that it had died unnoticed by any call."""
        worker, state = self.worker, self.life.state
        if state is State.READY and (worker is None or not worker.usable):
            return State.STOPPED
        return state

    def forget_threads(self) -> None:
        """In a forked child: no worker, and nobody holds the lock."""
        self.worker = None
        self._events_lock = threading.Lock()

    # --- a worker's life

    def live(self) -> Worker:
        """The worker to use; a dead one is replaced. Raises PluginQuarantined, and what a start raises."""
        plugin, ready = self._plugin, self._ready()
        if ready is not None:
            return ready
        self._recover()
        if self.worker is not None:
            self._bury(self.worker)
        plugin._supervisor.check(self.life)
        if self._vacant:
            self._vacant = False
            self.restarts += 1
        self.life.on(Change.START)
        born: list[Worker] = []
        try:
            self.outdated = False
            self.worker = plugin._owner._start(plugin, self, born)
        except BaseException as e:
            if not isinstance(e, Exception):  # Ctrl-C, before we had it
                for worker in born:
                    plugin._owner._stop(plugin, worker)
            if self.life.state is State.STARTING:  # no worker came to life, so none failed
                self.life.on(Change.END)
            raise
        self.life.on(Change.STARTED)
        return self.worker

    def _ready(self) -> Worker | None:
        """Its worker, if that can be used as it is. Raises HostError (closed)."""
        plugin, worker = self._plugin, self.worker
        if plugin._closed or plugin._owner._closed or plugin._owner._unaudited is not None:
            plugin._check_open()
        if self.life.state is not READY or worker is None or worker.ended is not None or worker.status is not None:
            return None
        if worker.busy or self.outdated or plugin._supervisor.quarantine is not None:
            return None
        return worker if worker.broker is None or worker.broker.connected else None

    def _recover(self) -> None:
        """After a turn that was interrupted between two steps (KeyboardInterrupt) worker and state may disagree."""
        worker, state = self.worker, self.life.state
        if worker is not None and (worker.busy or state is not State.READY):
            worker.kill(CLOSED)
        if state in (State.STARTING, State.BUSY) or (state is State.READY and worker is None):
            self.life.on(Change.END)

    def _bury(self, worker: Worker) -> None:
        """Let go of a worker that ended while no call ran, or that is to be replaced."""
        error = None
        if not worker.usable:
            worker.kill("")
            worker.wait()
            error = worker.cause_of_death()
        if self.life.state is State.READY:
            self.failed(worker, error)
        self.retire()

    def failed(self, worker: Worker, error: WorkerError | None) -> None:
        """Its worker failed with `error`, or ended for a reason that is not the plugin's."""
        if error is None or worker.orphaned or worker.ended in (CLOSED, UNCOVERED):
            self.life.on(Change.END)
        else:
            self._plugin._supervisor.failed(self.life, error)

    def failed_to_start(self, worker: Worker, error: WorkerError) -> None:
        """A worker was started and did not come up."""
        if worker.orphaned or worker.ended == UNCOVERED:
            self.life.on(Change.END)
        else:
            self._plugin._supervisor.failed(self.life, error)

    def retire(self) -> None:
        """End its worker, if it has one."""
        worker = self.worker
        if worker is None:
            return
        self.take_events(worker)
        self._plugin._owner._stop(self._plugin, worker)
        self.lines = [*self.lines, *worker.log][-LINES:]
        self.worker = None
        self._vacant = True
        if self.life.state in (State.READY, State.BUSY):
            self.life.on(Change.END)

    def decided(self, effective: Effective, tmp: str | None) -> Effective:
        """Note what its next worker, whose private ``${tmp}`` is `tmp`, may: `effective` less what was dropped."""
        self._tmp = tmp
        self.effective = narrowed(effective, self._plugin._dropped.for_worker(tmp))
        return self.effective

    # --- a call

    def call(self, hook: str, arguments: dict[str, Any], ticket: Ticket | None = None) -> Any:
        """One call, in a living worker. Raises Undelivered where no worker read it, and all that a call raises.

        With a worker that is ready it takes the steps of `steps` itself, for the sake of speed.
        """
        worker = self._ready() if ticket is None else None
        if worker is None:
            return run(self.steps(hook, arguments, ticket))
        life = self.life
        life.state = BUSY
        try:
            reply = worker.call(hook, arguments, self._answer)
        except (Unsendable, Undelivered, HostError) as e:
            error = self._told(worker, e, hook)
            self._ended(worker, e)
            if isinstance(e, Undelivered):
                raise
            raise error from None
        except BaseException as e:
            self._ended(worker, e)
            raise
        life.state = READY
        if self._plugin._supervisor.failures.times:
            self._plugin._supervisor.answered()
        if type(reply) is list and not reply[3] and (worker.broker is None or worker.broker.refusals < 0):
            return reply[2]
        return self._outcome(worker, reply, hook)

    def steps(self, hook: str, arguments: dict[str, Any], ticket: Ticket | None) -> Steps[Any]:
        """`call`, step by step."""
        try:
            worker = self._ready() or (yield self.live)
        except HostError as e:
            e.hook = hook
            raise
        self.life.on(Change.CALL)
        try:
            reply = yield from self._deliver(worker, hook, arguments, ticket)
        except Exception as e:
            yield functools.partial(self._ended, worker, e)
            raise
        except BaseException as e:
            self._ended(worker, e)
            raise
        self.life.on(Change.ANSWER)
        self._plugin._supervisor.answered()
        return self._outcome(worker, reply, hook)

    def _ended(self, worker: Worker, error: BaseException) -> None:
        """A call ended without a reply that counts: the worker is as good as before, or it is dead."""
        if worker.usable:  # nothing was sent, or it stopped when it was asked to
            self.life.on(Change.ANSWER)
            return
        crash = error.crash if isinstance(error, Undelivered) else error
        self.failed(worker, crash if isinstance(crash, WorkerError) else None)
        if isinstance(error, Exception):
            self.retire()

    def stream(self, hook: str, arguments: dict[str, Any]) -> Generator[Any]:
        """One call that yields items, in a living worker. Raises as `call`; closing it cancels the call."""
        worker = self.live()
        self.life.on(Change.CALL)
        try:
            reply = yield from worker.stream(hook, arguments, self._answer)
        except (Unsendable, Undelivered, HostError) as e:
            self._ended(worker, e)
            raise self._told(worker, e, hook) from None
        except BaseException as e:
            self._ended(worker, e)
            raise
        self.life.on(Change.ANSWER)
        self._plugin._supervisor.answered()
        self._outcome(worker, reply, hook)

    def ping(self, seconds: float) -> bool:
        """Whether its worker answers in that time; one that does not is ended."""
        worker = self.worker
        if worker is None or not worker.usable:
            return False
        if worker.ping(seconds):
            return True
        text = f"did not answer a ping within {seconds:g} s, as a worker does"
        self.failed(worker, worker.fault(PluginTimeout if worker.ended == TIMEOUT else PluginCrashed, text))
        self.retire()
        return False

    def nested(self, hook: str, arguments: dict[str, Any], ticket: Ticket | None = None) -> Any:
        """One call more of the worker that waits for a function. Raises HostError when that ended meanwhile."""
        worker, name = self.worker, self._plugin.__name__
        if worker is None or not worker.usable:
            raise HostError(f"the worker of plugin {name} ended meanwhile", plugin=name)
        try:
            return self._outcome(worker, run(self._deliver(worker, hook, arguments, ticket)), hook)
        except Undelivered as e:
            raise e.crash from None

    def _deliver(self, worker: Worker, hook: str, arguments: dict[str, Any], ticket: Ticket | None) -> Steps[Any]:
        """Send the call and take the reply; errors are told as this plugin's."""
        begun = None if ticket is None else lambda number: ticket.begin(functools.partial(self.cancel, number))
        try:
            return (yield from worker.steps(hook, arguments, self._answer, begun))
        except Undelivered as e:
            self._told(worker, e, hook)
            raise
        except (Unsendable, HostError) as e:
            raise self._told(worker, e, hook) from None
        finally:
            if ticket is not None:
                ticket.end()

    def _told(self, worker: Worker, error: Unsendable | Undelivered | HostError, hook: str) -> HostError:
        """The error of a call, as this plugin's."""
        name = self._plugin.__name__
        if isinstance(error, Unsendable):
            return SerializationError(str(error), plugin=name, hook=hook)
        told = error.crash if isinstance(error, Undelivered) else error
        self.take_events(worker, (worker.last_call, hook))
        told.plugin, told.hook = name, hook
        if isinstance(told, WorkerError) or str(told).startswith("was "):
            told.args = (f"plugin {name} {told}",)
        return told

    def cancel(self, call_id: int = 0) -> None:
        """Ask a call, or the outermost that runs, to stop; from any thread."""
        worker = self.worker
        if worker is not None:
            worker.cancel(call_id)
            self._asked.look()

    def _outcome(self, worker: Worker, reply: Any, hook: str) -> Any:
        """What a reply says. Called while the worker is still the caller's."""
        is_result = type(reply) is list
        if (reply[3] if is_result else reply.denials) or worker.refusals >= 0:
            self.take_events(worker, (worker.last_call, hook))
        if is_result:
            return reply[2]
        raise self._remote(worker, reply, hook)

    def _remote(self, worker: Worker, reply: Any, hook: str) -> Exception:
        hint = ""
        refused = self._refused
        if (
            reply.cause is None
            and refused is not None
            and refused[0] == (worker.pid, worker.last_call)
            and may_come_of(reply, refused[1][1])
        ):  # one that says nothing else, in a call in which the broker refused something: that is its cause
            kind, target, reason = refused[1]
            reply.cause = ("denied", kind, target, "broker")
            hint = advice(kind, target, reason)
        elif reply.cause is not None and reply.cause[0] == "denied":
            _, kind, target, layer = reply.cause
            reason = self._reason(kind, target)
            hint = advice(kind, target, reason)
            if reason == ALLOWED:  # by the host's own rules it is none, whatever the worker calls it
                reply.cause = None
            elif layer in ("landlock", "seccomp"):  # the others were reported as they were made
                self._plugin._denials.add(kind, target, reason, layer, worker.pid, (worker.last_call, hook))
        made = rebuild(reply, self._plugin.__name__, hook, worker.pid, hint)
        if isinstance(made, PermissionError) and worker.tier in ("walled", "confined"):
            add_hint(made, lambda path: begins_later(self.effective, worker.rules, path))
        return made

    def _reason(self, kind: str, target: str) -> str:
        """Which rule refuses it, by the host's own copy."""
        if self._plugin._dropped.covers(kind, target, self._tmp):
            return DROPPED
        if kind == "host":
            return self._asked.reason(target, self.effective)
        return reason_for(kind, target, self.effective)

    # --- what a worker asks for and reports

    def _answer(self, ask: Ask) -> list[object]:
        worker = self.worker
        turn, stopping = (worker.turn, worker.stopping()) if worker is not None else (0, lambda: False)
        return self._asked.answer(ask, self.effective, turn, stopping)

    def refuse(self, function: str, reason: str) -> None:
        """Record that the plugin asked for a function that it may not call: the host's own word."""
        worker = self.worker
        if worker is not None:
            call = (worker.call_id, worker.hook)
            self._plugin._denials.add("host", function, reason, "broker", worker.pid, call, origin="host")

    def take_events(self, worker: Worker, call: tuple[int, str] | None = None) -> None:
        """Record the denials that the worker and the broker reported, under `call`, or else the call that runs, if one
        does."""
        if call is None:
            call = (worker.call_id, worker.hook) if worker.busy else (0, "")
        add, dropped = self._plugin._denials.add, self._plugin._dropped
        with self._events_lock:
            for kind, target, by_rule in worker.drain_refusals():  # the broker's word: not judged again
                given_up = dropped.covers(kind, target, self._tmp)
                reason = DROPPED if given_up else DENY_RULE if by_rule else "no-rule"
                add(kind, target, reason, "broker", worker.pid, call, origin="host")
                self._refused = (worker.pid, call[0]), (kind, target, reason)
            for kind, target, _ in worker.drain_events():
                if kind.startswith(DROP):
                    self._give_up(kind.removeprefix(DROP), target, worker)
                    continue
                if kind.startswith(LOG):
                    worker.note(self._plugin._records.add(kind.removeprefix(LOG), target))
                    continue
                given_up = dropped.covers(kind, target, self._tmp)
                reason = DROPPED if given_up else reason_for(kind, target, self.effective)
                if reason != ALLOWED:
                    add(kind, target, reason, "audit_hook", worker.pid, call)

    def _give_up(self, kind: str, target: str, worker: Worker) -> None:
        """Note what the plugin dropped, for it and for all workers to come. A claim, which can only take away."""
        plugin = self._plugin
        kept = plugin._dropped.add(kind, target, self._tmp)
        if kept is None:
            return
        self.effective = narrowed(self.effective, [(kind, plugin._dropped.spelled(kept, self._tmp))])
        if kind in (*NET_KINDS, *FILE_KINDS) and worker.broker is not None:
            worker.broker.narrow(broker_policy(self.effective))
        for lane in plugin._lanes:
            lane.outdated = lane.outdated or lane is not self
        seq, ts = plugin._owner._stamp()
        permission = PermissionName(visible(kind, 100), visible(kept, 1000))
        plugin._owner._tell(PermissionDropped(seq, ts, plugin._identity, WorkerPid(worker.pid), permission))
