"""One plugin as the application holds it: an object that any pluggy manager registers, whose hooks run in workers."""

from __future__ import annotations

import logging
import os
import sys
import threading
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, final

from host.errors import HostError, PermissionDenied, PluginStartError, SerializationError, WorkerError
from host.model.events import PluginFailed, PluginName, WorkerPid
from host.model.sanitise import visible
from host.run.worker import Undelivered
from host.service.denials import Denials
from host.service.dropped import Dropped
from host.service.functions import Asked
from host.service.lane import READY, Lane
from host.service.proxy import BadHook, check, function
from host.service.records import Records
from host.service.status import Status
from host.service.turn import Turns
from sandbox_worker import wire
from sandbox_worker.errors import Unsendable

if TYPE_CHECKING:
    from collections.abc import Generator

    from host.model.grants import Effective
    from host.model.manifest import Manifest
    from host.service.plugin_host import PluginHost
    from host.service.supervisor import Supervisor
    from host.service.ticket import Ticket
    from sandbox_worker.messages import Hook

_log: Final = logging.getLogger("host")

FLAT: Final = wire.FLAT

RESERVED: Final = frozenset(
    "acall call cancel close denials logs name permissions pid ping restart restarts state stream tier version".split()
)
"""Public names of `SandboxedPlugin`: no hook may bear one."""


@final
class SandboxedPlugin(Status):
    """A plugin in its own locked-down interpreter, or several; made by `PluginHost.load`.

    Its instance ``__dict__`` holds one real function per hook, so ``pm.register(plugin)`` works with every pluggy.
    Thread-safe: a worker runs one call at a time, later callers queue. With ``instances = N`` in its manifest it has N
    workers, a call goes to one that is free, and each knows only of its own calls.
    """

    __slots__ = ("__dict__", "__weakref__", "_dropped", "_fresh", "_hooks", "_identity", "_turns")

    def __init__(self, owner: PluginHost, manifest: Manifest, effective: Effective, supervisor: Supervisor) -> None:
        self.__name__ = manifest.name
        self._owner = owner
        self._manifest = manifest
        self._identity = PluginName(manifest.name, manifest.version)
        self._supervisor = supervisor
        self._hooks: dict[str, Hook] = {}
        self._fresh: Effective | None = effective
        self._closed = False
        self._dropped = Dropped()
        self._records = Records(self.__name__)
        self._denials = Denials(self._identity, owner._tell, owner._stamp)
        self._lanes: tuple[Lane, ...] = tuple(Lane(self, effective) for _ in range(manifest.instances))
        self._turns: Turns[Lane] = Turns(self.__name__, self._lanes, self._end_of_turn, self._after_turn)
        for lane in self._lanes:
            lane.connect(Asked(self.__name__, owner._functions, self._dropped, self._turns, lane, lane.refuse))

    def __repr__(self) -> str:
        return f"<SandboxedPlugin {self.__name__!r} {self.state}>"

    # --- calls

    def call(self, hook: str, /, **arguments: Any) -> Any:  # noqa: C901 - each call would pay for a function more
        """Call one hook of this plugin. Raises on every failure.

        AttributeError (no such hook), SerializationError (an argument can't cross; nothing was sent), the plugin's own
        exception (PluginError where its class is no builtin), PermissionDenied, WorkerError and its subclasses
        (PluginQuarantined: it failed too often and is not started any more), HostError (closed, or called again from
        inside a call).
        """
        asyncio = sys.modules.get("asyncio")
        if asyncio is not None and asyncio._get_running_loop() is not None:
            from host.service.aio import warn_of_blocking

            warn_of_blocking(self.__name__, hook)
        flat = hook in self._hooks
        for value in arguments.values():
            if type(value) not in FLAT:
                flat = False
                break
        if not flat:
            self._check_arguments(hook, arguments)
        turns, me = self._turns, get_ident()
        lane = turns.grab(me)
        if lane is None:
            return self._call(hook, arguments, None)
        try:
            if lane.life.state is READY:
                return lane.call(hook, arguments)
        except Undelivered:
            pass
        except SerializationError:
            if flat:
                self._check_arguments(hook, arguments)  # says more
            raise
        finally:
            try:
                if self._closed or self._supervisor.quarantine is not None:
                    turns.end(lane)
                else:
                    turns.let_go(me)
                    if self._records.waiting or self._owner._untold or self._closed:
                        self._after_turn()
            except BaseException:  # Ctrl-C: else nobody ever gets a turn again
                turns.end(lane)
                raise
        return self._call(hook, arguments, None)

    def _check_arguments(self, hook: str, arguments: dict[str, Any]) -> None:
        """Raise AttributeError, SerializationError for what can't be called so; large values become Apart."""
        if hook not in self._hooks:
            raise AttributeError(f"plugin {self.__name__} has no hook {hook!r}")
        items = 0
        for name, value in arguments.items():
            try:
                items += 1 + wire.check(value)
                if items > wire.SENDABLE_ITEMS:
                    items, arguments[name] = wire.apart(items, value)
            except Unsendable as e:
                text = f"{self.__name__}.{hook}({name}=…): {name}{e.where} is of type {e.type_name}, which can't cross"
                raise SerializationError(text, plugin=self.__name__, hook=hook) from None

    def _call(self, hook: str, arguments: dict[str, Any], ticket: Ticket | None) -> Any:
        if self._turns.nested:
            with self._turns.nest() as lane:
                return lane.nested(hook, arguments, ticket)
        for (
            _
        ) in self._lanes:  # at each place an idle worker may lie dead; a new one that dies as well is no coincidence
            try:
                return self._in_turn(hook, arguments, ticket)
            except Undelivered:
                continue
        try:
            return self._in_turn(hook, arguments, ticket)
        except Undelivered as e:
            raise e.crash from None

    def _in_turn(self, hook: str, arguments: dict[str, Any], ticket: Ticket | None) -> Any:
        lane = self._turns.begin()
        try:
            return lane.call(hook, arguments, ticket)
        finally:
            try:
                self._turns.end(lane)
            except BaseException:  # Ctrl-C: else nobody ever gets a turn again
                self._turns.end(lane)
                raise

    async def acall(self, hook: str, /, **arguments: Any) -> Any:
        """`call` from a coroutine, on asyncio or trio; the loop goes on meanwhile.

        Cancelled before its turn came, the call is not made. Cancelled while it runs, the plugin is asked to stop, as
        by `cancel`, and the coroutine ends with the call, at the latest when the worker was ended for it.
        """
        from host.service.aio import call

        self._check_arguments(hook, arguments)
        return await call(self, hook, arguments)

    def cancel(self) -> None:
        """Ask the calls that run to stop; from any thread. Their callers get a HostError.

        The plugin sees it where it asks (`context.cancelled`), calls the application or yields an item; when it has
        not ended after 0.25 s, its worker is ended. What it returns meanwhile counts. Without a call nothing happens.
        """
        self._check_not_forked()
        for lane in self._lanes:
            lane.cancel()

    def stream(self, hook: str, /, **arguments: Any) -> Generator[Any]:
        """Call a hook that returns a generator, or another iterator, and iterate over what it yields as it comes.

        The call begins with the first item that is asked for and keeps the worker until the last one; closing the
        iterator cancels it. The plugin is at most 16 items ahead. `call_timeout` is for each item that is waited for,
        `result_size` for each item. Raises as `call`, while it is iterated over.
        """
        self._check_arguments(hook, arguments)
        return self._streaming(hook, arguments)

    def _streaming(self, hook: str, arguments: dict[str, Any]) -> Generator[Any]:
        owner, lane = threading.get_ident(), self._turns.begin()  # in this order: Ctrl-C may come between
        try:
            yield from lane.stream(hook, arguments)
        finally:
            try:
                self._turns.end(lane, owner)
            except BaseException:  # Ctrl-C: else nobody ever gets a turn again
                self._turns.end(lane, owner)
                raise

    def ping(self, timeout: float = 1.0) -> bool:
        """Whether its worker lives and answers within `timeout` seconds, each of several; one that does not is ended.

        One that runs a call counts as alive, for its call has a time of its own. Starts none.
        """
        self._check_not_forked()
        answers = [self._ping(lane, timeout) for lane in self._lanes]
        return all(answers)

    def _ping(self, lane: Lane, timeout: float) -> bool:
        if not self._turns.try_begin(lane):
            return True
        try:
            return timeout > 0 and lane.ping(timeout)
        finally:
            try:
                self._turns.end(lane)
            except BaseException:  # Ctrl-C: else nobody ever gets a turn again
                self._turns.end(lane)
                raise

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
            self._skip(hook, e)

    async def _from_ahook(self, hook: str, arguments: dict[str, Any]) -> Any:
        try:
            return await self.acall(hook, **arguments)
        except (WorkerError, PermissionDenied) as e:
            if self._owner.on_failure == "raise":
                raise
            self._skip(hook, e)

    def _skip(self, hook: str, error: HostError) -> None:
        """Say that a hook call goes on without this plugin."""
        _log.warning("plugin %s, hook %s: %s", self.__name__, hook, visible(str(error)))
        seq, ts = self._owner._stamp()
        # The class alone: its text may quote arguments, which an audit log must never hold.
        pid = WorkerPid(getattr(error, "pid", None) or self.pid or 0)
        self._owner._tell(PluginFailed(seq, ts, self._identity, pid, hook, type(error).__name__))
        self._owner._publish()

    # --- its workers' life

    @property
    def _settled(self) -> bool:
        """Whether there is nothing to wait for any more: every call fails at once."""
        return self._closed or self._supervisor.quarantined

    def _begin(self) -> None:
        """Start the first workers."""
        try:
            for lane in self._lanes:
                with self._turns.turn(lane):
                    lane.live()
        except BaseException:
            self.close()
            raise

    def _die(self) -> None:
        """In a forked child: no worker, no waiting for a lock that another thread of the parent held."""
        self._closed = True
        for lane in self._lanes:
            lane.forget_threads()
        self._turns.forget()
        self._supervisor.forget_threads()

    def _check_not_forked(self) -> None:
        if self._owner._owner != os.getpid():
            self._owner._check_open()

    def _check_open(self) -> None:
        self._owner._check_open()
        if self._closed:
            raise HostError(f"plugin {self.__name__} is closed", plugin=self.__name__)

    def restart(self) -> None:
        """Replace its workers now, and forget all failures, quarantine too; calls that run are waited for."""
        for lane in self._lanes:
            with self._turns.turn(lane):
                self._check_open()
                self._supervisor.clear("restart")
                lane.retire()
                lane.live()

    def close(self) -> None:
        """End its workers; calls that run are ended with them. Idempotent."""
        was_closed, self._closed = self._closed, True
        for worker in self._workers():
            if worker.busy:
                worker.kill("closed")
        self._turns.hurry()
        self._turns.unstick()
        if self._turns.mine:
            return  # from a signal handler, say, in the middle of a call: that call's turn cleans up as it ends
        for lane in self._lanes:
            with self._turns.turn(lane):
                lane.retire()
        if not was_closed:
            self._denials.tell_repeated()
        self._owner._forget(self)

    def _end_of_turn(self, lane: Lane) -> None:
        if self._settled:
            lane.retire()
            self._turns.hurry()

    def _after_turn(self) -> None:
        owner = self._owner
        if self._records.waiting:
            self._records.hand_on()
        if owner._untold:
            owner._publish()
        if self._settled:
            self._settle()

    def _settle(self) -> None:
        """End the workers that are idle, and the host where all of it is closed."""
        for lane in self._lanes:
            if lane.worker is not None and self._turns.try_begin(lane):
                self._turns.end(lane)
        if self._closed and not self._workers():
            self._owner._forget(self)
        self._owner._publish()
        self._owner._finish_closing()
