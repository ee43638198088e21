"""Promises hold with every pluggy that is supported, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

import pytest
from walls_driver import need

import host

VERSIONS: Final = ("1.5.0", "1.6.0", "1.7.0")
ROOT: Final = Path(host.__file__).parent.parent

PLUGIN: Final = """
import pluggy
@hookimpl
def render(text, width=8): return [text, width]
@hookimpl(tryfirst=True, specname="render")
def early(text): return "early " + text
@hookimpl
def first(number): return number or None
@hookimpl
def began(name): return name.upper()
@hookimpl
def fail(what): raise LookupError(what)
@hookimpl
def pluggy_file(): return pluggy.__file__
"""

SCRIPT: Final = """
import os, sys
folder, root, manifest = sys.argv[1:]
sys.path[:0] = [folder, root]
import pluggy, host
assert pluggy.__file__.startswith(folder), pluggy.__file__
hookspec = pluggy.HookspecMarker("tests")

class Specs:
    @hookspec
    def render(self, text, live): ...
    @hookspec(firstresult=True)
    def first(self, number): ...
    @hookspec(historic=True)
    def began(self, name): ...
    @hookspec
    def fail(self, what): ...
    @hookspec
    def pluggy_file(self): ...

class Local:
    @pluggy.HookimplMarker("tests")
    def render(self, text): return "local " + text

pm = pluggy.PluginManager("tests")
pm.add_hookspecs(Specs)
results = []
pm.hook.began.call_historic(result_callback=results.append, kwargs={"name": "app"})
with host.PluginHost("tests", grants="requested") as plugins:
    plugin = plugins.load(manifest)
    assert pm.register(Local())
    assert pm.register(plugin) == plugin.name
    pm.check_pending()
    assert results == ["APP"], results
    assert pm.hook.render(text="hi", live=object()) == ["early hi", ["hi", 8], "local hi"]
    assert pm.hook.first(number=3) == 3
    assert pm.hook.first(number=0) is None
    assert pm.hook.pluggy_file() == [os.path.realpath(pluggy.__file__)], "the worker has the application's pluggy"
    try:
        pm.hook.fail(what="x")
    except LookupError as e:
        assert e.args == ("x",) and "in fail" in e.__notes__[0]
    else:
        raise AssertionError("nothing was raised")
    assert sorted(i.function.__name__ for i in pm.hook.render.get_hookimpls()) == ["early", "render", "render"]
    assert {c.name for c in pm.get_hookcallers(plugin)} >= {"first", "began", "fail"}
    second = pluggy.PluginManager("tests")
    second.register(plugin)
    assert second.hook.first(number=5) == [5]
    assert pm.unregister(plugin) is plugin
    assert pm.hook.fail(what="x") == []
    assert plugin.call("first", number=1) == 1
print(pluggy.__version__)
"""


@pytest.fixture(scope="module", params=VERSIONS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A version of pluggy and a folder that holds just that."""
    target = tmp_path_factory.mktemp(f"pluggy-{request.param}").resolve()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(
        [*command, f"pluggy=={request.param}"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=environment,
    )
    need(done.returncode == 0, f"pluggy {request.param} from pip: {done.stderr[-300:]}")
    return request.param, target


def test_a_plugin_in_a_worker_works_with_this_pluggy(plugin_from: Any, folder: tuple[str, Path]) -> None:
    version, target = folder
    script = ["-W", "error", "-c", textwrap.dedent(SCRIPT), str(target), str(ROOT), str(plugin_from.manifest(PLUGIN))]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, timeout=200, check=False, cwd="/")
    assert (done.stdout.strip(), done.stderr) == (version, "")
