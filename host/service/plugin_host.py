"""The plugin host: loads manifests, decides what each plugin may, keeps the plugins, ends them all."""

from __future__ import annotations

import atexit
import collections
import functools
import itertools
import logging
import os
import shlex
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from host.errors import HostError, ManifestError, Pending, PluginStartError, WorkerError
from host.model.events import Event, PluginName, WorkerExited, WorkerPid, WorkerStarted
from host.model.grants import Effective, Grant, effective, requested
from host.model.links import PlantedLink, resolver
from host.model.manifest import Manifest, load_manifest
from host.model.supervision import RestartPolicy
from host.run import interpreter as interpreters
from host.run.steps import in_thread
from host.service.functions import TIMEOUT, Functions
from host.service.options import check_types, data_home
from host.service.plugin import SandboxedPlugin
from host.service.supervisor import Supervisor, Surroundings
from host.service.threads import Threads
from host.service.ticket import Ticket
from host.service.workers import Workers
from host.store.audit_log import AuditLog, AuditLogBroken
from host.store.quarantine import Quarantines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pluggy

    from host.run.worker import Worker
    from host.service.ahook import AsyncHooks
    from host.service.lane import Lane

_F = TypeVar("_F", bound="Callable[..., Any]")

_log: Final = logging.getLogger("host")

LOCK_FILE: Final = "plughold.lock"
REQUESTED: Final = "requested"


class PluginHost:
    """Runs the plugins of one pluggy project, each in its own worker. A context manager, plain or async.

    `grants`: ``"requested"`` grants what each manifest asks for (development, tests), a `Grant` is for every plugin, a
    mapping gives one by plugin name. `ceiling`: a `Grant` that none may exceed. `minimum_tier`: below it nothing
    starts. `tier`: None for the strongest that this machine reaches, or the one to force. `on_failure`: ``"skip"``
    lets a hook call go on without a plugin that failed, ``"raise"`` raises. `on_event` gets frozen records
    (`host.model.events`) one at a time and in order, while a call into this package runs, with no lock held; what it
    raises is logged. `audit`: path of a JSON Lines file; what can't be audited does not run. `start`:
    ``"exec"`` executes an interpreter for each worker, ``"fork"`` copies one that waits for it, behind the same walls:
    faster and smaller, but memory is then laid out alike in all workers (SECURITY.md); in tier ``hooked`` it is exec.
    `data`: folder for the plugins' private data, instead of ``$XDG_DATA_HOME/plughold/PROJECT``; what is quarantined is
    noted there too. `restart_policy`: what failures cost a plugin.

    Raises ValueError for an option that is none, LockdownUnavailable where the tier can't be reached, OSError where
    the audit log can't be opened.
    """

    def __init__(
        self,
        project_name: str,
        *,
        grants: str | Grant | Mapping[str, Grant] = LOCK_FILE,
        ceiling: Grant | None = None,
        minimum_tier: str = "confined",
        tier: str | None = None,
        on_failure: Literal["skip", "raise"] = "skip",
        on_event: Callable[[Event], object] | None = None,
        audit: str | os.PathLike[str] | None = None,
        start: Literal["exec", "fork"] = "exec",
        data: str | os.PathLike[str] | None = None,
        restart_policy: RestartPolicy = RestartPolicy(),  # noqa: B008 - frozen
    ) -> None:
        if on_failure not in ("skip", "raise") or start not in ("exec", "fork"):
            raise ValueError('on_failure is "skip" or "raise", start is "exec" or "fork"')
        check_types(project_name, grants, ceiling, on_event)
        self.project_name: Final = project_name
        self.on_failure: Final = on_failure
        self._grants = grants
        self._ceiling = ceiling
        self._on_event = on_event
        self._plugins: dict[str, SandboxedPlugin] = {}
        self._writable: set[str] = set()  # by any plugin so far: what one put there outlives it
        self._functions = Functions()
        self._threads = Threads()
        self._lock = threading.Lock()
        self._sequence = itertools.count(1)
        self._owner = os.getpid()
        self._closed = False
        self._untold: collections.deque[Event] = collections.deque()
        self._telling = threading.Lock()  # never waited for
        self._finishing = threading.RLock()  # a signal handler may close in the middle of it
        self._audit = AuditLog(audit) if audit is not None else None
        self._unaudited: OSError | None = None
        try:
            folder = (Path(data) if data is not None else data_home() / project_name).absolute()
            self._workers = Workers(minimum_tier, tier, folder, forks=start == "fork")
        except BaseException:
            if self._audit is not None:
                self._audit.close()
            raise
        options = f" --data {shlex.quote(str(folder))}" if data is not None else ""
        self._surroundings = Surroundings(restart_policy, Quarantines(folder), self._tell, self._stamp, options)
        self._supervisors: dict[str, Supervisor] = {}
        _hosts.add(self)

    @property
    def tier(self) -> str:
        """The tier that its workers run at."""
        return self._workers.tier

    def load(self, manifest: str | os.PathLike[str]) -> SandboxedPlugin:
        """Verify the manifest, decide what it may, start and lock down its worker, discover its hooks.

        Raises ManifestError, GrantError and its subclasses, LockdownUnavailable, PluginStartError, ValueError (a
        plugin of that name is loaded already), HostError (closed).
        """
        self._check_open()
        found = load_manifest(manifest)
        if found.project != self.project_name:
            text = f"{found.file}: plugin.project is {found.project!r}, and this host is for {self.project_name!r}"
            raise ManifestError(text, path=str(found.file), key="plugin.project", plugin=found.name)
        variables = self._workers.variables(found)
        effective, supervisor = self._decide(found, variables), self._supervisor_for(found)
        with self._lock:
            if found.name in self._plugins:
                raise ValueError(f"a plugin called {found.name!r} is loaded already")
            self._plugins[found.name] = plugin = SandboxedPlugin(self, found, effective, supervisor)
        try:
            plugin._begin()
        except BaseException:
            self._forget(plugin)
            raise
        return plugin

    def function(self, name: str, *, timeout: float = TIMEOUT) -> Callable[[_F], _F]:
        """Decorator: offer a function, plain or async, to plugins whose effective ``host`` permission covers `name`.

        It is called with keyword arguments of plain data and returns plain data; in it the plugin that asked may be
        called again. What it raises arrives in the plugin as text of a builtin class. A plain one runs on the thread
        of `call`, or one of the host's; an async one on the loop of `acall`, or one of its own. `timeout`: seconds one
        call of a plugin may spend waiting for functions; an async one is cancelled then, a plain one can't be: the
        plugin's next gets a TimeoutError.

        Raises ValueError for a name that is none or taken, or a timeout that is not positive; TypeError for what can't
        be called.
        """
        return self._functions.offer(name, timeout)

    def ahook(self, manager: pluggy.PluginManager) -> AsyncHooks:
        """The hooks of `manager` for coroutines: ``await plugins.ahook(pm).render(text="# hi")``.

        Results are those of ``pm.hook``, and so is `on_failure`; plugins in workers that follow each other run at the
        same time. HostError for a historic hook.
        """
        from host.service.ahook import AsyncHooks

        return AsyncHooks(manager)

    def close(self) -> None:
        """End every worker, the watcher and the spawner. Idempotent; a call that runs is ended with its worker."""
        if self._owner != os.getpid():
            return
        self._closed = True
        for plugin in list(self._plugins.values()):
            plugin.close()
        self._finish_closing()

    def _finish_closing(self) -> None:
        """The rest of `close`, once no plugin has a worker: one that a signal handler closed in a call ends with it."""
        if not self._closed or any(plugin._workers() for plugin in self._plugins.values()):
            return
        with self._finishing:
            self._workers.close()
            if self._audit is not None:
                self._audit.close()
        self._threads.close()
        self._publish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        from host.service.aio import running

        steps = in_thread(self.close)
        threads = Threads()  # its own are about to end
        try:
            await running().drive(steps, Ticket(), threads).finish()
        finally:
            threads.close()

    def __iter__(self) -> Iterator[SandboxedPlugin]:
        return iter(list(self._plugins.values()))

    def _supervisor_for(self, manifest: Manifest) -> Supervisor:
        """The plugin's supervisor, which remembers what happened the last time that it was loaded."""
        with self._lock:
            known = self._supervisors.get(manifest.name)
            if known is None or not known.is_for(manifest):
                known = self._supervisors[manifest.name] = Supervisor(manifest, self._surroundings)
            return known

    # --- what a plugin may

    def _decide(self, manifest: Manifest, variables: Mapping[str, str]) -> Effective:
        implied = [("fs.read", str(manifest.path))] if manifest.outside else []
        if manifest.environment == "host":
            implied += [("fs.read", folder) for folder in interpreters.site_packages()]
        requests = requested(manifest, variables, implied)
        asked = (request.target for request in requests if request.kind == "fs.write" and request.target != "*")
        readlink = functools.cache(_readlink)
        try:
            writable = {*self._writable, variables["data"], *map(resolver((), readlink), asked)}
            found = effective(
                manifest,
                requests,
                self._grant_for(manifest),
                self._ceiling,
                variables,
                resolver(writable, readlink),
            )
        except PlantedLink as e:
            raise PluginStartError(f"plugin {manifest.name} is not started: {e}", plugin=manifest.name) from None
        self._writable |= {"/" if rule.text == "*" else rule.text for rule in found.allow.get("fs.write", ())}
        return found

    def _grant_for(self, manifest: Manifest) -> Grant | None:
        """The plugin's grant, None for all that it requests."""
        grants = self._grants
        if isinstance(grants, Grant):
            return grants
        if grants == REQUESTED:
            return None
        if isinstance(grants, str | os.PathLike):
            text = (
                f"{manifest.name} is not granted: this version keeps no lock file ({grants}). For development and "
                'tests, PluginHost(..., grants="requested") or --grants requested grants what the manifest asks for; '
                "an application may also pass a host.Grant"
            )
            raise Pending(text, plugin=manifest.name)
        if manifest.name not in grants:
            raise Pending(f"{manifest.name} is not among the grants that the application gave", plugin=manifest.name)
        return grants[manifest.name]

    # --- for its plugins

    def _start(self, plugin: SandboxedPlugin, lane: Lane, born: list[Worker]) -> Worker:
        """A new worker for `plugin` at `lane`, which has reported its hooks; `born` as `Workers.start` has it."""
        self._check_open()
        started, name, failed = time.monotonic(), plugin.__name__, []
        has_tmp = any(entry.target.startswith("${tmp}") for entry in plugin._manifest.permissions)

        def decide(variables: dict[str, str]) -> Effective:
            known, plugin._fresh = plugin._fresh, None  # by `load`, just now
            if known is None or variables != self._workers.variables(plugin._manifest):
                known = self._decide(plugin._manifest, variables)
            return lane.decided(known, variables["tmp"] if has_tmp else None)

        def on_failed(worker: Worker) -> None:
            self._say_ended(plugin, worker)
            failed.append(worker)

        try:
            worker = self._workers.start(plugin._manifest, decide, lane.take_events, self._noticed, on_failed, born)
        except WorkerError as e:
            e.plugin, e.args = name, (e.args[0] if str(e).startswith(f"plugin {name} ") else f"plugin {name} {e}",)
            if failed:
                lane.failed_to_start(failed[0], e)
            raise
        try:
            plugin._adopt(worker.hooks)
        except BaseException as e:
            self._stop(plugin, born.pop())
            if isinstance(e, WorkerError):
                lane.failed_to_start(worker, e)
            raise
        seq, ts = self._stamp()
        took = round(time.monotonic() - started, 4)
        self._tell(WorkerStarted(seq, ts, plugin._identity, WorkerPid(worker.pid), self.tier, took))
        return worker

    def _stop(self, plugin: SandboxedPlugin, worker: Worker) -> None:
        self._workers.stop(worker)
        self._say_ended(plugin, worker)

    def _say_ended(self, plugin: SandboxedPlugin, worker: Worker) -> None:
        seq, ts = self._stamp()
        pid, why = WorkerPid(worker.pid), worker.ended or ""
        self._tell(WorkerExited(seq, ts, plugin._identity, pid, worker.exit_code, worker.signal, why))

    @staticmethod
    def _noticed(worker: Worker) -> None:
        """The watcher saw a worker end by itself: the next call replaces it."""
        worker.kill("")

    def _forget(self, plugin: SandboxedPlugin) -> None:
        with self._lock:
            if self._plugins.get(plugin.__name__) is plugin:
                del self._plugins[plugin.__name__]

    def _stamp(self) -> tuple[int, float]:
        return next(self._sequence), round(time.time(), 6)

    def _tell(self, event: Event) -> None:
        """To the audit log at once; to `on_event` by the next `_publish`. From any thread, never raises."""
        if self._audit is not None:
            try:
                self._audit.write(event)
            except OSError as e:
                self._unaudited = e
                _log.error("the audit log can't be written: %s", e)
        if self._on_event is not None:
            self._untold.append(event)

    def _publish(self) -> None:
        """Give `on_event` what waits for it, one at a time and in order. Called with no lock held.

        Whoever finds another thread at it, or itself further up the stack, leaves its events to that one.
        """
        while self._untold and self._telling.acquire(blocking=False):
            try:
                while self._untold:
                    self._tell_application(self._untold.popleft())
            finally:
                self._telling.release()

    def _tell_application(self, event: Event) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:  # noqa: BLE001 - its own affair: the plugins go on
                _log.exception("on_event raised for %s", event.event)

    def _check_open(self) -> None:
        if self._unaudited is not None:
            raise AuditLogBroken(f"nothing runs unaudited: the audit log can't be written ({self._unaudited.strerror})")
        if self._closed:
            name = f"PluginHost({self.project_name!r})"
            forked = self._owner != os.getpid()
            raise HostError(f"a forked child can't use its parent's {name}" if forked else f"{name} is closed")

    def _abandon(self) -> None:
        """In a forked child: this host is dead here, and nothing of the parent's is touched."""
        self._closed = True
        self._finishing = threading.RLock()
        self._threads.forget()
        self._untold.clear()
        plugins = list(self._plugins.values())
        self._workers.abandon(worker for plugin in plugins for worker in plugin._workers())
        for plugin in plugins:
            plugin._die()
        if self._audit is not None:
            self._audit.abandon()


def _readlink(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


_hosts: Final[weakref.WeakSet[PluginHost]] = weakref.WeakSet()


def _after_fork() -> None:
    for host in list(_hosts):
        host._abandon()


def _at_exit() -> None:
    """End what the application left open: its workers' temporary folders would outlive it."""
    for host in list(_hosts):
        host.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)


__all__ = ["PluginHost", "PluginName"]
