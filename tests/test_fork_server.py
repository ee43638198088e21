"""Workers that are copies of a fork server: what they share, what they do not, and what becomes of the server."""

from __future__ import annotations

import os
import signal
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest
from until import until
from walls_driver import Host, ended, need

import host
from host.run.tiers import TIERS
from sandbox_worker.walls.steps import STEPS
from sandbox_worker.walls.tracing import SUPPORTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Plugins

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="there is a fork server for x86_64 alone")

SOURCE: Final = """
@hookimpl
def ask(code):
    scope = {}
    exec(code, scope)
    return scope.get("result")
"""

NO_PTRACE: Final = """
from sandbox_worker.walls import bpf, linux
linux.prctl(38, 1)
linux.install_filter(bpf.compile_filter({"ptrace": bpf.fail_with(1)}, bpf.ALLOW, linux.ARCHITECTURE).patch({}))
"""


def forked(plugin_from: Plugins, **options: Any) -> host.SandboxedPlugin:
    return plugin_from(SOURCE, start="fork", **options)


def ask(plugin: host.SandboxedPlugin, code: str) -> Any:
    return plugin.call("ask", code=textwrap.dedent(code))


def server_of(plugin: host.SandboxedPlugin) -> psutil.Process:
    """The server is the spawner's child that neither is the plugin's worker nor waits to be one: the eldest."""
    spawner = psutil.Process(psutil.Process(plugin.pid).ppid())
    return min(spawner.children(), key=lambda process: (process.create_time(), process.pid))


# ---------------------------------------------------------------- a worker


def test_a_start_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r'start is "exec" or "fork"'):
        host.PluginHost("tests", start="spawn")  # type: ignore[arg-type]


def test_a_worker_is_a_child_of_the_spawner_and_not_of_the_server(plugin_from: Plugins) -> None:
    plugin = forked(plugin_from)
    assert psutil.Process(plugin.pid).ppid() == ask(plugin, "import os; result = os.getppid()")
    assert server_of(plugin).pid != plugin.pid
    assert server_of(plugin).children() == []


@pytest.mark.parametrize("tier", ["walled", "confined", "filtered", "hooked"])
def test_a_forked_worker_has_its_own_environment_and_folder(
    plugin_from: Plugins, tier: str, monkeypatch: pytest.MonkeyPatch, must_work: Any
) -> None:
    monkeypatch.setenv("GIVEN", "given \udcff")
    must_work(tier == "hooked" or TIERS.index(plugin_from.host().tier) >= TIERS.index(tier), f"tier {tier}")
    plugin = forked(plugin_from, tier=tier, minimum_tier="hooked", permissions={"env": ["GIVEN"]})
    seen = ask(plugin, f"import os; result = [{ENVIRONMENT}, os.getcwd()]")
    assert seen == [[["GIVEN", b"given \xff"], ["LC_CTYPE", b"C.UTF-8"]], str(plugin_from.folder / "plugin-1")]


ENVIRONMENT: Final = "sorted([n.decode(), v] for n, v in os.environb.items() if n != b'TZ')"


def test_the_c_library_sees_the_same_environment(plugin_from: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time zones are its affair: what localtime(3) answers comes from TZ."""
    monkeypatch.setenv("TZ", "XYZ-3")
    plugin = forked(plugin_from)
    assert ask(plugin, "import time; result = [time.tzname[0], time.localtime(0).tm_hour]") == ["XYZ", 3]


def test_a_worker_has_the_modules_of_one_that_was_executed(plugin_from: Plugins) -> None:
    code = "import sys; result = sorted(set(sys.modules) - {'plugin'})"
    executed = plugin_from(SOURCE, start="exec")
    assert ask(forked(plugin_from), code) == ask(executed, code)


def test_no_class_of_ctypes_is_in_a_worker(plugin_from: Plugins) -> None:
    code = """
        seen, todo = set(), [object]
        while todo:
            for found in type.__subclasses__(todo.pop()):
                if found not in seen:
                    seen.add(found)
                    todo.append(found)
        result = [len(seen) > 100, sorted(repr(c) for c in seen if "ctypes" in repr(c))]
    """
    assert ask(forked(plugin_from), code) == [True, []]


def test_standard_streams_are_those_of_an_executed_worker(plugin_from: Plugins) -> None:
    code = """
        import sys
        result = [[s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty(), s.seekable(), s.fileno()]
            for s in (sys.stdout, sys.stderr)]
        print("to the log")
        sys.stderr.write("and this\\\\n")
    """.replace("\\\\n", "\\n")
    worker, other = forked(plugin_from), plugin_from(SOURCE, start="exec")
    assert ask(worker, code) == ask(other, code)
    assert worker.logs() == ("to the log", "and this")


def test_random_numbers_are_each_workers_own(plugin_from: Plugins) -> None:
    owner = plugin_from.host(start="fork")
    code = "import random, uuid, secrets; result = [random.random(), str(uuid.uuid4()), secrets.token_hex()]"
    one, two = (ask(plugin_from(SOURCE, into=owner), code) for _ in range(2))
    assert not set(one) & set(two)


def test_nothing_of_one_plugin_is_in_the_memory_of_the_server_or_of_the_next(
    plugin_from: Plugins, monkeypatch: pytest.MonkeyPatch, secret_text: str
) -> None:
    """Its environment least of all: the server is never told it."""
    monkeypatch.setenv("THE_SECRET", secret_text)
    owner = plugin_from.host(start="fork")
    first = plugin_from(SOURCE, into=owner, permissions={"env": ["THE_SECRET"]})
    assert ask(first, "import os; result = os.environ['THE_SECRET']") == secret_text
    second = plugin_from(SOURCE, into=owner)
    assert secret_text.encode() in memory_of(first.pid)  # so the search finds what is there
    assert secret_text.encode() not in memory_of(second.pid)
    assert secret_text.encode() not in memory_of(server_of(first).pid)
    second.restart()
    assert secret_text.encode() not in memory_of(second.pid)


@pytest.fixture
def secret_text() -> str:
    return f"secret {os.urandom(16).hex()}"


def memory_of(pid: int | None) -> bytes:
    """All writable memory of a process."""
    content = b""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in maps:
            span, mode = line.split()[:2]
            start, end = (int(number, 16) for number in span.split("-"))
            if mode.startswith("rw"):
                file.seek(start)
                content += file.read(end - start)
    return content


def test_no_execve_passes_whatever_its_arguments(plugin_from: Plugins, must_work: Any) -> None:
    plugin = forked(plugin_from)
    must_work(plugin.tier in ("walled", "confined"), "Landlock and seccomp")
    code = """
        import ctypes, sys
        arguments = (ctypes.c_char_p * 3)(sys.executable.encode(), b"-V", None)
        libc = ctypes.CDLL(None, use_errno=True)
        result = [libc.execve(arguments[0], arguments, (ctypes.c_char_p * 1)(None)), ctypes.get_errno()]
    """
    native = forked(plugin_from, permissions={"native": ["ctypes"]})
    assert ask(native, code) == [-1, 1]


# ---------------------------------------------------------------- the server


def test_a_server_that_died_is_replaced_and_its_workers_live_on(plugin_from: Plugins) -> None:
    owner = plugin_from.host(start="fork")
    first = plugin_from(SOURCE, into=owner)
    server, pid = server_of(first), first.pid
    handle = os.pidfd_open(server.pid)
    server.kill()
    ended(handle)
    os.close(handle)
    second = plugin_from(SOURCE, into=owner)
    assert ask(second, "result = 1") == ask(first, "result = 1") == 1
    assert first.pid == pid
    assert server_of(first).pid != server.pid


def test_everything_dies_with_the_spawner(plugin_from: Plugins) -> None:
    plugin = forked(plugin_from)
    spawner = psutil.Process(psutil.Process(plugin.pid).ppid())
    most = 4 if plugin.tier == "walled" else 3  # the server, the worker, the next one, which is stopped, its namespaces
    until(lambda: len(spawner.children()) == most)
    family = spawner.children()
    handles = [os.pidfd_open(process.pid) for process in family]
    spawner.kill()
    for handle in handles:
        assert ended(handle)
        os.close(handle)


def test_a_worker_that_waits_to_be_used_and_is_killed_is_replaced(plugin_from: Plugins) -> None:
    owner = plugin_from.host(start="fork")
    first = plugin_from(SOURCE, into=owner)
    spawner = psutil.Process(psutil.Process(first.pid).ppid())
    used = {first.pid, server_of(first).pid}
    most = 2 if first.tier == "walled" else 1  # its namespaces wait too, and before that those of the first one
    until(lambda: len({p.pid for p in spawner.children()} - used) == most)
    for process in [p for p in spawner.children() if p.pid not in used]:
        handle = os.pidfd_open(process.pid)
        process.kill()
        assert ended(handle)
        os.close(handle)
    assert ask(plugin_from(SOURCE, into=owner), "result = 1") == 1


@pytest.fixture
def walls() -> Iterator[Host]:
    made = Host(forks=True)
    need(made.ready["landlock_abi"] and made.ready["seccomp"], "Landlock and seccomp")
    need(not made.ready["no_fork"], made.ready["no_fork"])
    yield made
    made.close()


@pytest.mark.parametrize(
    ("step", "changes"),
    [("session", {"cwd": "/nowhere"}), ("session", {"cwd": "/" + 70_000 * "x"}), ("limits", {"limits": {"data": 1}})],
)
def test_a_step_that_fails_is_named_and_leaves_no_worker(walls: Host, step: str, changes: dict[str, Any]) -> None:
    answer, _ = walls.try_to_spawn("", **changes)
    if answer[0] == "spawned":
        assert step == "limits"  # which the kernel takes: then the worker itself can't go on
        return
    assert answer[0] == "error"
    assert step in STEPS
    assert repr(step) in answer[1]
    assert walls.run("import posix; posix.write(4, b'fine')")[0] == b"fine"
    assert len(psutil.Process(walls.process.pid).children()) <= 2  # the server, and its next copy


def test_where_tracing_is_refused_it_is_said_and_nothing_is_forked() -> None:
    refusing = Host(forks=True, before=NO_PTRACE)
    try:
        need(refusing.ready["seccomp"], "seccomp")
        assert "Operation not permitted" in refusing.ready["no_fork"]
        answer, _ = refusing.try_to_spawn("")
        assert answer[0] == "error"
    finally:
        refusing.close()


def test_a_server_that_does_not_start_says_what_it_said() -> None:
    broken = Host(base=False, forks=True)
    try:
        broken.server = [broken.interpreter, "-c", "raise SystemExit('no such luck')"]
        kind, content = broken.ask("base", broken.base())
        assert kind == "ready"
        need(content["seccomp"], "seccomp")
        assert "no such luck" in content["no_fork"]
    finally:
        broken.close()


def test_a_worker_that_is_killed_is_reaped_with_its_signal(walls: Host) -> None:
    worker = walls.spawn("import posix; posix.write(4, b'!'); posix.read(3, 1)")
    assert os.read(worker.replies, 1) == b"!"
    os.kill(worker.pid, signal.SIGKILL)
    assert os.WTERMSIG(walls.reap(worker)) == signal.SIGKILL
