"""One plugin as the application holds it: an object that any pluggy manager registers, whose hooks run in a worker."""

from __future__ import annotations

import contextvars
import functools
import logging
import threading
from typing import TYPE_CHECKING, Any, Final, final

from host.errors import HostError, PermissionDenied, PluginStartError, SerializationError, WorkerError
from host.model.events import PermissionDropped, PermissionName, PluginFailed, PluginName, WorkerPid
from host.model.grants import narrowed
from host.model.plan import FILE_KINDS, NET_KINDS, begins_later, broker_policy
from host.model.sanitise import visible
from host.run.worker import Undelivered, Worker
from host.service.denials import ALLOWED, Denials, advice, reason_for
from host.service.dropped import Dropped
from host.service.functions import LOOP, Asked
from host.service.proxy import BadHook, check, function
from host.service.remote_errors import add_hint, may_come_of, rebuild
from host.service.turn import Turns
from sandbox_worker import wire
from sandbox_worker.errors import DENY_RULE, DROPPED, Unsendable
from sandbox_worker.messages import DROP, Ask, Hook, Result

if TYPE_CHECKING:
    from host.model.events import PermissionDecision
    from host.model.grants import Effective
    from host.model.manifest import Manifest
    from host.service.plugin_host import PluginHost

_log: Final = logging.getLogger("host")

_LINES: Final = 1000

RESERVED: Final = frozenset(
    "acall call close denials logs name permissions pid restart restarts state tier version".split()
)
"""Public names of `SandboxedPlugin`: no hook may bear one."""


@final
class SandboxedPlugin:
    """A plugin in its own locked-down interpreter; made by `PluginHost.load`.

    Its instance ``__dict__`` holds one real function per hook, so ``pm.register(plugin)`` works with every pluggy.
    Thread-safe: a worker runs one call at a time, later callers queue.
    """

    def __init__(self, owner: PluginHost, manifest: Manifest, effective: Effective) -> None:
        self.__name__ = manifest.name
        self._owner = owner
        self._manifest = manifest
        self._effective = effective
        self._identity = PluginName(manifest.name, manifest.version)
        self._turn = Turns(self.__name__, self._end_of_turn, self._after_turn)
        self._worker: Worker | None = None
        self._hooks: dict[str, Hook] = {}
        self._fresh: Effective | None = effective
        self._restarts = 0
        self._closed = False
        self._starting = False
        self._logs: list[str] = []
        self._events_lock = threading.Lock()  # who waits for it finds recorded what another thread has drained
        self._dropped = Dropped()
        self._asked = Asked(self.__name__, owner._functions, self._dropped, self._turn, self._refuse)
        self._denials = Denials(self._identity, owner._tell, owner._stamp)
        self._refused: tuple[tuple[int, int], tuple[str, str, str]] | None = None
        """What the broker refused last: (worker, call), (kind, target, reason)."""

    def __repr__(self) -> str:
        return f"<SandboxedPlugin {self.__name__!r} {self.state}>"

    # --- what it is

    @property
    def name(self) -> str:
        """The manifest's name."""
        return self._manifest.name

    @property
    def version(self) -> str:
        """The manifest's version."""
        return self._manifest.version

    @property
    def state(self) -> str:
        """STARTING, READY, BUSY or STOPPED; a worker that died is STOPPED until the next call replaces it."""
        worker = self._worker
        if self._starting:
            return "STARTING"
        if self._closed or worker is None or not worker.usable:
            return "STOPPED"
        return "BUSY" if worker.busy else "READY"

    @property
    def pid(self) -> int | None:
        """The worker's process id, None when there is none that lives."""
        worker = self._worker
        return worker.pid if worker is not None and worker.usable else None

    @property
    def tier(self) -> str:
        """How strong the walls of its worker are."""
        return self._owner.tier

    @property
    def restarts(self) -> int:
        """How often its worker was replaced."""
        return self._restarts

    @property
    def permissions(self) -> dict[str, tuple[str, ...]]:
        """What it effectively may: kind to targets, paths resolved."""
        return {kind: tuple(map(str, rules)) for kind, rules in self._effective.allow.items() if rules}

    def denials(self) -> tuple[PermissionDecision, ...]:
        """What it was refused so far, merged; with origin ``worker``, its own claims."""
        worker = self._worker
        if worker is not None:
            self._take_events(worker)
            self._owner._publish()
        return self._denials.all()

    def logs(self) -> tuple[str, ...]:
        """The last lines that it printed to stdout and stderr, made visible."""
        worker = self._worker
        if worker is not None:
            worker.drain_output()
        lines = [*self._logs, *(worker.log if worker is not None else ())]
        return tuple(map(visible, lines[-_LINES:]))

    # --- calls

    def call(self, hook: str, /, **arguments: Any) -> Any:
        """Call one hook of this plugin. Raises on every failure.

        AttributeError (no such hook), SerializationError (an argument can't cross; nothing was sent), the plugin's own
        exception (PluginError where its class is no builtin), PermissionDenied, WorkerError and its subclasses,
        HostError (closed, or called again from inside a call).
        """
        if hook not in self._hooks:
            raise AttributeError(f"plugin {self.__name__} has no hook {hook!r}")
        items = 0
        for name, value in arguments.items():
            try:
                items += 1 + wire.check(value)
                if items > wire.SENDABLE_ITEMS:
                    raise Unsendable("", f"{type(value).__name__}, with which the arguments are too many items")
            except Unsendable as e:
                text = f"{self.__name__}.{hook}({name}=…): {name}{e.where} is of type {e.type_name}, which can't cross"
                raise SerializationError(text, plugin=self.__name__, hook=hook) from None
        if self._turn.nested:
            with self._turn.nest():
                return self._outcome(hook, *self._deliver(self._waiting(), hook, arguments, again=True))
        with self._turn:
            try:
                reply, worker = self._deliver(None, hook, arguments)
            except Undelivered:  # once: what dies before it reads anything twice is no coincidence
                reply, worker = self._deliver(None, hook, arguments, again=True)
            return self._outcome(hook, reply, worker)

    def _outcome(self, hook: str, reply: Any, worker: Worker) -> Any:
        """What a reply says. Called while the worker is still the caller's."""
        if reply.denials or worker.refusals >= 0:
            self._take_events(worker, (worker.last_call, hook))
        if type(reply) is Result:
            return reply.value
        raise self._remote(reply, worker, hook)

    async def acall(self, hook: str, /, **arguments: Any) -> Any:
        """`call` from a coroutine, on a thread of the loop's executor. Cancelling does not stop a call that runs."""
        import asyncio

        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        context.run(LOOP.set, loop)
        return await loop.run_in_executor(None, context.run, functools.partial(self.call, hook, **arguments))

    def _deliver(
        self, worker: Worker | None, hook: str, arguments: dict[str, Any], *, again: bool = False
    ) -> tuple[Any, Worker]:
        """Send the call to `worker`, or a living one. Undelivered, unless `again`, where nobody read it."""
        try:
            worker = worker or self._live()
        except HostError as e:
            e.hook = hook
            raise
        try:
            return worker.call(hook, arguments, self._answer), worker
        except Unsendable as e:
            raise SerializationError(str(e), plugin=self.__name__, hook=hook) from None
        except Undelivered as e:
            if not again:
                raise
            error: HostError = e.crash
        except HostError as e:
            error = e
        self._take_events(worker, (worker.last_call, hook))
        error.plugin, error.hook = self.__name__, hook
        error.args = (f"plugin {self.__name__} {error}",) if isinstance(error, WorkerError) else error.args
        raise error

    def _remote(self, reply: Any, worker: Worker, hook: str) -> Exception:
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
            if self._dropped.covers(kind, target):
                reason = DROPPED
            elif kind == "host":
                reason = self._asked.reason(target, self._effective)
            else:
                reason = reason_for(kind, target, self._effective)
            hint = advice(kind, target, reason)
            if reason == ALLOWED:  # by the host's own rules it is none, whatever the worker calls it
                reply.cause = None
            elif layer in ("landlock", "seccomp"):  # the others were reported as they were made
                self._denials.add(kind, target, reason, layer, worker.pid, (worker.last_call, hook))
        made = rebuild(reply, self.__name__, hook, worker.pid, hint)
        if isinstance(made, PermissionError) and worker.tier in ("walled", "confined"):
            add_hint(made, lambda path: begins_later(self._effective, worker.rules, path))
        return made

    def _answer(self, ask: Ask) -> list[object]:
        worker = self._worker
        return self._asked.answer(ask, self._effective, worker.turn if worker is not None else 0)

    def _refuse(self, function: str, reason: str) -> None:
        """Record that the plugin asked for a function that it may not call: the host's own word."""
        worker = self._worker
        if worker is not None:
            call = (worker.call_id, worker.hook)
            self._denials.add("host", function, reason, "broker", worker.pid, call, origin="host")

    def _waiting(self) -> Worker:
        """The worker that waits for the function which calls. Raises HostError when it ended meanwhile."""
        worker = self._worker
        if worker is None or not worker.usable:
            raise HostError(f"the worker of plugin {self.__name__} ended meanwhile", plugin=self.__name__)
        return worker

    # --- the worker's life

    def _begin(self) -> None:
        """Start the first worker."""
        with self._turn:
            self._live()

    def _die(self) -> None:
        """In a forked child: no worker, no waiting for a lock that another thread of the parent held."""
        self._closed, self._worker = True, None
        self._events_lock = threading.Lock()
        self._turn.forget()

    def _live(self) -> Worker:
        """The worker to use; a dead one is replaced. Called in turn."""
        self._owner._check_open()
        if self._closed:
            raise HostError(f"plugin {self.__name__} is closed", plugin=self.__name__)
        worker = self._worker
        if worker is not None and worker.usable and worker.connected:
            return worker
        if worker is not None:
            self._retire(worker)
            self._restarts += 1
        self._starting = True
        try:
            self._worker = worker = self._owner._start(self)
        finally:
            self._starting = False
        return worker

    def _adopt(self, hooks: tuple[Hook, ...]) -> None:
        """Take what a worker reports: the first makes the functions, later ones must say the same."""
        try:
            check(hooks, RESERVED)
        except BadHook as e:
            raise PluginStartError(f"plugin {self.__name__}: {e}", plugin=self.__name__) from None
        if not self._hooks:
            self._hooks = {hook.name: hook for hook in hooks}
            for hook in hooks:
                made = function(hook, self.__name__, self._manifest.project, self._from_pluggy)
                self.__dict__[hook.name] = made
        elif [h.shape() for h in hooks] != [h.shape() for h in self._hooks.values()]:
            raise PluginStartError(f"plugin {self.__name__} came back with other hooks", plugin=self.__name__)

    def _from_pluggy(self, hook: str, arguments: dict[str, Any]) -> Any:
        try:
            return self.call(hook, **arguments)
        except (WorkerError, PermissionDenied) as e:
            if self._owner.on_failure == "raise":
                raise
            _log.warning("plugin %s, hook %s: %s", self.__name__, hook, visible(str(e)))
            seq, ts = self._owner._stamp()
            # The class alone: its text may quote arguments, which an audit log must never hold.
            self._owner._tell(PluginFailed(seq, ts, self._identity, WorkerPid(self.pid or 0), hook, type(e).__name__))
            self._owner._publish()
            return None

    def _take_events(self, worker: Worker, call: tuple[int, str] | None = None) -> None:
        """Record the denials that the worker and the broker reported, under `call`, or else the call that runs, if one
        does."""
        if call is None:
            call = (worker.call_id, worker.hook) if worker.busy else (0, "")
        with self._events_lock:
            for kind, target, by_rule in worker.drain_refusals():  # the broker's word: not judged again
                reason = DROPPED if self._dropped.covers(kind, target) else DENY_RULE if by_rule else "no-rule"
                self._denials.add(kind, target, reason, "broker", worker.pid, call, origin="host")
                self._refused = (worker.pid, call[0]), (kind, target, reason)
            for kind, target, _ in worker.drain_events():
                if kind.startswith(DROP):
                    self._give_up(kind.removeprefix(DROP), target, worker)
                    continue
                reason = DROPPED if self._dropped.covers(kind, target) else reason_for(kind, target, self._effective)
                if reason != ALLOWED:
                    self._denials.add(kind, target, reason, "audit_hook", worker.pid, call)

    def _give_up(self, kind: str, target: str, worker: Worker) -> None:
        """Note what the plugin dropped, for it and for all workers to come. A claim, which can only take away."""
        kept = self._dropped.add(kind, target)
        if kept is None:
            return
        self._effective = narrowed(self._effective, [(kind, self._dropped.spelled(kept))])
        if kind in (*NET_KINDS, *FILE_KINDS) and worker.broker is not None:
            worker.broker.narrow(broker_policy(self._effective))
        seq, ts = self._owner._stamp()
        permission = PermissionName(visible(kind, 100), visible(kept, 1000))
        self._owner._tell(PermissionDropped(seq, ts, self._identity, WorkerPid(worker.pid), permission))

    def _narrowed(self, rules: Effective, tmp: str) -> Effective:
        """`rules` less what was dropped, for a worker whose private ``${tmp}``, if it has one, is `tmp`."""
        has_tmp = any(entry.target.startswith("${tmp}") for entry in self._manifest.permissions)
        return narrowed(rules, self._dropped.for_worker(tmp if has_tmp else None))

    def _retire(self, worker: Worker) -> None:
        self._take_events(worker)
        self._owner._stop(self, worker)
        self._logs = [*self._logs, *worker.log][-_LINES:]
        self._worker = None

    def restart(self) -> None:
        """Replace the worker now; a call that runs is waited for."""
        with self._turn:
            if self._worker is not None:
                self._retire(self._worker)
                self._restarts += 1
            self._live()

    def close(self) -> None:
        """End the worker; a call that runs is ended with it. Idempotent."""
        was_closed, self._closed = self._closed, True
        worker = self._worker
        if worker is not None and worker.busy:
            worker.kill("closed")
        if self._turn.mine:
            return  # from a signal handler, in the middle of a call: that call's turn cleans up as it ends
        with self._turn:
            if self._worker is not None:
                self._retire(self._worker)
            if not was_closed:
                self._denials.tell_repeated()
        self._owner._forget(self)

    def _end_of_turn(self) -> None:
        if self._closed and self._worker is not None:
            self._retire(self._worker)
            self._owner._forget(self)

    def _after_turn(self) -> None:
        self._owner._publish()
        self._owner._finish_closing()
