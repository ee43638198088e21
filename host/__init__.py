"""Plughold: plugins in their own locked-down interpreters, called through pluggy as before.

>>> import host
>>> with host.PluginHost("reports", grants="requested") as plugins:
...     plugin = plugins.load("manifests/csv-stats.toml")
...     pm.register(plugin)
"""

from host.errors import (
    CeilingExceeded,
    Drift,
    Escalation,
    Expired,
    GrantError,
    HostError,
    LockdownUnavailable,
    ManifestError,
    Pending,
    PermissionDenied,
    PluginCrashed,
    PluginError,
    PluginQuarantined,
    PluginStartError,
    PluginTimeout,
    ProtocolViolation,
    ResourceLimitExceeded,
    SerializationError,
    WorkerError,
)
from host.model.grants import Grant
from host.model.supervision import RestartPolicy
from host.service.plugin import SandboxedPlugin
from host.service.plugin_host import PluginHost

__all__ = [
    "CeilingExceeded",
    "Drift",
    "Escalation",
    "Expired",
    "Grant",
    "GrantError",
    "HostError",
    "LockdownUnavailable",
    "ManifestError",
    "Pending",
    "PermissionDenied",
    "PluginCrashed",
    "PluginError",
    "PluginHost",
    "PluginQuarantined",
    "PluginStartError",
    "PluginTimeout",
    "ProtocolViolation",
    "ResourceLimitExceeded",
    "RestartPolicy",
    "SandboxedPlugin",
    "SerializationError",
    "WorkerError",
]

for _name in __all__:
    globals()[_name].__module__ = "host"
del _name
