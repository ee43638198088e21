"""The application's functions as a plugin calls them: the object behind `plugin_api.host`."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Host:
    """The application; made once, as `plugin_api.host`."""

    __slots__ = ()

    def call(self, function: str, /, **arguments: Any) -> Any:
        """Call a function that the application offers and the manifest's ``host`` list requests, and wait for it.

        Arguments and answer are plain data, as those of hooks. The time is the application's: it counts against no
        limit of the plugin. From any thread, while one of the plugin's hooks runs.

        Raises PermissionDenied (not granted, or not offered), TypeError (an argument can't cross), what the function
        raised (a builtin class, or HostFunctionError), TimeoutError (it took too long), RuntimeError (no hook runs; no
        application outside a worker).
        """
        server = getattr(sys.modules["sandbox_worker"], "server", None)
        if server is None:
            raise RuntimeError(f"there is no application to call {function} of: this process is no worker")
        if type(function) is not str:
            raise TypeError("a function's name is a str")
        return server.ask(function, arguments)
