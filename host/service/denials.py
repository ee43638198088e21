"""What one plugin was refused: merged, capped, and told to the audit log and `on_event` as the claims they are."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Final

from host.model.events import CallName, PermissionDecision, PermissionName, PluginName, WorkerPid
from host.model.sanitise import visible
from sandbox_worker.errors import ABSENT, DROPPED, NOT_OFFERED
from sandbox_worker.permissions import ENFORCED_KINDS, RequestError, decide, hint

if TYPE_CHECKING:
    from collections.abc import Callable

    from host.model.grants import Effective

KINDS_OF_RECORD: Final = 500
"""Distinct denials kept per plugin; what comes beyond is counted in one record."""
ALLOWED: Final = "allow-rule"
_BY_MORE: Final = ("native", "net.connect", "net.listen", "run")
"""Kinds that are decided by more than the target that a report names: the file behind a package, the way to the
network, the arguments of a command."""
OVERFLOW: Final = "more denials than are kept"


class Denials:
    """The denials of one plugin. `tell` is called for each record the first time it is seen."""

    def __init__(
        self, plugin: PluginName, tell: Callable[[PermissionDecision], None], stamp: Callable[[], tuple[int, float]]
    ) -> None:
        self._plugin = plugin
        self._tell = tell
        self._stamp = stamp
        self._lock = threading.Lock()
        self._records: dict[tuple[str, str, str, str], PermissionDecision] = {}

    def add(
        self,
        kind: str,
        target: str,
        reason: str,
        layer: str,
        pid: int,
        call: tuple[int, str],
        origin: str = "worker",
    ) -> None:
        """One denial. With origin ``worker`` all but `reason` and what the host knows itself is that worker's claim."""
        kind, target = visible(kind, 100), visible(target, 1000)
        key = (kind, target, layer, call[1])
        with self._lock:
            if key not in self._records and len(self._records) >= KINDS_OF_RECORD:
                kind, target, key = "*", OVERFLOW, ("*", OVERFLOW, layer, "")
            known = self._records.get(key)
            if known is not None:
                self._records[key] = dataclasses.replace(known, count=known.count + 1)
                return
            seq, ts = self._stamp()
            record = self._records[key] = PermissionDecision(
                seq=seq, ts=ts, plugin=self._plugin, worker=WorkerPid(pid), decision="deny", origin=origin,
                layer=layer, call=CallName(*call), permission=PermissionName(kind, target), reason=reason,
                hint=advice(kind, target, reason),
            )  # fmt: skip
        self._tell(record)

    def all(self) -> tuple[PermissionDecision, ...]:
        """Every record, merged: `count` is how often it came."""
        with self._lock:
            return tuple(self._records.values())

    def tell_repeated(self) -> None:
        """Tell once more, with its final count, each that came more often than the one time that was told."""
        for record in self.all():
            if record.count > 1:
                seq, ts = self._stamp()
                self._tell(dataclasses.replace(record, seq=seq, ts=ts))


def advice(kind: str, target: str, reason: str) -> str:
    """The manifest line that would request it, or why none can; the host's own words."""
    if reason == "deny-rule":
        return "a deny rule always wins: only removing it could allow this"
    if reason == DROPPED:
        return "the plugin gave it up; a new PluginHost starts with all that is granted"
    if reason == NOT_OFFERED:
        return "it is granted; the application has to offer it, with @plugins.function"
    return hint(kind, target, ENFORCED_KINDS)


def reason_for(kind: str, target: str, effective: Effective) -> str:
    """Which rule refuses it, by the host's own copy of the rules."""
    try:
        reason = decide(kind, effective.allow.get(kind, ()), effective.deny.get(kind, ()), target).reason
    except (RequestError, ValueError, KeyError):
        return ABSENT
    return ABSENT if reason == ALLOWED and kind in _BY_MORE else reason
