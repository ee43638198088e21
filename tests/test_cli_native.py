"""The plugin that reads by native code is stopped by the kernel, since the audit hook does not see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from host.cli import native

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Plugins


def test_what_no_hook_sees_landlock_refuses(
    plugin_from: Plugins, tmp_path: Path, must_work: Callable[[object, str], None]
) -> None:
    plugins = plugin_from.host(minimum_tier="hooked")
    must_work(plugins.tier in ("walled", "confined"), "Landlock")
    plugin = plugins.load(native.write(str(tmp_path), plugins.project_name))
    expected = FileNotFoundError if plugins.tier == "walled" else PermissionError
    with pytest.raises(expected):
        plugin.call(native.HOOK, path="/etc/passwd")
    assert plugin.denials() == ()
