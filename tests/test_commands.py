"""Granted commands as a plugin starts them: the standard library's ways, unmodified, in real workers."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

import pytest

import host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCE: Final = """
@hookimpl
def attempt(code, names):
    scope = dict(names)
    try:
        exec(compile(code, "<attempt>", "exec"), scope)
    except Exception as e:
        hint = getattr(e, "hint", "")
        return [type(e).__name__, str(getattr(e, "filename", None) or getattr(e, "target", "")), hint, str(e)]
    return scope.get("result")
"""
TIERS: Final = ["walled", "confined", "filtered"]
SHELL: Final = "/bin/sh"
PYTHON: Final = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@pytest.fixture(params=TIERS)
def run(request: Any, plugin_from: Any, must_work: Any) -> Callable[..., Any]:
    """``run(code, **names)`` in a plugin of each tier that was granted a shell; ``run.plugin``, ``run.start``."""
    tier = request.param

    def start(commands: list[Any], **options: Any) -> host.SandboxedPlugin:
        permissions = {"run": commands} | options.pop("permissions", {})
        try:
            return plugin_from(SOURCE, permissions=permissions, tier=tier, minimum_tier=tier, **options)
        except host.LockdownUnavailable as e:
            must_work(False, str(e))
            raise

    def attempt(code: str, *, plugin: host.SandboxedPlugin | None = None, **names: Any) -> Any:
        return (plugin or attempt.plugin).call("attempt", code=textwrap.dedent(code), names=names)

    attempt.start = start
    attempt.tier = tier
    attempt.plugin = start([SHELL])
    return attempt


WAYS: Final = {
    "subprocess.run": "import subprocess; result = subprocess.run(['sh', '-c', script], capture_output=True).stdout",
    "shell=True": "import subprocess; result = subprocess.check_output(script, shell=True)",
    "Popen and communicate": """
        import subprocess
        with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE) as process:
            result = process.communicate(timeout=20)[0]
    """,
    "close_fds=False": """
        import subprocess
        result = subprocess.check_output(["/bin/sh", "-c", script], close_fds=False)
    """,
    "os.popen": "import os; result = os.popen(script).read().encode()",
    "asyncio": """
        import asyncio
        async def run():
            process = await asyncio.create_subprocess_exec("sh", "-c", script, stdout=-1)
            return (await process.communicate())[0], process.returncode
        result, code = asyncio.run(run())
        assert code == 0
    """,
    "os.posix_spawn": """
        import os
        read, write = os.pipe()
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], os.environ,
                             file_actions=[(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, write)])
        os.close(write)
        result = os.read(read, 100)
        assert os.waitpid(pid, 0) == (pid, 0)
        os.close(read)
    """,
    "os.posix_spawnp": """
        import os
        read, write = os.pipe()
        pid = os.posix_spawnp("sh", ["sh", "-c", script], {}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
        os.close(write)
        result = os.read(read, 100)
        os.waitpid(pid, 0)
        os.close(read)
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_granted_command_runs_by_every_way(run: Any, way: str) -> None:
    assert run(WAYS[way], script="echo said") == b"said\n"


def test_os_system_gives_the_wait_status(run: Any) -> None:
    assert run("import os; result = [os.system('exit 3'), os.waitstatus_to_exitcode(os.system('exit 4'))]") == [768, 4]


def test_stdin_stdout_and_stderr_are_pipes(run: Any) -> None:
    code = """
        import subprocess
        done = subprocess.run(["sh", "-c", "read x; echo out $x; echo err >&2; exit 7"], input="in", text=True,
                              capture_output=True)
        result = [done.stdout, done.stderr, done.returncode]
    """
    assert run(code) == ["out in\n", "err\n", 7]


def test_what_a_command_says_without_pipes_is_the_plugins_output(run: Any) -> None:
    assert run("import subprocess; result = subprocess.call(['sh', '-c', 'echo hello; echo oops >&2'])") == 0
    run.plugin.close()
    assert set(run.plugin.logs()) == {"hello", "oops"}


def test_the_environment_is_the_workers_and_what_the_plugin_passes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGHOLD_TEST_TOKEN", "secret")
    code = """
        import os, subprocess
        os.environ["ADDED"] = "1"
        ours = subprocess.check_output(["/usr/bin/env"], text=True).split()
        given = subprocess.check_output(["/usr/bin/env"], env={"ONLY": "2"}, text=True).split()
        result = [sorted(ours), given]
    """
    ours, given = run(code, plugin=run.start(["/usr/bin/env"]))
    assert ours == sorted({"LC_CTYPE=C.UTF-8", "ADDED=1", *([f"TZ={os.environ['TZ']}"] if "TZ" in os.environ else [])})
    assert given == ["ONLY=2"]


def test_a_command_that_is_not_granted_is_denied_and_reported(run: Any) -> None:
    kind, target, hint, text = run("import subprocess; subprocess.run(['cat'])")
    assert kind == "PermissionDenied"
    assert target in ("/bin/cat", "/usr/bin/cat")
    assert hint == f'run = ["{target}"]'
    assert "no rule of the manifest allows it" in text
    [record] = run.plugin.denials()
    assert (record.permission.kind, record.permission.target, record.reason) == ("run", target, "no-rule")


def test_nobody_learns_whether_a_command_that_is_not_granted_is_there(run: Any) -> None:
    for path in ("/usr/bin/cat", "/usr/bin/no-such-program"):
        assert run("import subprocess; subprocess.run([path])", path=path)[0] == "PermissionDenied"


def test_a_granted_command_that_is_not_there_is_not_found(run: Any) -> None:
    plugin = run.start(["/opt/plughold-test/absent"])
    answer = run("import subprocess; subprocess.run(['/opt/plughold-test/absent'])", plugin=plugin)
    assert answer[:2] == ["FileNotFoundError", "/opt/plughold-test/absent"]


def test_arguments_are_held(run: Any) -> None:
    plugin = run.start([{"target": "/bin/echo", "argv": ["hi", "**"]}, {"target": "/bin/echo", "argv": ["--", "*"]}])
    code = "import subprocess; result = subprocess.check_output(['echo', *arguments])"
    assert run(code, plugin=plugin, arguments=["hi"]) == b"hi\n"
    assert run(code, plugin=plugin, arguments=["hi", "a", "b"]) == b"hi a b\n"
    assert run(code, plugin=plugin, arguments=["--", "x"]) == b"-- x\n"
    for arguments in ([], ["ho"], ["--"], ["--", "x", "y"]):
        kind, _, hint, text = run(code, plugin=plugin, arguments=arguments)
        assert kind == "PermissionDenied"
        assert "with other arguments" in text
        assert "which arguments" in hint


def test_a_grant_and_a_deny_of_the_operator_hold_too(run: Any) -> None:
    plugin = run.start(["*"], grants=host.Grant({"run": ["*"], "deny": {"run": ["/bin/cat"]}}))
    assert run("import subprocess; result = subprocess.check_output(['echo', 'x'])", plugin=plugin) == b"x\n"
    assert "a deny rule covers it" in run("import subprocess; subprocess.run(['cat'])", plugin=plugin)[3]


def test_a_script_runs_by_its_interpreter_which_is_not_granted_by_that(run: Any, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho script $1\n")
    script.chmod(0o755)
    plugin = run.start([str(script)])
    code = "import subprocess; result = subprocess.check_output(command)"
    assert run(code, plugin=plugin, command=[str(script), "x"]) == b"script x\n"
    assert run(code, plugin=plugin, command=[SHELL, "-c", "echo"])[0] == "PermissionDenied"


def test_poll_kill_terminate_and_wait_work(run: Any) -> None:
    code = """
        import os, signal, subprocess
        process = subprocess.Popen(["sh", "-c", "read x"], stdin=subprocess.PIPE)
        early = process.poll()
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            pass
        process.terminate()
        result = [early, process.wait(20), process.poll()]
        process.kill()
        other = subprocess.Popen(["sh", "-c", "read x"], stdin=subprocess.PIPE, start_new_session=True)
        os.killpg(other.pid, signal.SIGKILL)
        result.append(other.wait(20))
        for ask in (lambda: os.waitpid(other.pid, 0), lambda: os.kill(other.pid, 0)):
            try:
                ask()
            except OSError as e:
                result.append(type(e).__name__)
    """
    assert run(code) == [None, -15, -15, -9, "ChildProcessError", "ProcessLookupError"]


def test_threads_start_and_wait_at_the_same_time(run: Any) -> None:
    code = """
        import concurrent.futures, subprocess
        def echo(number):
            return subprocess.check_output(["sh", "-c", f"read x; echo {number}"], input=b"\\n")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            result = b"".join(pool.map(echo, range(24)))
    """
    assert run(code) == b"".join(b"%d\n" % number for number in range(24))


def test_the_folder_is_the_plugins_or_one_that_it_may_read(run: Any, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    plugin = run.start([SHELL], permissions={"fs.read": [str(inside)]})
    code = "import subprocess; result = subprocess.check_output(['sh', '-c', 'pwd'], cwd=cwd, text=True).strip()"
    assert run(code, plugin=plugin, cwd=str(inside)) == str(inside)
    assert run(code, plugin=plugin, cwd=None) == os.path.dirname(plugin_file(plugin))
    assert run(code, plugin=plugin, cwd="/etc")[0] == "PermissionDenied"
    assert run(code, plugin=plugin, cwd=f"{inside}/none")[:2] == ["FileNotFoundError", f"{inside}/none"]


def plugin_file(plugin: host.SandboxedPlugin) -> str:
    return str(plugin.call("attempt", code="import plugin; result = plugin.__file__", names={}))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import subprocess; subprocess.run(['sh'], preexec_fn=print)", "ValueError"),
        ("import subprocess; subprocess.run(['sh'], pass_fds=[0])", "ValueError"),
        ("import subprocess; subprocess.run(['sh'], user=1)", "PermissionError"),
        ("import subprocess; subprocess.run(['sh', 'x' * 140000])", "OSError"),
        ("import subprocess; subprocess.run(['sh'], env={'LD_PRELOAD': '/x'})", "PermissionDenied"),
        ("import subprocess; subprocess.run(['other'], executable='/bin/sh')", "PermissionDenied"),
        ("import os; os.fork()", "PermissionDenied"),
        ("import os; os.execv('/bin/sh', ['sh'])", "PermissionDenied"),
        ("import pty; pty.spawn(['sh'])", "PermissionDenied"),
    ],
)
def test_what_is_not_possible_says_so(run: Any, code: str, kind: str) -> None:
    assert run(code)[0] == kind


def test_a_hundred_kilobytes_of_arguments_pass(run: Any) -> None:
    code = "import subprocess; result = subprocess.check_output(['sh', '-c', 'echo ${#1}', 'sh', 'x' * 100000])"
    assert run(code) == b"100000\n"


def test_what_is_dropped_is_refused_at_once_for_native_code_too(run: Any) -> None:
    code = """
        import os, subprocess
        from sandbox_worker import commands
        from sandbox_worker.plugin_api import permissions
        layer = permissions.drop("run", "/bin/sh")
        reply, _ = commands._ask(["start", [b"/bin/sh"], [b"sh"], [], b"/", 0], [0, 1, 2])
        result = [layer, permissions.has("run", "/bin/sh"), reply]
    """
    assert run(code) == ["host", False, ["refused", "dropped"]]
    assert "the plugin gave it up" in run("import subprocess; subprocess.run(['sh'])")[3]


def test_no_command_is_left_when_its_plugin_is_closed(run: Any) -> None:
    """The fixture looks for what is left."""
    code = """
        import subprocess
        with subprocess.Popen(["sh", "-c", "(trap '' HUP; while :; do :; done) & exit"]): pass
        subprocess.Popen(["sh", "-c", "while :; do :; done"])
    """
    run(code)


def test_a_call_that_takes_too_long_ends_with_its_commands(run: Any) -> None:
    plugin = run.start([SHELL], limits={"call_timeout": "2 s"})
    with pytest.raises(host.PluginTimeout):
        run("import subprocess; subprocess.run(['sh', '-c', 'while :; do :; done'])", plugin=plugin)
    assert run("import subprocess; result = subprocess.check_output(['sh', '-c', 'echo anew'])", plugin=plugin)


def test_tier_hooked_has_no_commands(plugin_from: Any) -> None:
    with pytest.raises(host.LockdownUnavailable, match="run: a command stays in its worker's walls"):
        plugin_from(SOURCE, permissions={"run": [SHELL]}, tier="hooked", minimum_tier="hooked")
