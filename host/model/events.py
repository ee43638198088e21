"""What the host tells `on_event` and the audit log: frozen records, each also readable like the JSON it becomes."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

VERSION = 1


class Record:
    """Base of all records: ``record.plugin.name`` and ``record["plugin"]["name"]`` are the same."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        if key.startswith("_") or not hasattr(self, key):
            raise KeyError(key)
        return getattr(self, key)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, nested records included."""
        return {
            field.name: value.as_dict() if isinstance(value := getattr(self, field.name), Record) else value
            for field in dataclasses.fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        }


@dataclasses.dataclass(frozen=True, slots=True)
class PluginName(Record):
    """Which plugin."""

    name: str
    version: str


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerPid(Record):
    """Which process."""

    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class CallName(Record):
    """Which call: `id` counts from 1 in each worker and is 0 outside a call; `hook` is "" there."""

    id: int
    hook: str


@dataclasses.dataclass(frozen=True, slots=True)
class PermissionName(Record):
    """What was asked for. `target` is a plugin's claim, made visible and bounded."""

    kind: str
    target: str


@dataclasses.dataclass(frozen=True, slots=True)
class Event(Record):
    """Base of what `on_event` gets. `seq` counts per plugin host, `ts` is Unix time in seconds."""

    v: ClassVar[int] = VERSION
    event: ClassVar[str]
    seq: int
    ts: float
    plugin: PluginName
    worker: WorkerPid

    def line(self) -> dict[str, Any]:
        """The audit log's line for it."""
        fields = self.as_dict()
        head = {"v": self.v, "seq": fields.pop("seq"), "ts": fields.pop("ts"), "event": self.event}
        return head | fields


@dataclasses.dataclass(frozen=True, slots=True)
class PermissionDecision(Event):
    """A permission was decided. With origin ``worker`` it is that worker's claim.

    `hint` is the manifest line that would request it, for whoever reads the record; the log has no need of it.
    """

    event: ClassVar[str] = "permission.decision"
    decision: str
    origin: str
    layer: str
    call: CallName
    permission: PermissionName
    reason: str
    hint: str
    count: int = 1

    def line(self) -> dict[str, Any]:
        """The audit log's line for it."""
        return {name: value for name, value in Event.line(self).items() if name != "hint"}


@dataclasses.dataclass(frozen=True, slots=True)
class PermissionDropped(Event):
    """The plugin gave a permission up: the next worker is started without it. Target ``*`` is all of the kind."""

    event: ClassVar[str] = "permission.dropped"
    permission: PermissionName


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerStarted(Event):
    """A worker is locked down, proven, and has loaded its plugin. `seconds` is how long that took."""

    event: ClassVar[str] = "worker.started"
    tier: str
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class WorkerExited(Event):
    """A worker is gone: with an exit code or by a signal, and why the host ended it if it did."""

    event: ClassVar[str] = "worker.exited"
    exit_code: int | None
    signal: int | None
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class PluginFailed(Event):
    """A hook call went on without this plugin (`on_failure="skip"`); `error` is the exception's class."""

    event: ClassVar[str] = "plugin.failed"
    hook: str
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class PluginPaused(Event):
    """A worker failed again, the `failures`th time within the window: the next one starts after `seconds`."""

    event: ClassVar[str] = "plugin.paused"
    failures: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class PluginQuarantined(Event):
    """Workers failed too often: none is started any more. `error` is the last failure's class."""

    event: ClassVar[str] = "plugin.quarantined"
    failures: int
    error: str


@dataclasses.dataclass(frozen=True, slots=True)
class PluginCleared(Event):
    """The plugin is not quarantined any more: somebody restarted or cleared it (`by`, ``restart`` or ``clear``)."""

    event: ClassVar[str] = "plugin.cleared"
    by: str
