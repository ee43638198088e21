"""A granted command, and native code that asks for one, reach nothing that the worker does not reach."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest
from until import PATIENCE

import host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIERS: Final = ["walled", "confined"]
PYTHON: Final = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
SHELL: Final = "/bin/sh"
MARK: Final = "-ISBc"
"""Options of a Python that is a command, spelled as nobody else does."""
FIND: Final = "/usr/bin/find"
LAUNCH: Final = """
import subprocess
def python(code, *arguments, **options):
    command = [interpreter, "-I", "-S", "-B", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)
"""
C: Final = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def done(number):
    if number < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return number
"""
"""Python without any hook stands in for native code: in a command nothing but the kernel is in its way."""


@pytest.fixture(params=TIERS)
def worker(request: Any, attacker: Any, places: Path, must_work: Any) -> Callable[..., Any]:
    """``worker(commands, **options)``: an attacker that may run `commands`, in each tier with all walls."""

    def start(*commands: Any, **options: Any) -> Any:
        granted = [str(places / "granted")]
        permissions = {"run": list(commands or (PYTHON, SHELL)), "fs.read": granted, "fs.write": granted}
        try:
            return attacker(permissions=permissions, tier=request.param, minimum_tier=request.param, **options)
        except host.LockdownUnavailable as e:
            must_work(False, str(e))

    start.tier = request.param
    return start


def native(worker: Any, code: str, *arguments: object) -> tuple[str, str]:
    """What a Python as a command prints, and its last line of errors."""
    run = f"{LAUNCH}done = python({C + code!r}, *{list(map(str, arguments))!r})\nresult = [done.stdout, done.stderr]"
    out, err = worker.run(run, interpreter=PYTHON)
    return out, (err.strip().splitlines() or [""])[-1]


def gone(pids: set[int], seconds: float = PATIENCE) -> bool:
    """Whether all of these processes are, within a while; nobody signals when a stranger ends."""
    deadline = time.monotonic() + seconds
    while any(map(psutil.pid_exists, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def left() -> set[int]:
    """The commands of this test that run, and what they became."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if MARK in process.cmdline():
                found.add(process.pid)
    return found


# --- other programs


OTHERS: Final = {
    "a shell's": "sh -c '/bin/cat /etc/passwd; exec /bin/ls'",
    "by exec": "exec /bin/ls /",
    "the loader": "/lib64/ld-linux-x86-64.so.2 /bin/ls /",
    "itself": "/bin/sh -c 'echo escaped'",
    "env": "/usr/bin/env echo escaped",
}


@pytest.mark.parametrize("way", OTHERS)
def test_a_granted_command_starts_no_program_not_even_one_that_is_granted(worker: Any, way: str) -> None:
    code = """
        import subprocess
        done = subprocess.run(["sh", "-c", script], capture_output=True)
        result = [done.stdout, done.returncode]
    """
    out, status = worker().run(code, script=OTHERS[way])
    assert out == b""
    assert status != 0


def test_find_executes_nothing(worker: Any, places: Path) -> None:
    code = "import subprocess; result = subprocess.run(command, capture_output=True).stdout"
    command = [FIND, str(places / "granted"), "-exec", "/bin/echo", "escaped", ";"]
    assert worker(FIND, SHELL).run(code, command=command) == b""


def test_git_starts_no_alias_no_pager_and_no_hook(worker: Any, places: Path) -> None:
    git = "/usr/bin/git"
    if not os.path.exists(git):
        pytest.skip("git")
    ran = places / "granted" / "ran"
    code = """
        import subprocess
        environment = {"GIT_CONFIG_NOSYSTEM": "1", "HOME": folder, "GIT_PAGER": "touch " + ran, "PATH": "/usr/bin:/bin"}
        subprocess.run(["git", "-c", "alias.x=!touch " + ran, "x"], cwd=folder, env=environment)
        subprocess.run(["git", "--paginate", "init", "."], cwd=folder, env=environment)
        import os
        os.makedirs(folder + "/.git/hooks", exist_ok=True)
        hook = os.open(folder + "/.git/hooks/post-commit", os.O_CREAT | os.O_WRONLY, 0o700)
        os.write(hook, b"#!/bin/sh\\ntouch " + ran.encode())
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=b", "commit", "--allow-empty", "-m", "made"],
                       cwd=folder, env=environment)
        result = subprocess.check_output(["git", "log", "--format=%s"], cwd=folder, env=environment)
    """
    assert worker(git).run(code, folder=places / "granted", ran=ran) == b"made\n"
    assert not ran.exists()


NATIVE_WAYS: Final = {
    "execve": "os.execve('/bin/ls', ['ls', '/'], {})",
    "of itself": f"os.execve({PYTHON!r}, ['python', '-c', 'print(1)'], {{}})",
    "vfork": "import subprocess; subprocess.run(['/bin/ls', '/'])",
    "execveat": "done(libc.execveat(os.open('/bin/ls', os.O_PATH), b'', None, None, 0x1000))",
    "memfd": "done(libc.memfd_create(b'x', 0))",
    "code in memory": "libc.mmap.restype = ctypes.c_ssize_t; done(libc.mmap(None, 4096, 7, 0x22, -1, 0))",
    "a setuid program": "os.execv('/bin/su', ['su'])",
}


@pytest.mark.parametrize("way", NATIVE_WAYS)
def test_native_code_in_a_command_executes_nothing(worker: Any, way: str) -> None:
    out, error = native(worker(), NATIVE_WAYS[way])
    assert out == ""
    assert "Error" in error


def test_what_the_plugin_can_write_does_not_run(worker: Any, places: Path) -> None:
    program = places / "granted" / "program"
    code = """
        import subprocess
        with open(program, "w") as file:
            file.write("#!/bin/sh\\necho escaped")
        import os
        os.chmod(program, 0o755)
        subprocess.run([program])
    """
    start = worker("*")
    program.write_text("")
    program.chmod(0o755)
    assert start.reason(code, program=program)[:2] == ("PermissionDenied", "run")
    assert start.attempt(code, program=program)[3].count("may write to that file") == 1


def test_a_link_that_the_plugin_can_write_does_not_run(worker: Any, places: Path) -> None:
    """Else it would choose the program by what the link leads to."""
    link = places / "granted" / "program"
    code = "import os, subprocess; os.symlink('/bin/echo', link); subprocess.run([link, 'escaped'])"
    start = worker(str(link))
    assert start.reason(code, link=link)[:2] == ("PermissionDenied", "run")


def test_a_script_does_not_run_by_an_interpreter_that_the_plugin_can_write(worker: Any, places: Path) -> None:
    script, interpreter = places / "script", places / "granted" / "interpreter"
    script.write_text(f"#!{interpreter}\n")
    for file in (script, interpreter):
        file.touch()
        file.chmod(0o755)
    code = """
        import os, shutil, subprocess
        with open(interpreter, "w") as file:
            file.write("#!/bin/echo\\n")
        subprocess.run([script])
    """
    assert worker(str(script)).reason(code, script=script, interpreter=interpreter)[::2] == ("PermissionError", 13)


def test_a_link_on_the_way_that_the_plugin_can_write_does_not_run(worker: Any, places: Path) -> None:
    """The link that is granted is out of the plugin's reach; the one that it leads to is not."""
    granted, planted = places / "program", places / "granted" / "link"
    granted.symlink_to(planted)
    code = "import os, subprocess; os.symlink('/bin/echo', planted); subprocess.run([granted, 'escaped'])"
    paths = {"granted": granted, "planted": planted}
    assert worker(str(granted)).reason(code, **paths)[:2] == ("PermissionDenied", "run")


def test_a_script_does_not_run_by_an_interpreter_behind_a_link_that_the_plugin_can_write(
    worker: Any, places: Path
) -> None:
    script, interpreter, planted = places / "script", places / "interpreter", places / "granted" / "link"
    script.write_text(f"#!{interpreter}\n")
    script.chmod(0o755)
    interpreter.symlink_to(planted)
    code = "import os, subprocess; os.symlink('/bin/cat', planted); subprocess.run([script])"
    assert worker(str(script)).reason(code, script=script, planted=planted)[::2] == ("PermissionError", 13)


def test_a_rule_through_a_link_that_the_plugin_can_write_does_not_start(worker: Any, places: Path) -> None:
    (places / "granted" / "link").symlink_to("/bin")
    (places / "folder").symlink_to(places / "granted" / "link")
    with pytest.raises(host.PluginStartError, match="leads through the symbolic link"):
        worker(str(places / "folder" / "echo")).run("result = 1")


def test_a_folder_that_the_plugin_replaces_grants_nothing_after_a_restart(worker: Any, places: Path) -> None:
    (places / "granted" / "bin").mkdir()
    program = places / "granted" / "bin" / "echo"
    attack = worker(str(program))
    attack.run("import os; os.rmdir(folder); os.symlink('/usr/bin', folder)", folder=program.parent)
    with pytest.raises(host.PluginStartError, match="leads through the symbolic link"):
        attack.plugin.restart()


@pytest.mark.parametrize("called", ["/granted/bin/python", "./python", "../python", "granted/python"])
def test_a_command_is_not_called_by_another_folder(worker: Any, places: Path, called: str) -> None:
    """Programs look for their parts beside argv[0]: Python for its library."""
    called = called.replace("/granted", str(places / "granted")).replace("python", os.path.basename(PYTHON))
    code = "import subprocess; subprocess.run([called, '-c', ''], executable=program, cwd=folder)"
    found = worker().reason(code, called=called, program=PYTHON, folder=places / "granted")
    assert found[:2] == ("PermissionDenied", "run")


def test_a_path_to_the_program_arrives_as_the_one_that_was_judged(worker: Any, places: Path) -> None:
    (places / "granted" / "link").symlink_to("/bin")
    code = """
        import subprocess
        result = subprocess.run([path, "-c", "echo $0"], executable="/bin/sh", capture_output=True).stdout
    """
    found = worker().run(code, path=places / "granted" / "link" / "sh")
    assert found == os.fsencode(os.path.join(os.path.realpath("/bin"), "sh")) + b"\n"


# --- files, network, other processes


def test_a_command_reads_and_writes_what_its_worker_may(worker: Any, places: Path, secret: str) -> None:
    attack = worker()
    inside, outside = places / "granted" / "new", places / "outside" / "secret.txt"
    assert native(attack, "open(sys.argv[1], 'w').write('x')", inside) == ("", "")
    assert inside.read_text() == "x"
    for code in ("print(open(sys.argv[1]).read())", "open(sys.argv[1], 'w')", "print(os.listdir('/etc'))",
                 "os.unlink(sys.argv[1])", "os.rename(sys.argv[1], sys.argv[1] + 'x')", "os.link(sys.argv[1], 'x')",
                 "os.chdir('/root'); print(os.listdir())", "print(open('/proc/self/environ').read())"):  # fmt: skip
        out, error = native(attack, code, outside)
        assert (out, "Error" in error) == ("", True), (code, error)
    assert outside.read_text() == secret


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    ],
)
def test_a_command_has_no_network_whatever_its_worker_has(attacker: Any, code: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        rules = {"run": [PYTHON], "net.connect": [{"target": f"127.0.0.1:{port}", "private": True}]}
        out, error = native(attacker(permissions=rules), code, port)
    assert (out, "Error" in error) == ("", True)


def is_spawner(process: psutil.Process) -> bool:
    """Whether it is the spawner, or was forked from it and executed nothing."""
    return "walls.spawner" in process.cmdline()[-1]


def spawner_of() -> psutil.Process:
    """This process's own."""
    [found] = [process for process in psutil.Process().children() if is_spawner(process)]
    return found


def test_a_command_signals_traces_and_limits_nobody(worker: Any) -> None:
    attack = worker()
    worker_pid = attack.plugin.pid
    family = [os.getpid(), worker_pid, *(process.pid for process in psutil.Process().children(recursive=True))]
    code = """
        try:
            os.kill(-1, 9)  # the kernel says "done" when there was nobody
        except OSError:
            pass
        for pid in map(int, sys.argv[1:]):
            for attempt in (
                lambda: os.kill(pid, 9), lambda: os.killpg(pid, 9), lambda: done(libc.ptrace(16, pid, 0, 0)),
                lambda: done(libc.prlimit(pid, 7, b"\\0" * 16, None)), lambda: os.setpriority(0, pid, 19),
                lambda: os.sched_setaffinity(pid, {0}), lambda: done(libc.tgkill(pid, pid, 9)),
                lambda: done(libc.process_vm_readv(pid, None, 0, None, 0, 0)), lambda: os.pidfd_open(pid),
            ):
                try:
                    attempt()
                except OSError:
                    continue
                print(pid)
    """
    prepared = {
        p.pid for p in spawner_of().children() if is_spawner(p) and not p.children()
    }  # made anew as mounts change
    out, _ = native(attack, textwrap.dedent(code), *family)
    assert out == ""
    assert all(psutil.pid_exists(pid) for pid in family if pid not in prepared)
    assert native(attack, "print(1)")[0] == "1\n"
    assert attack.plugin.pid == worker_pid
    assert attack.run("result = 1") == 1


def test_a_command_has_three_descriptors(worker: Any) -> None:
    code = "import fcntl\nfor d in range(3, 4096):\n  try: fcntl.fcntl(d, 1); print(d)\n  except OSError: pass"
    assert native(worker(), code) == ("", "")


# --- what they become


DAEMON: Final = """
import os, signal, time
if os.fork(): os._exit(0)
os.setsid()
parent = os.getpid()
if os.fork(): os._exit(0)
while os.getppid() == parent: time.sleep(0.001)
for number in (1, 2, 3, 13, 15): signal.signal(number, signal.SIG_IGN)
print("daemon", flush=True)
while True: time.sleep(1)
"""


def test_what_daemonises_dies_with_its_worker(worker: Any) -> None:
    """And although it holds the pipes that its worker gave it."""
    attack = worker()
    code = f"""
        import subprocess
        process = subprocess.Popen([interpreter, "-ISBc", {DAEMON!r}], stdout=subprocess.PIPE)
        result = process.stdout.readline()
    """
    assert attack.run(code, interpreter=PYTHON) == b"daemon\n"
    daemons = left()
    assert daemons
    os.kill(attack.plugin.pid, 9)
    assert gone(daemons)


@pytest.mark.parametrize("end", ["close", "restart", "the spawner's"])
def test_what_daemonises_dies_with_its_host(worker: Any, end: str) -> None:
    attack = worker()
    code = f"""
        import subprocess
        process = subprocess.Popen([interpreter, "-ISBc", {DAEMON!r}], stdout=subprocess.PIPE)
        result = process.stdout.readline()
    """
    attack.run(code, interpreter=PYTHON)
    daemons = left()
    assert daemons
    if end == "close":
        attack.plugin.close()
        assert gone(daemons, 0)
    elif end == "restart":
        attack.plugin.restart()
        assert gone(daemons, 0)
    else:
        [spawner] = [p for p in psutil.Process().children() if "walls.spawner" in p.cmdline()[-1]]
        spawner.kill()
        assert gone(daemons)


def test_a_keeper_that_is_killed_takes_its_commands_along(worker: Any) -> None:
    """At once where it is the first process of a namespace, else when its worker is replaced."""
    attack = worker()
    code = f"""
        import subprocess
        process = subprocess.Popen([interpreter, "-ISBc", {DAEMON!r}], stdout=subprocess.PIPE)
        result = process.stdout.readline()
    """
    attack.run(code, interpreter=PYTHON)
    daemons = left()
    [keeper] = [p for p in spawner_of().children() if is_spawner(p) and p.children()]
    keeper.kill()
    assert attack.attempt("import subprocess; subprocess.run(['sh'])")[0] == "BrokenPipeError"
    if worker.tier == "walled":
        assert gone(daemons)
    attack.plugin.restart()
    assert gone(daemons, 0)
    assert attack.run("import subprocess; result = subprocess.call(['sh', '-c', 'exit 3'])") == 3


BOMBS: Final = {
    "forks": "import os\nwhile True: os.fork()",
    "daemons": "import os\nwhile True:\n  if not os.fork():\n    os.setsid(); os.fork()",
    "threads": "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
    "memory together": "import os\n[os.fork() for _ in range(3)]\nx = b'x' * (60 << 20)\nwhile True: pass",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_ended_and_the_worker_lives(worker: Any, bomb: str) -> None:
    attack = worker(PYTHON, limits={"memory": "256 MiB", "call_timeout": "20 s"})
    code = f"import subprocess; result = subprocess.run([interpreter, '-ISBc', {BOMBS[bomb]!r}]).returncode"
    assert attack.run(code, interpreter=PYTHON) != 0
    assert gone(left())
    assert attack.run("import subprocess; result = subprocess.call([interpreter, '-c', ''])", interpreter=PYTHON) == 0
    assert any("the commands were ended" in line for line in attack.plugin.logs()) or bomb == "threads"


def test_processor_time_is_limited(worker: Any) -> None:
    attack = worker(SHELL, limits={"cpu_time": "300 ms", "call_timeout": "20 s"})
    code = "import subprocess; result = subprocess.call(['sh', '-c', 'while :; do :; done & while :; do :; done'])"
    assert attack.run(code) == -9


def test_commands_are_as_many_as_threads_and_no_more(worker: Any) -> None:
    code = """
        import subprocess
        running = []
        try:
            for _ in range(9):
                running.append(subprocess.Popen(["sh", "-c", "read x"], stdin=subprocess.PIPE))
        except BlockingIOError:
            pass
        result = len(running)
        for process in running:
            process.kill()
            process.wait()
    """
    assert worker(SHELL, limits={"threads": 4}).run(code) == 4


# --- native code in the worker speaks to the keeper itself


ASK: Final = """
import _socket, os
from sandbox_worker import wire
keeper = _socket.socket(fileno=6)
def send(data, descriptors=()):
    rights = b"".join(d.to_bytes(4, "little") for d in descriptors)
    keeper.sendmsg([data], [(1, 1, rights)] if rights else [])
def ask(*message, descriptors=()):
    send(wire.Encoder().encode(list(message))[4:], descriptors)
    data, rights, _, _ = keeper.recvmsg(1024, 64)
    return wire.decode(data) if data else None
"""


def test_the_keeper_decides_itself(worker: Any) -> None:
    attack = worker({"target": "/bin/echo", "argv": ["a"]})
    code = ASK + "result = ask('start', [path], argv, env, b'/', 0o77, descriptors=(0, 1, 2))"

    def asked(path: str, *argv: str, env: tuple[str, ...] = ()) -> Any:
        plain = {"path": path, "argv": list(argv), "env": list(env)}
        text = code.replace("[path]", "[path.encode()]").replace(
            "argv, env", "[a.encode() for a in argv], [e.encode() for e in env]"
        )
        return attack.run(text + "\nkeeper.detach()", **plain)

    assert asked("/bin/echo", "echo", "a")[0] == "started"
    assert asked("/bin/echo", "echo", "b") == ["refused", "arguments"]
    assert asked("/bin/echo", "sh", "a") == ["refused", "name"]
    assert asked("/bin/sh", "sh", "-c", "x") == ["refused", "no-rule"]
    assert asked("/proc/self/root/bin/sh", "sh") == ["refused", "no-rule"]
    assert asked("/bin/../bin/sh", "sh") == ["refused", "no-rule"]
    assert asked("/bin/echo", "echo", "a", env=("LD_PRELOAD=/x",)) == ["refused", "variable LD_PRELOAD"]


FORGED: Final = {
    "nothing": "send(b'')",
    "no msgpack": "send(b'\\xc1\\xff')",
    "no array": "send(b'\\x01')",
    "an unknown kind": "ask('spawn')",
    "too few fields": "ask('start', [b'/bin/sh'], descriptors=(0, 1, 2))",
    "no descriptors": "ask('start', [b'/bin/sh'], [b'sh'], [], b'/', 0)",
    "two descriptors": "ask('start', [b'/bin/sh'], [b'sh'], [], b'/', 0, descriptors=(0, 1))",
    "four descriptors": "ask('start', [b'/bin/sh'], [b'sh'], [], b'/', 0, descriptors=(0, 1, 2, 0))",
    "253 descriptors": "ask('start', [b'/bin/sh'], [b'sh'], [], b'/', 0, descriptors=[0] * 253)",
    "a descriptor with a signal": "ask('signal', 1, 9, False, descriptors=(0,))",
    "a huge message": "send(b'x' * 200000)",
    "depth": "send(b'\\x91' * 100000)",
    "the end": "keeper.close()",
    "no ear": "[send(wire.Encoder().encode(['signal', 1, 0, False])[4:]) for _ in range(100000)]",
}


@pytest.mark.parametrize("forgery", FORGED)
def test_a_worker_that_breaks_the_protocol_loses_its_commands_and_harms_nobody(worker: Any, forgery: str) -> None:
    attack = worker()
    before = psutil.Process().num_fds()
    attack.attempt(ASK + FORGED[forgery])
    assert attack.run("result = 'alive'") == "alive"
    assert attack.attempt("import subprocess; subprocess.run(['sh', '-c', ':'])")[0] in ("BrokenPipeError", "OSError")
    attack.plugin.restart()
    assert attack.run("import subprocess; result = subprocess.call(['sh', '-c', 'exit 3'])") == 3
    assert psutil.Process().num_fds() <= before + 2


def test_a_number_names_a_workers_own_commands_alone(worker: Any) -> None:
    attack = worker()
    code = ASK + "result = [ask('signal', n, 9, g) for n in numbers for g in (False, True)]\nkeeper.detach()"
    numbers = [0, 1, -1, os.getpid(), attack.plugin.pid, 1 << 22, (1 << 22) + 1, (1 << 22) + 2]
    answers = attack.run(code, numbers=numbers)
    assert answers == [["failed", 3, 0]] * 2 * len(numbers)


def test_two_thousand_requests_leave_nothing_behind(worker: Any) -> None:
    attack = worker(limits={"call_timeout": "60 s"})
    code = (
        ASK
        + """
for _ in range(2000):
    assert ask('start', [b'/bin/none'], [b'none'], [], b'/', 0, descriptors=(0, 1, 2))[0] == 'refused'
keeper.detach()
import subprocess
result = subprocess.call(['sh', '-c', 'exit 3'])
"""
    )
    assert attack.run(code) == 3
    keepers = [p for p in psutil.Process().children(recursive=True) if "walls.spawner" in " ".join(p.cmdline())]
    assert all(process.num_fds() < 400 for process in keepers)


def test_a_status_pipe_that_the_worker_fills_holds_nobody_up(worker: Any) -> None:
    attack = worker()
    code = """
        import os, subprocess
        from sandbox_worker import commands
        process = subprocess.Popen(["sh", "-c", "read x"], stdin=subprocess.PIPE)
        try:
            full = os.open(f"/proc/self/fd/{commands._running[process.pid]}", os.O_WRONLY | os.O_NONBLOCK)
            while True: os.write(full, b"x" * 4096)
        except OSError:
            pass
        process.kill()
        result = subprocess.call(["sh", "-c", "exit 3"])
    """
    assert attack.run(code) == 3
