"""What a `PluginHost` is made with: the types of its options, and a default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from host.model.grants import Grant


def check_types(project_name: object, grants: object, ceiling: object, on_event: object) -> None:
    """TypeError for what would be noticed late, or taken for more than was meant."""
    if not isinstance(project_name, str) or not project_name:
        raise TypeError("project_name is the name of a pluggy project")
    if isinstance(grants, Mapping):
        if not all(isinstance(name, str) and isinstance(grant, Grant) for name, grant in grants.items()):
            raise TypeError("a mapping of grants gives a host.Grant by plugin name")
    elif not isinstance(grants, str | os.PathLike | Grant):
        raise TypeError('grants is "requested", a path, a host.Grant, or a mapping of plugin names to host.Grant')
    if ceiling is not None and not isinstance(ceiling, Grant):
        raise TypeError("ceiling is a host.Grant")
    if on_event is not None and not callable(on_event):
        raise TypeError("on_event is a callable")


def data_home() -> Path:
    """Where the data of all projects lies unless a host is told otherwise, one folder for each.

    It is in $XDG_DATA_HOME, or its default (XDG base directory specification: relative values are ignored).
    """
    given = os.environ.get("XDG_DATA_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".local" / "share") / "plughold"
