"""Promises to a plugin's author: our marker is pluggy's, works outside a worker too, and costs nothing to import."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pluggy
import pytest

from sandbox_worker import plugin_api
from sandbox_worker.plugin_api import HookimplMarker

OPTIONS: Final = [
    {},
    {"tryfirst": True},
    {"trylast": True},
    {"optionalhook": True},
    {"hookwrapper": True},
    {"wrapper": True},
    {"specname": "other"},
]


def empty() -> None:
    """Nothing to mark it with but the marker."""


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_marker_sets_what_pluggys_sets(options: dict[str, Any]) -> None:
    def ours() -> None: ...

    def theirs() -> None: ...

    assert HookimplMarker("p")(**options)(ours) is ours
    pluggy.HookimplMarker("p")(**options)(theirs)
    assert ours.p_impl == theirs.p_impl  # type: ignore[attr-defined]  # the markers set it


def test_the_marker_takes_pluggys_options_in_pluggys_order() -> None:
    mine = list(inspect.signature(HookimplMarker.__call__).parameters)
    assert mine == list(inspect.signature(pluggy.HookimplMarker.__call__).parameters)


def test_the_marker_without_parentheses_marks_too() -> None:
    def ours() -> None: ...

    assert HookimplMarker("p")(ours) is ours
    assert hasattr(ours, "p_impl")


def test_a_real_manager_finds_what_is_marked() -> None:
    class Plugin:
        @HookimplMarker("p")
        def hello(self, name: str) -> str:
            return f"hello {name}"

    class Specs:
        @pluggy.HookspecMarker("p")
        def hello(self, name: str) -> str:
            """Say hello."""
            raise NotImplementedError

    manager = pluggy.PluginManager("p")
    manager.add_hookspecs(Specs)
    manager.register(Plugin())
    assert manager.hook.hello(name="you") == ["hello you"]


def test_the_module_imports_nothing_else() -> None:
    root = str(Path(__file__).parent.parent)
    code = (
        f"import sys; sys.path.append({root!r}); before = set(sys.modules); import sandbox_worker.plugin_api; "
        "print(*sorted(set(sys.modules) - before))"
    )
    output = subprocess.run([sys.executable, "-ISc", code], capture_output=True, text=True, check=True).stdout
    ours = ["sandbox_worker", *(f"sandbox_worker.{name}" for name in ("author", "errors", "functions", "plugin_api"))]
    assert output.split() == ["__future__", *ours]


def test_what_is_public_is_listed() -> None:
    assert plugin_api.__all__ == sorted(plugin_api.__all__)
    assert all(hasattr(plugin_api, name) for name in plugin_api.__all__)
