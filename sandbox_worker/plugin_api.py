"""What a plugin's author may import from us; everything here also works outside a worker, in the author's own tests.

`HookimplMarker` marks hook implementations as pluggy's does, without importing pluggy (its import costs a worker more
than three times its own start). A plugin that imports pluggy instead works just as well.

`permissions` answers what the plugin may and gives permissions up: ``permissions.has("fs.read", path)``,
``permissions.list()``, ``permissions.drop("fs.write")``. `context` says what it is: name, version, data folder, logger.
`host` calls functions that the application offers: ``host.call("storage.get", key="x")``.
"""

from __future__ import annotations

from sandbox_worker.author import Context, Permissions
from sandbox_worker.errors import Cancelled, HostFunctionError, ImportDenied, InterpreterDenied, PermissionDenied
from sandbox_worker.functions import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, TypeVar, overload

    _F = TypeVar("_F", bound=Callable[..., Any])

__all__ = [
    "Cancelled",
    "Context",
    "HookimplMarker",
    "Host",
    "HostFunctionError",
    "ImportDenied",
    "InterpreterDenied",
    "PermissionDenied",
    "Permissions",
    "context",
    "host",
    "permissions",
]

permissions: Final = Permissions()
"""What this plugin may, as it stands now."""
context: Final = Context()
"""What this plugin is."""
host: Final = Host()
"""The application that this plugin runs for."""


class HookimplMarker:
    """Marks functions as implementations of the hooks of `project_name`; pluggy's decorator of the same name."""

    def __init__(self, project_name: str) -> None:
        self.project_name = project_name

    if TYPE_CHECKING:

        @overload
        def __call__(self, function: _F) -> _F: ...

        @overload
        def __call__(
            self,
            function: None = None,
            hookwrapper: bool = ...,
            optionalhook: bool = ...,
            tryfirst: bool = ...,
            trylast: bool = ...,
            specname: str | None = ...,
            wrapper: bool = ...,
        ) -> Callable[[_F], _F]: ...

    def __call__(
        self,
        function: _F | None = None,
        hookwrapper: bool = False,
        optionalhook: bool = False,
        tryfirst: bool = False,
        trylast: bool = False,
        specname: str | None = None,
        wrapper: bool = False,
    ) -> Any:
        """Use as ``@hookimpl`` or ``@hookimpl(tryfirst=True)``; the options are pluggy's."""
        options = {
            "wrapper": wrapper, "hookwrapper": hookwrapper, "optionalhook": optionalhook,
            "tryfirst": tryfirst, "trylast": trylast, "specname": specname,
        }  # fmt: skip

        def mark(marked: _F) -> _F:
            setattr(marked, self.project_name + "_impl", options)
            return marked

        return mark if function is None else mark(function)
