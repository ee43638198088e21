"""Everything that the host raises. Each class carries data, not only text, and one exit status of the command line.

```
HostError(Exception)                         .plugin .hook
 ├ ManifestError(HostError, ValueError)      .path .key
 ├ GrantError ─ Pending, Drift, Escalation, Expired, CeilingExceeded
 ├ LockdownUnavailable(HostError, OSError)   .tier .missing
 ├ SerializationError(HostError, TypeError)
 ├ PluginError                               .remote_type
 ├ WorkerError                               .pid .exit_code .signal .stderr_tail
 │   ├ PluginStartError  ├ PluginCrashed  ├ PluginQuarantined  ├ ProtocolViolation
 │   ├ PluginTimeout(WorkerError, TimeoutError)   └ ResourceLimitExceeded   .limit
 └ PermissionDenied(HostError, PermissionError)   .permission .target .hint .layer
```

Every constructor takes the message, then keywords that are all optional; `str()` is the message. All can be pickled
and copied, notes included. A second base is the builtin that code without knowledge of this package would catch.
"""

from __future__ import annotations

import errno
import functools
from typing import TYPE_CHECKING, ClassVar, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Unpack


class _Where(TypedDict, total=False):
    plugin: str | None
    hook: str | None


class _Process(_Where, total=False):
    pid: int | None
    exit_code: int | None
    signal: int | None
    stderr_tail: str | None


class HostError(Exception):
    """Base of all. `plugin` is the name of the plugin concerned, `hook` that of the hook being called, else None.

    `status` is what the command line exits with for this class.
    """

    status: ClassVar[int] = 1
    _fields: ClassVar[tuple[str, ...]] = ("plugin", "hook")

    def __init__(self, message: str, /, *, plugin: str | None = None, hook: str | None = None) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.hook = hook

    # OSError would put errno and file name into the text.
    def __str__(self) -> str:
        return str(self.args[0])

    # BaseException and OSError rebuild from `args` alone, which leaves out the keywords.
    def __reduce__(self) -> tuple[Callable[..., HostError], tuple[Any, ...], dict[str, Any]]:
        keywords = {name: getattr(self, name) for name in self._fields}
        return functools.partial(type(self), **keywords), self.args, self.__dict__


class ManifestError(HostError, ValueError):
    """A manifest that can't be accepted; nothing was started.

    `path` is the manifest's path as it was given, `key` the dotted key at fault (``permissions.fs.read[0]``), or None
    where the file as a whole is.
    """

    status = 2
    _fields = (*HostError._fields, "path", "key")

    def __init__(
        self, message: str, /, *, path: str | None = None, key: str | None = None, **where: Unpack[_Where]
    ) -> None:
        super().__init__(message, **where)
        self.path = path
        self.key = key


class GrantError(HostError):
    """What the plugin requests is not granted, or no longer; also a malformed grant."""

    status = 3


class Pending(GrantError):
    """A request that nobody has decided on yet."""


class Drift(GrantError):
    """Code or manifest changed since the grant."""

    status = 4


class Escalation(GrantError):
    """An update asks for more than was granted."""

    status = 5


class CeilingExceeded(GrantError):
    """A request above what the operator allows any plugin."""

    status = 6


class Expired(GrantError):
    """The grant has expired or was revoked."""

    status = 7


class LockdownUnavailable(HostError, OSError):
    """This machine can't reach the tier that is needed. `tier` is the one needed, `missing` the layers that lack."""

    status = 8
    _fields = (*HostError._fields, "tier", "missing")

    def __init__(
        self, message: str, /, *, tier: str | None = None, missing: tuple[str, ...] = (), **where: Unpack[_Where]
    ) -> None:
        super().__init__(message, **where)
        self.tier = tier
        self.missing = tuple(missing)


class SerializationError(HostError, TypeError):
    """A value that can't cross to a plugin; raised before anything is sent."""

    status = 2


class PluginError(HostError):
    """The plugin's own code raised. `remote_type` is the dotted name of the exception's class, as the worker claims."""

    status = 11
    _fields = (*HostError._fields, "remote_type")

    def __init__(self, message: str, /, *, remote_type: str | None = None, **where: Unpack[_Where]) -> None:
        super().__init__(message, **where)
        self.remote_type = remote_type


class WorkerError(HostError):
    """The worker failed, whatever its plugin did.

    `pid` is the process, `exit_code` its exit status or None, `signal` the number of the signal that ended it or None,
    `stderr_tail` the end of what it wrote to stderr.
    """

    status = 12
    _fields = (*HostError._fields, "pid", "exit_code", "signal", "stderr_tail")

    def __init__(
        self,
        message: str,
        /,
        *,
        pid: int | None = None,
        exit_code: int | None = None,
        signal: int | None = None,
        stderr_tail: str | None = None,
        **where: Unpack[_Where],
    ) -> None:
        super().__init__(message, **where)
        self.pid = pid
        self.exit_code = exit_code
        self.signal = signal
        self.stderr_tail = stderr_tail


class PluginStartError(WorkerError):
    """The worker could not be started, locked down, or load its plugin."""


class PluginCrashed(WorkerError):
    """The worker died during a call."""


class PluginQuarantined(WorkerError):
    """The plugin crashed too often and is not started again."""


class ProtocolViolation(WorkerError):
    """The worker sent what no worker sends; it was killed."""

    status = 15


class PluginTimeout(WorkerError, TimeoutError):
    """A call took longer than `call_timeout`; the worker was killed."""

    status = 13


class ResourceLimitExceeded(WorkerError):
    """The plugin went over a limit. `limit` is its name in the manifest's `[limits]`."""

    status = 14
    _fields = (*WorkerError._fields, "limit")

    def __init__(self, message: str, /, *, limit: str | None = None, **process: Unpack[_Process]) -> None:
        super().__init__(message, **process)
        self.limit = limit


class PermissionDenied(HostError, PermissionError):
    """The plugin reached for something that it may not have, and did not handle the refusal.

    `permission` is the kind (``fs.read``), `target` what it reached for, `layer` what refused it (``audit_hook``,
    ``landlock``, …), `hint` the manifest line that would request it. `errno` is EACCES; `filename` is the target where
    that is a path.
    """

    status = 9
    _fields = (*HostError._fields, "permission", "target", "hint", "layer")

    def __init__(
        self,
        message: str,
        /,
        *,
        permission: str | None = None,
        target: str | None = None,
        hint: str | None = None,
        layer: str | None = None,
        **where: Unpack[_Where],
    ) -> None:
        super().__init__(message, **where)
        self.permission = permission
        self.target = target
        self.hint = hint
        self.layer = layer
        self.errno = errno.EACCES
        self.strerror = message
        if permission in ("fs.read", "fs.write", "run"):
            self.filename = target
