"""Promises of the public names: what is listed is all there is, and all of it speaks of itself as `host`."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types
from pathlib import Path

import host
from host.service.plugin import RESERVED


def test_all_is_sorted_and_names_exactly_the_public_names() -> None:
    modules = {name for name, value in vars(host).items() if isinstance(value, types.ModuleType)}
    public = [name for name in vars(host) if not name.startswith("_") and name not in modules]
    assert sorted(host.__all__) == host.__all__
    assert sorted(public) == host.__all__


def test_every_public_class_says_that_it_is_of_host() -> None:
    assert {getattr(host, name).__module__ for name in host.__all__} == {"host"}


def test_every_public_name_has_a_docstring() -> None:
    assert [name for name in host.__all__ if not inspect.getdoc(getattr(host, name))] == []


def test_no_hook_can_hide_a_public_name_of_a_plugin() -> None:
    assert {name for name in dir(host.SandboxedPlugin) if not name.startswith("_")} == RESERVED


def test_importing_host_leaves_heavy_modules_for_when_they_are_needed() -> None:
    heavy = {"asyncio", "ctypes", "pluggy", "psutil", "subprocess"}
    code = f"import sys, host; print(*sorted({heavy!r} & set(sys.modules)))"
    root = Path(host.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == []
