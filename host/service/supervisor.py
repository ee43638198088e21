"""What one plugin's failures lead to: a pause, then quarantine, told as events and kept over all processes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Final

from host import errors
from host.model.events import PluginCleared, PluginName, PluginPaused, PluginQuarantined, WorkerPid
from host.model.sanitise import visible
from host.model.supervision import Change, Failures, Quarantine, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from host.errors import WorkerError
    from host.model.events import Event
    from host.model.manifest import Manifest
    from host.model.supervision import Life, RestartPolicy
    from host.store.quarantine import Quarantines

_log: Final = logging.getLogger("host")

_REASON_MAX: Final = 300
_NOBODY: Final = WorkerPid(0)


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What all supervisors of one plugin host share. `options` are what `plughold clear` needs to find its data."""

    policy: RestartPolicy
    kept: Quarantines
    tell: Callable[[Event], None]
    stamp: Callable[[], tuple[int, float]]
    options: str


class Supervisor:
    """One plugin, over all times that it is loaded into a host. Thread-safe."""

    def __init__(self, manifest: Manifest, around: Surroundings) -> None:
        """Take up a quarantine that is kept for this version of the plugin, as this manifest describes it."""
        self._name: Final = manifest.name
        self._version: Final = manifest.version
        self._manifest: Final = str(manifest.file)
        self._around: Final = around
        self._lock = threading.Lock()
        self.failures = Failures(around.policy)
        self.quarantine: Quarantine | None = None
        self._is_kept = False
        self._recall()

    def is_for(self, manifest: Manifest) -> bool:
        """Whether it has seen this very plugin: another version starts without a past."""
        return (self._version, self._manifest) == (manifest.version, str(manifest.file))

    def forget_threads(self) -> None:
        """In a forked child: nobody holds the lock."""
        self._lock = threading.Lock()

    @property
    def quarantined(self) -> bool:
        """Whether no worker is started any more, as far as this host has heard."""
        return self.quarantine is not None

    def _recall(self) -> None:
        kept = self._around.kept.get(self._name)
        if kept is not None and (kept.version, kept.manifest) == (self._version, self._manifest):
            self.quarantine, self._is_kept = kept, True

    def check(self, life: Life) -> None:
        """Let a worker start, unless the plugin is quarantined: then raise PluginQuarantined.

        Here `plughold clear` is noticed, which takes away what is kept.
        """
        quarantine = self.quarantine
        if quarantine is not None and self._is_kept and self._around.kept.get(self._name) is None:
            self.clear("clear")
            quarantine = None
        if quarantine is not None:
            if life.state is not State.QUARANTINED:
                life.on(Change.QUARANTINE)
            raise errors.PluginQuarantined(self._text(quarantine), plugin=self._name)
        if life.state is State.QUARANTINED:
            life.on(Change.CLEAR)

    def _text(self, quarantine: Quarantine) -> str:
        since = dt.datetime.fromtimestamp(quarantine.since, dt.UTC)
        return (
            f"plugin {self._name} is quarantined since {since:%Y-%m-%d %H:%M:%S} UTC, after {quarantine.failures} "
            f"failures that no answered call made up for; the last: {quarantine.reason}. {self._advice()}"
        )

    def _advice(self) -> str:
        if self._is_kept:
            command = f"plughold clear {self._name}{self._around.options}"
            return f"Once that is mended, `{command}` or restart() of the plugin starts it anew"
        return "Once that is mended, restart() of the plugin starts it anew, as does a new PluginHost"

    def answered(self) -> None:
        """A worker of its answered a call."""
        if self.failures:
            with self._lock:
                self.failures.make_up()

    def failed(self, life: Life, error: WorkerError) -> None:
        """A worker of its failed with `error`: that has its price at the place `life`."""
        around, pid = self._around, WorkerPid(error.pid or 0)
        with self._lock:
            now = time.monotonic()
            cost = self.failures.add(now, random.random())  # noqa: S311 - spreads load, guards nothing
            life.fail(cost, now)
            new = cost.quarantine and self.quarantine is None
            if new:
                self.quarantine = self._made(error, cost.count)
        identity = PluginName(self._name, self._version)
        if cost.pause:
            around.tell(PluginPaused(*around.stamp(), identity, pid, cost.count, round(cost.pause, 3)))
        if new:
            self._keep()
            around.tell(PluginQuarantined(*around.stamp(), identity, pid, cost.count, type(error).__name__))

    def _made(self, error: WorkerError, count: int) -> Quarantine:
        """The first line of the error says what happened; a traceback of the plugin's may follow it."""
        line = str(error).partition("\n")[0].removeprefix(f"plugin {self._name} ").removesuffix(":")
        reason = visible(f"{type(error).__name__}: {line}", _REASON_MAX)
        return Quarantine(self._name, self._version, self._manifest, round(time.time(), 3), count, reason)

    def _keep(self) -> None:
        if self.quarantine is None:
            return
        try:
            self._around.kept.put(self.quarantine)
            self._is_kept = True
        except OSError as e:
            self._is_kept = False
            _log.warning("the quarantine of plugin %s is kept in memory alone: %s", self._name, e.strerror)

    def clear(self, by: str) -> None:
        """Start anew, whatever happened before; `by` is ``restart`` or ``clear``."""
        with self._lock:
            self.failures.forget()
            was, self.quarantine = self.quarantine, None
        if was is not None:
            if self._is_kept:
                with contextlib.suppress(OSError):
                    self._around.kept.remove(self._name)
            around = self._around
            around.tell(PluginCleared(*around.stamp(), PluginName(self._name, self._version), _NOBODY, by))
