"""The plugin author's API: what a plugin may, what it gives up, what it is; inside workers and outside."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import pytest

import host
from host.model.events import PermissionDropped
from sandbox_worker.plugin_api import context, permissions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from host.service.plugin import SandboxedPlugin

MODULE = """
import os, sys, threading
from sandbox_worker.plugin_api import context, permissions

def has(kind, target):
    return permissions.has(kind, target)
def granted():
    return [list(pair) for pair in permissions.list()]
def drop(kind, target=None):
    try:
        return permissions.drop(kind, target)
    except ValueError as error:
        return f"ValueError: {error}"
def read(path):
    return open(path).read()
def write(path):
    open(path, "w").close()
def read_in_thread(path):
    found = []
    def work():
        try:
            found.append(read(path))
        except PermissionError as error:
            found.append(type(error).__name__)
    thread = threading.Thread(target=work)
    thread.start(); thread.join()
    return found[0]
def read_around(path):
    found = []
    folder, name = os.path.split(path)
    def relative():
        os.chdir(folder)
        return open(name).read()
    def descriptor():
        return os.read(os.open(name, os.O_RDONLY, dir_fd=os.open(os.path.dirname(folder), os.O_RDONLY)), 9)
    def listing():
        return os.listdir(folder)
    def dotted():
        return open(folder + "/../" + os.path.basename(folder) + "/" + name).read()
    for attempt in (relative, descriptor, listing, dotted):
        try:
            found.append(attempt())
        except (PermissionError, FileNotFoundError) as error:
            found.append(None)
    return found
def add_hook():
    seen = []
    sys.addaudithook(lambda event, args: seen.append(event))
    sys.audit("probe.event")
    return "probe.event" in seen
def variables():
    return sorted(os.environ)
def hostname():
    import socket
    return [socket.gethostname(), os.uname().nodename]
def load(name):
    __import__(name)
def about():
    context.logger.info("said")
    return [context.name, context.version, str(context.data), context.logger.name]
def forge(folder, count):
    from sandbox_worker.messages import event_record
    for number in range(count):
        os.write(5, event_record("drop fs.read", f"{folder}/{number}", False))
def modules():
    return sorted({"logging", "pathlib"} & set(sys.modules))
"""
HOOKS = [line[4:].partition("(")[0] for line in MODULE.splitlines() if line.startswith("def ")]


class Loaded:
    """A plugin whose hooks are called as methods, and the events of its host."""

    def __init__(self, plugin: SandboxedPlugin, events: list[Any]) -> None:
        self.plugin = plugin
        self.events = events

    def __call__(self, hook: str, **arguments: Any) -> Any:
        return self.plugin.call(hook, **arguments)

    def drop(self, kind: str, target: object = None) -> Any:
        return self.plugin.call("drop", kind=kind, target=target if target is None else str(target))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """files/{open,shut}/text, and files/link, which leads to shut."""
    for name in ("open", "shut"):
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / "text").write_text(name)
    (tmp_path / "files" / "link").symlink_to(tmp_path / "files" / "shut")
    return tmp_path / "files"


@pytest.fixture
def load(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    hosts = []
    monkeypatch.setenv("APP_ONE", "1")
    monkeypatch.setenv("APP_TWO", "2")

    def start(rules: str) -> Loaded:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "mod.py").write_text(MODULE)
        functions = "".join(f'{hook} = "mod:{hook}"\n' for hook in HOOKS)
        manifest = tmp_path / "plugin.toml"
        manifest.write_text(
            'schema = 1\n[plugin]\nname = "pp"\nversion = "1.2"\nproject = "t"\npath = "code"\n'
            f"[functions]\n{functions}[permissions]\n{rules}\n"
        )
        events: list[Any] = []
        options: Any = {"on_failure": "raise", "on_event": events.append, "data": tmp_path / "data"}
        hosts.append(host.PluginHost("t", grants="requested", **options))
        return Loaded(hosts[-1].load(manifest), events)

    yield start
    for each in hosts:
        each.close()


def test_a_plugin_sees_what_it_was_granted_and_what_it_may(load: Any, tree: Path) -> None:
    plugin = load(f'fs.read = ["{tree}"]\nenv = ["APP_*"]\n[permissions.deny]\nfs.read = ["{tree}/shut"]')
    assert plugin("granted") == [["env", "APP_*"], ["fs.read", str(tree)]]
    assert plugin("has", kind="fs.read", target=f"{tree}/open/text")
    assert plugin("has", kind="fs.read", target=os.__file__)
    assert not plugin("has", kind="fs.read", target=f"{tree}/shut/text")
    assert not plugin("has", kind="fs.read", target=f"{tree}/link/text")
    assert not plugin("has", kind="fs.write", target=f"{tree}/open")
    assert plugin("has", kind="env", target="APP_NEW")
    assert not plugin("has", kind="net.connect", target="example.com:443")
    with pytest.raises(host.PluginError, match="legal is"):
        plugin("has", kind="sys", target="shoes")


def test_a_dropped_folder_is_refused_at_once_in_every_thread_and_by_every_name(load: Any, tree: Path) -> None:
    plugin = load(f'fs.read = ["{tree}"]')
    assert plugin("read", path=f"{tree}/link/text") == "shut"
    assert plugin.drop("fs.read", f"{tree}/shut") == "audit_hook"
    for path in (f"{tree}/shut/text", f"{tree}/link/text"):
        with pytest.raises(host.PermissionDenied, match="gave it up"):
            plugin("read", path=path)
        assert plugin("read_in_thread", path=path) == "PermissionDenied"
        assert not plugin("has", kind="fs.read", target=path)
    assert plugin("read_around", path=f"{tree}/shut/text") == [None] * 4
    assert plugin("read", path=f"{tree}/open/text") == "open"


def test_the_host_learns_of_a_drop_with_the_call_and_the_next_worker_starts_without(load: Any, tree: Path) -> None:
    plugin = load(f'fs.read = ["{tree}"]')
    plugin.drop("fs.read", f"{tree}/shut")
    [event] = [event for event in plugin.events if isinstance(event, PermissionDropped)]
    assert event.line()["permission"] == {"kind": "fs.read", "target": f"{tree}/shut"}
    plugin.plugin.restart()
    for path in (f"{tree}/shut/text", f"{tree}/link/text"):
        with pytest.raises((PermissionError, host.PermissionDenied)):
            plugin("read", path=path)
    assert plugin("read", path=f"{tree}/open/text") == "open"
    assert plugin.plugin.denials()[-1].reason == "dropped"


def test_dropping_a_kind_gives_up_all_of_it_and_leaves_the_interpreter_working(load: Any, tree: Path) -> None:
    plugin = load('fs.read = ["*"]\nfs.write = ["${data}", "${tmp}"]')
    assert plugin.drop("fs.read") == "audit_hook"
    assert plugin.drop("fs.write") == "audit_hook"
    with pytest.raises(host.PermissionDenied):
        plugin("read", path=f"{tree}/open/text")
    with pytest.raises(host.PermissionDenied):
        plugin("write", path=str(tree.parent / "data" / "pp" / "x"))
    plugin("load", name="decimal")
    assert plugin("granted") == []
    assert plugin.plugin.permissions == {}
    plugin.plugin.restart()
    plugin("load", name="decimal")
    assert plugin("granted") == []


def test_the_private_tmp_stays_dropped_though_each_worker_has_another(load: Any) -> None:
    plugin = load('fs.write = ["${tmp}"]')
    first = dict(plugin("granted"))["fs.write"]
    plugin.drop("fs.write", first)
    plugin.plugin.restart()
    assert plugin("granted") == []


def test_nothing_brings_a_drop_back_and_no_other_hook_gets_in(load: Any, tree: Path) -> None:
    plugin = load(f'fs.read = ["{tree}"]')
    assert plugin("add_hook") is False
    plugin.drop("fs.read", f"{tree}/shut")
    plugin.drop("fs.read", f"{tree}/open")
    assert plugin("add_hook") is False
    for name in ("open", "shut"):
        with pytest.raises(host.PermissionDenied):
            plugin("read", path=f"{tree}/{name}/text")


def test_a_flood_of_drops_is_bounded_and_ends_with_the_whole_kind(load: Any, tree: Path) -> None:
    plugin = load(f'fs.read = ["{tree}"]')
    plugin("forge", folder=str(tree), count=300)
    plugin.plugin.denials()
    assert len([event for event in plugin.events if isinstance(event, PermissionDropped)]) == 257
    assert len(plugin.plugin._effective.deny["fs.read"]) <= 257
    assert plugin.plugin.permissions.get("fs.read", ()) == ()
    plugin.plugin.restart()
    assert plugin("granted") == []


def test_a_dropped_variable_is_gone_now_and_later(load: Any) -> None:
    plugin = load('env = ["APP_*"]')
    assert plugin.drop("env", "APP_ONE") == "worker"
    assert plugin("variables") == ["APP_TWO", "LC_CTYPE"]
    plugin.plugin.restart()
    assert plugin("variables") == ["APP_TWO", "LC_CTYPE"]


def test_a_dropped_fact_is_answered_neutrally_and_its_file_refused(load: Any) -> None:
    plugin = load('sys = ["*"]')
    assert plugin("read", path="/proc/loadavg")
    assert plugin.drop("sys", "hostname") == "worker"
    assert plugin.drop("sys", "loadavg") == "worker"
    assert plugin("hostname") == ["localhost"] * 2
    with pytest.raises(host.PermissionDenied):
        plugin("read", path="/proc/loadavg")
    assert plugin("read", path="/proc/meminfo")
    plugin.plugin.restart()
    assert plugin("hostname") == ["localhost"] * 2
    assert not plugin("has", kind="sys", target="loadavg")


def test_dropped_native_code_does_not_load_any_more(load: Any) -> None:
    plugin = load('native = ["ctypes"]')
    assert plugin.drop("native", "ctypes") == "audit_hook"
    with pytest.raises(host.PermissionDenied, match="native"):
        plugin("load", name="ctypes")
    plugin.plugin.restart()
    with pytest.raises(host.PermissionDenied, match="native"):
        plugin("load", name="ctypes")


def test_what_can_not_be_represented_is_an_error_and_drops_nothing(load: Any, tree: Path) -> None:
    plugin = load('fs.read = ["*"]\nnative = ["*"]\nenv = ["*"]')
    before = plugin("granted")
    library = os.path.dirname(os.path.realpath(os.__file__))
    for kind, target in (
        ("fs.read", library),
        ("fs.read", os.path.dirname(library)),
        ("native", "numpy"),
        ("env", "LC_CTYPE"),
        ("env", "A=B"),
        ("bogus", None),
        ("fs.read", f"/{'x/' * 600}"),
    ):
        assert plugin.drop(kind, target).startswith("ValueError"), (kind, target)
    assert plugin("granted") == before
    assert not [event for event in plugin.events if isinstance(event, PermissionDropped)]


def test_dropping_what_was_not_granted_changes_nothing(load: Any, tree: Path) -> None:
    plugin = load(f'fs.read = ["{tree}/open"]')
    assert plugin.drop("fs.read", f"{tree}/shut") == "audit_hook"
    assert plugin.drop("net.connect") == "audit_hook"
    assert plugin.drop("run") == "host"
    assert plugin("granted") == [["fs.read", f"{tree}/open"]]
    assert not [event for event in plugin.events if isinstance(event, PermissionDropped)]


def test_the_context_says_what_the_plugin_is_and_imports_logging_only_when_asked(load: Any, tmp_path: Path) -> None:
    plugin = load('fs.write = ["${data}"]')
    assert plugin("modules") == []
    assert plugin("about") == ["pp", "1.2", str(tmp_path / "data" / "pp"), "pp"]
    assert plugin.plugin.logs() == ("INFO pp: said",)


def test_there_is_no_data_folder_without_its_grant(load: Any) -> None:
    assert load("")("about")[2] == "None"


# --- in the author's own tests


def test_outside_a_worker_everything_is_allowed_and_nothing_is_held(tmp_path: Path) -> None:
    assert permissions.has("fs.read", tmp_path) is True
    assert permissions.has("sys", "cpus") is True
    assert permissions.list() == ()
    assert permissions.drop("fs.read", tmp_path) == "nothing"
    assert (tmp_path / "x").write_text("still") == 5


@pytest.mark.parametrize(("kind", "target"), [("bogus", "x"), ("sys", "shoes"), ("env", "A=B")])
def test_outside_a_worker_too_a_mistake_is_a_value_error(kind: str, target: str) -> None:
    with pytest.raises(ValueError, match="legal"):
        permissions.has(kind, target)
    with pytest.raises(ValueError, match="legal"):
        permissions.drop(kind, target)


def test_outside_a_worker_the_context_has_stand_ins() -> None:
    assert (context.name, context.version, context.data) == ("plugin", "0", None)
    assert context.logger is logging.getLogger("plugin")
    assert context.logger.handlers == []
