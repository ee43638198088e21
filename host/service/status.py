"""What a plugin is, how it stands, and what it was refused and said: all that can be asked of it without a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from host.model.sanitise import visible
from host.model.supervision import State, together
from host.service.lane import LINES

if TYPE_CHECKING:
    from host.model.events import PermissionDecision
    from host.model.grants import Effective
    from host.model.manifest import Manifest
    from host.run.worker import Worker
    from host.service.denials import Denials
    from host.service.lane import Lane
    from host.service.plugin_host import PluginHost
    from host.service.records import Records
    from host.service.supervisor import Supervisor


class Status:
    """One plugin's."""

    __slots__ = ("_closed", "_denials", "_lanes", "_manifest", "_owner", "_records", "_supervisor")

    _owner: PluginHost
    _manifest: Manifest
    _lanes: tuple[Lane, ...]
    _supervisor: Supervisor
    _denials: Denials
    _records: Records
    _closed: bool

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
        """STARTING, READY, BUSY, BACKOFF, QUARANTINED or STOPPED.

        BACKOFF: it failed repeatedly, and a call waits for the end of a pause before a worker starts. QUARANTINED: it
        failed too often, and no worker starts until somebody clears it. STOPPED: closed, or its worker ended and the
        next call replaces it. With several workers it is that of the one that serves a call soonest.
        """
        if self._closed:
            return State.STOPPED.value
        if self._supervisor.quarantined:
            return State.QUARANTINED.value
        return together(lane.state for lane in self._lanes).value

    @property
    def pid(self) -> int | None:
        """The process id of its worker, of the first that lives where it has several; None when none does."""
        workers = (lane.worker for lane in self._lanes)
        return next((worker.pid for worker in workers if worker is not None and worker.usable), None)

    @property
    def tier(self) -> str:
        """How strong the walls of its worker are."""
        return self._owner.tier

    @property
    def restarts(self) -> int:
        """How often a worker of its was replaced."""
        return sum(lane.restarts for lane in self._lanes)

    @property
    def permissions(self) -> dict[str, tuple[str, ...]]:
        """What it effectively may: kind to targets, paths resolved; ``${tmp}`` is that of the first worker."""
        return {kind: tuple(map(str, rules)) for kind, rules in self._effective.allow.items() if rules}

    @property
    def _effective(self) -> Effective:
        return self._lanes[0].effective

    @property
    def _worker(self) -> Worker | None:
        return self._lanes[0].worker

    def _workers(self) -> list[Worker]:
        return [worker for lane in self._lanes if (worker := lane.worker) is not None]

    def denials(self) -> tuple[PermissionDecision, ...]:
        """What it was refused so far, merged; with origin ``worker``, its own claims."""
        for lane in self._lanes:
            worker = lane.worker
            if worker is not None:
                lane.take_events(worker)
        self._owner._publish()
        return self._denials.all()

    def logs(self) -> tuple[str, ...]:
        """The last lines that it printed or logged, made visible; those of several workers one by one."""
        lines: list[str] = []
        for lane in self._lanes:
            worker, before = lane.worker, lane.lines
            if worker is not None:
                lane.take_events(worker)
                worker.drain_output()
            lines += [*before, *(worker.log if worker is not None else ())]
        self._records.hand_on()
        self._owner._publish()
        return tuple(map(visible, lines[-LINES:]))
