"""Promises of the host as a process among others: forks, signals, other people's children, and its own end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest
from until import PATIENCE

import host
from host.run.pidfd import ended

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(host.__file__).parent.parent
SOURCE: Final = """
import os
@hookimpl
def process(): return os.getpid()
"""


def run(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`code` in an application of its own, in which the given manifest is `sys.argv[1]`."""
    script = "import os, sys, signal, host\n" + textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False, **options,
    )  # fmt: skip


def kill(pid: int) -> None:
    """SIGKILL, and wait until it is dead."""
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert ended(handle, PATIENCE)
    os.close(handle)


# --- fork


def in_child(check: Any) -> int:
    """Exit status of a forked child in which `check()` was true: 0; false: 1; raised: 2."""
    pid = os.fork()
    if not pid:
        status = 2
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def refuses(attempt: Any) -> bool:
    try:
        attempt()
    except host.HostError as e:
        return "forked" in str(e)
    return False


def test_in_a_forked_child_every_method_refuses_and_the_parent_goes_on(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    pid = plugin.pid

    def check() -> bool:
        return (
            refuses(lambda: plugin.call("process"))
            and refuses(plugin.restart)
            and refuses(plugin.cancel)
            and refuses(plugin.ping)
            and refuses(lambda: plugin._owner.load(plugin._manifest.file))
            and plugin.pid is None
            and plugin.state == "STOPPED"
        )

    assert in_child(check) == 0
    assert plugin.call("process") == pid
    assert plugin.restarts == 0


def test_closing_in_a_forked_child_does_no_harm_to_the_parent(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions={"fs.write": ["${tmp}"]})
    folder = plugin.permissions["fs.write"][0]

    def check() -> bool:
        plugin.close()
        plugin._owner.close()
        return True

    assert in_child(check) == 0
    assert plugin.call("process") == plugin.pid
    assert os.path.isdir(folder)


def test_a_forked_child_keeps_no_descriptor_of_the_host(plugin_from: Any, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    plugin_from(SOURCE, audit=tmp_path / "audit.jsonl")
    assert in_child(lambda: set(os.listdir("/proc/self/fd")) <= before) == 0


def test_a_child_that_lives_on_does_not_keep_workers_alive(plugin_from: Any) -> None:
    """It would hold the pipes' other ends, and no worker would ever see the end of its calls."""
    read, write = os.pipe()
    plugin = plugin_from(SOURCE)
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    handle = os.pidfd_open(plugin.pid)
    plugin.close()
    assert ended(handle)
    os.close(handle)
    os.close(write)
    os.waitpid(child, 0)
    os.close(read)


def test_a_fork_while_other_threads_call_does_no_harm(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            plugin.call("process")

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert in_child(lambda: refuses(lambda: plugin.call("process"))) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert plugin.restarts == 0


# --- other people's children


@pytest.fixture
def ignored_children() -> Iterator[None]:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("ignored_children")
@pytest.mark.parametrize("tier", ["confined", "hooked"])
def test_an_application_that_ignores_sigchld_does_no_harm(plugin_from: Any, tier: str) -> None:
    plugin = plugin_from(SOURCE, tier=tier, minimum_tier="hooked")
    kill(plugin.pid)
    for _ in range(2):
        assert plugin.call("process") == plugin.pid
        plugin.restart()
    plugin._owner.close()


@pytest.mark.parametrize("tier", ["confined", "hooked"])
def test_an_application_that_reaps_every_child_does_no_harm(plugin_from: Any, tier: str) -> None:
    before = signal.signal(signal.SIGCHLD, lambda *_: reap())

    def reap() -> None:
        while True:
            try:
                if not os.waitpid(-1, os.WNOHANG)[0]:
                    return
            except ChildProcessError:
                return

    try:
        plugin = plugin_from(SOURCE, tier=tier, minimum_tier="hooked")
        kill(plugin.pid)
        for _ in range(2):
            assert plugin.call("process") == plugin.pid
            plugin.restart()
        plugin._owner.close()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_after_the_spawner_was_killed_the_next_call_works(plugin_from: Any) -> None:
    owner = plugin_from.host()
    plugins = [plugin_from(SOURCE, into=owner) for _ in range(2)]
    workers = [plugin.pid for plugin in plugins]
    handles = [os.pidfd_open(pid) for pid in workers]
    os.kill(owner._workers._spawner.pid, signal.SIGKILL)
    assert all(ended(handle, PATIENCE) for handle in handles)  # they die with it: PR_SET_PDEATHSIG
    for plugin, pid in zip(plugins, workers, strict=True):
        assert plugin.call("process") == plugin.pid != pid
    for handle in handles:
        os.close(handle)


def test_a_spawner_that_dies_while_no_worker_lives_is_replaced(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE)
    owner, file = plugin._owner, plugin._manifest.file
    plugin.close()
    kill(owner._workers._spawner.pid)
    assert owner.load(file).call("process")


# --- descriptors


def test_an_application_with_thousands_of_descriptors_can_start_and_call_plugins(plugin_from: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    many = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
    try:
        for tier in ("confined", "hooked"):
            plugin = plugin_from(SOURCE, tier=tier, minimum_tier="hooked")
            assert plugin.call("process") == plugin.pid
            plugin.restart()
            plugin._owner.close()
    finally:
        for descriptor in many:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_wherever_the_descriptors_run_out_a_start_fails_and_leaks_nothing(plugin_from: Any) -> None:
    owner = plugin_from.host()
    file = plugin_from.manifest(SOURCE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = psutil.Process().num_fds()
    failed = 0
    for room in range(14):
        resource.setrlimit(resource.RLIMIT_NOFILE, (before + room, hard))
        try:
            owner.load(file).close()
        except (host.HostError, OSError):
            failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert psutil.Process().num_fds() <= before + 2  # the watcher may just be looking at /proc
    assert failed
    assert owner.load(file).call("process")


# --- the end of the application


@pytest.mark.parametrize(
    "ending",
    [
        "plugins.close()",
        "import atexit; atexit.register(plugins.close)",
        "",
        "raise SystemExit(0)",
        "del plugins, plugin",
    ],
)
def test_at_its_end_an_application_leaves_nothing_whether_it_closed_or_not(
    plugin_from: Any, tmp_path: Path, ending: str
) -> None:
    file = plugin_from.manifest(SOURCE, permissions={"fs.write": ["${tmp}"]})
    temporary = tmp_path / "tmpdir"
    temporary.mkdir()
    code = f"""
        plugins = host.PluginHost("tests", grants="requested")
        plugin = plugins.load(sys.argv[1])
        print(plugin.pid, plugins._workers._spawner.pid, flush=True)
        {ending}
    """
    done = run(code, file, env=os.environ | {"TMPDIR": str(temporary)})
    assert (done.returncode, done.stderr) == (0, "")
    for pid in map(int, done.stdout.split()):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert list(temporary.iterdir()) == []


def test_an_exception_in_the_application_is_its_own_and_nothing_hangs(plugin_from: Any) -> None:
    code = 'plugin = host.PluginHost("tests", grants="requested").load(sys.argv[1]); raise LookupError("its own")'
    done = run(code, plugin_from.manifest(SOURCE))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "LookupError: its own"


def test_when_the_host_is_killed_its_workers_and_the_spawner_die(plugin_from: Any) -> None:
    code = """
        plugins = host.PluginHost("tests", grants="requested")
        plugin = plugins.load(sys.argv[1])
        print(plugin.pid, plugins._workers._spawner.pid, flush=True)
        signal.pause()
    """
    command = [
        sys.executable,
        "-c",
        "import sys, signal, host\n" + textwrap.dedent(code),
        str(plugin_from.manifest(SOURCE)),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        handles = [os.pidfd_open(int(pid)) for pid in process.stdout.readline().split()]
        process.kill()
    assert [ended(handle, PATIENCE) for handle in handles] == [True, True]
    for handle in handles:
        os.close(handle)


def test_a_host_in_a_thread_that_ends_keeps_its_workers(plugin_from: Any) -> None:
    """A parent-death signal would come with the end of the thread that forked: prctl(2)."""
    made: list[host.SandboxedPlugin] = []
    thread = threading.Thread(target=lambda: made.append(plugin_from(SOURCE)))
    thread.start()
    thread.join()
    assert made[0].call("process") == made[0].pid
    assert made[0].restarts == 0


def test_the_temporary_folder_is_the_applications(plugin_from: Any) -> None:
    plugin = plugin_from(SOURCE, permissions={"fs.write": ["${tmp}"]})
    assert plugin.permissions["fs.write"][0].startswith(tempfile.gettempdir() + "/plughold-")
