"""The spawner as its host sees it: real processes, and what becomes of them when one of the three dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from walls_driver import CHECKOUT, LIMITS, PATIENCE, Host, Worker, ended, need, read_all

from sandbox_worker.walls.workers import GRACE

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT = "import os; os.write(4, b'!'); os.read(3, 1)"
SPIN = "import os; os.write(4, b'!')\nwhile True: pass"


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    need(host.ready["landlock_abi"] and host.ready["seccomp"], "Landlock and seccomp")
    yield host
    host.close()


def started(host: Host, code: str, **changes: object) -> Worker:
    """A worker that has begun to run `code`."""
    worker = host.spawn(code, **changes)
    assert os.read(worker.replies, 1) == b"!", os.read(worker.log, 4096)
    return worker


# ---------------------------------------------------------------- start


def test_the_spawner_says_what_the_machine_has(host: Host) -> None:
    assert host.ready["machine"] == os.uname().machine
    assert host.ready["arch_supported"] is True
    assert host.ready["missing"] == []
    assert host.ready["skipped"] == []


def test_base_rules_that_name_nothing_are_reported() -> None:
    host = Host(base=False)
    rules = [*host.base_rules(), ["/nowhere/at/all", "r"]]
    kind, content = host.ask("base", host.base() | {"rules": rules})
    assert (kind, content["skipped"]) == ("ready", ["/nowhere/at/all"] if content["landlock_abi"] else [])
    host.close()


@pytest.mark.parametrize(
    "base",
    [
        {"rules": [], "interpreter": "/nowhere"},
        {"rules": [["/usr", "q"]], "interpreter": sys.executable},
        {"rules": [["usr", "r"]], "interpreter": sys.executable},
        {"rules": [], "interpreter": __file__},
        {"rules": []},
        [],
    ],
    ids=["no interpreter", "an unknown access", "a relative path", "no program", "a key missing", "no map"],
)
def test_a_base_that_makes_no_sense_is_an_error_and_the_end(base: object) -> None:
    host = Host(base=False)
    assert host.ask("base", base)[0] == "error"
    assert host.process.wait(PATIENCE) == 0
    host.close()


def test_the_spawner_keeps_nothing_of_what_started_its_host(host: Host) -> None:
    """A session and folder of its own, no capabilities, and no descriptors but its own."""
    pid = host.process.pid
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    status = Path(f"/proc/{pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "Threads:\t1\n" in status
    targets = {int(path.name): os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
    assert {targets[number] for number in (0, 3, 4, 5)} == {"/dev/null"}
    own = ("socket:", "anon_inode:[pidfd]", "user:[", *(path for path, _ in host.base_rules()), "/")
    assert all(target.startswith(own) for number, target in targets.items() if number > 5)
    assert len([target for target in targets.values() if target.startswith("socket:")]) == 1


def test_inherited_signal_settings_reach_no_worker(tmp_path: Path) -> None:
    """A host may ignore SIGCHLD, which would reap the workers unseen, or block signals."""
    script = tmp_path / "host.py"
    script.write_text(
        "import os, signal, sys\n"
        f"sys.path[:0] = {[str(CHECKOUT / 'tests'), str(CHECKOUT), *sys.path]!r}\n"
        "from walls_driver import Host\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        "host = Host()\n"
        "code = 'import os, signal; os.write(4, repr((signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,'\n"
        "code += 'signal.pthread_sigmask(signal.SIG_BLOCK, ()))).encode())'\n"
        "reply, log, status = host.run(code, tier='filtered')\n"
        "print(reply.decode(), status)\n"
        "host.close()\n"
    )
    done = subprocess.run([sys.executable, "-B", script], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.stdout == "(True, set()) 0\n", done.stderr


# ---------------------------------------------------------------- workers


def test_a_worker_gets_its_pipes_in_their_places(host: Host) -> None:
    code = """
import os
print('to the log'); os.write(2, b' and its errors'); os.write(4, os.read(3, 5)); os.write(5, b'event')
"""
    worker = host.spawn(code)
    os.write(worker.calls, b"call!")
    assert worker.reply() == b"call!"
    assert os.read(worker.events, 9) == b"event"
    assert read_all(worker.log) == b" and its errorsto the log\n"
    assert host.reap(worker) == 0


def test_the_event_pipe_never_blocks_a_worker(host: Host) -> None:
    code = """
import os
try:
    while True: os.write(5, bytes(4096))
except BlockingIOError:
    os.write(4, b'full')
"""
    assert host.run(code)[0] == b"full"


def test_arguments_environment_and_folder_are_those_of_the_host(host: Host, tmp_path: Path) -> None:
    code = "import os, sys; os.write(4, repr((sys.argv[1:], dict(os.environ), os.getcwd())).encode())"
    argv = [host.interpreter, "-I", "-S", "-B", "-c", code, "", "a b", "ü"]
    environment = {"LC_CTYPE": "C.UTF-8", "A": "", "B": "=", "C": "ü"}
    reply, _, _ = host.run(code, argv=argv, env=environment, cwd=str(tmp_path.resolve()))
    assert reply.decode() == repr((["", "a b", "ü"], environment, str(tmp_path.resolve())))


def test_the_pid_is_the_one_that_the_worker_has(host: Host) -> None:
    worker = host.spawn("import os; os.write(4, str(os.getpid()).encode())")
    assert int(worker.reply()) == worker.pid
    host.reap(worker)


def test_the_host_can_look_at_a_workers_descriptors(host: Host) -> None:
    worker = started(host, WAIT)
    assert os.readlink(f"/proc/{worker.pid}/fd/0") == "/dev/null"
    host.reap(worker)


def test_without_landlock_the_filter_holds(host: Host) -> None:
    code = """
import os, socket
try: socket.socket()
except PermissionError: os.write(4, b'no socket, ')
try: os.fork()
except PermissionError: os.write(4, b'no fork, ')
os.close(os.open('/etc/passwd', os.O_RDONLY)); os.write(4, b'any file')
"""
    assert host.run(code, tier="filtered")[0] == b"no socket, no fork, any file"


def test_grants_of_one_worker_are_not_those_of_the_next(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code = f"""
import os
try: os.write(4, os.read(os.open({str(tmp_path.resolve() / "file")!r}, os.O_RDONLY), 9))
except PermissionError: os.write(4, b'refused')
"""
    assert host.run(code, rules=[[str(tmp_path.resolve()), "r"]])[0] == b"x"
    assert host.run(code)[0] == b"refused"


@pytest.mark.parametrize(
    "changes",
    [
        {"tier": "fortified"},
        {"tier": 5},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"env": {"A": "nu\0ll"}},
        {"argv": ["nu\0ll"]},
        {"argv": 7},
        {"limits": {"data": -1}},
        {"limits": {"what": 1}},
        {"limits": {"data": "1"}},
        {"rules": [["relative", "r"]]},
        {"rules": [["/usr", "z"]]},
        {"rules": [["/usr"]]},
    ],
    ids=str,
)
def test_a_wish_that_makes_no_sense_is_an_error_and_the_spawner_goes_on(host: Host, changes: dict[str, object]) -> None:
    answer, _ = host.try_to_spawn("", **changes)
    assert answer[0] == "error"
    assert host.run("import os; os.write(4, b'fine')")[0] == b"fine"


def test_no_wish_leaves_a_descriptor_in_the_spawner(host: Host) -> None:
    folder = Path(f"/proc/{host.process.pid}/fd")
    before = len(os.listdir(folder))
    for _ in range(3):
        host.run("pass")
        host.try_to_spawn("", limits={"what": 1})
    host.ask("reap", 0)  # its answer comes after all that the answers before left to do
    assert len(os.listdir(folder)) <= before + 1  # the ruleset that is prepared for the next


def test_limits_above_those_of_the_host_are_cut_to_them(host: Host) -> None:
    code = "import os, resource; os.write(4, repr(resource.getrlimit(resource.RLIMIT_NOFILE)).encode())"
    reply, _, _ = host.run(code, limits=LIMITS | {"nofile": 2**40})
    soft, hard = eval(reply)
    assert soft == hard <= 2**30


# ---------------------------------------------------------------- the end of a worker


def test_a_worker_that_has_ended_is_reaped_with_its_status(host: Host) -> None:
    worker = host.spawn("import os; os._exit(7)")
    assert ended(worker.pidfd)
    assert os.WEXITSTATUS(host.reap(worker)) == 7


def test_a_dead_worker_keeps_its_pid_until_it_is_reaped(host: Host) -> None:
    worker = host.spawn("import os; os._exit(7)")
    assert ended(worker.pidfd)
    assert Path(f"/proc/{worker.pid}/stat").read_text().rsplit(") ")[1][0] == "Z"
    host.reap(worker)
    assert not Path(f"/proc/{worker.pid}").exists()


def test_a_worker_that_does_not_end_is_killed_after_a_second(host: Host) -> None:
    worker = started(host, SPIN)
    began = time.monotonic()
    assert os.WTERMSIG(host.reap(worker)) == signal.SIGKILL
    assert GRACE <= time.monotonic() - began < PATIENCE


def test_nobody_waits_for_a_worker_that_is_given_its_grace(host: Host) -> None:
    slow = started(host, SPIN)
    host.send("reap", slow.pid)
    assert host.run("import os; os.write(4, b'meanwhile')")[0] == b"meanwhile"
    assert host.receive()[:2] == ["reaped", slow.pid]


def test_reaping_what_is_no_worker_is_an_error(host: Host) -> None:
    assert host.ask("reap", os.getpid())[0] == "error"
    worker = host.spawn("pass")
    host.reap(worker)
    assert host.ask("reap", worker.pid)[0] == "error"


# ---------------------------------------------------------------- the end of all


@pytest.mark.parametrize("code", [WAIT, SPIN], ids=["waiting", "spinning"])
def test_workers_die_with_the_spawner(host: Host, code: str) -> None:
    worker = started(host, code)
    host.process.kill()
    assert ended(worker.pidfd)


def test_workers_die_when_the_host_hangs_up(host: Host) -> None:
    workers = [started(host, SPIN), started(host, WAIT)]
    host.control.close()
    assert all(ended(worker.pidfd) for worker in workers)
    assert host.close() == 0


@pytest.mark.parametrize(
    "garbage",
    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x01\xc0", b"\0\0\0\x07\x91\xa5spawn", b"\0\0\0\x06\x91\xa4what"],
)
def test_garbage_ends_the_spawner_and_all_workers(host: Host, garbage: bytes) -> None:
    worker = started(host, SPIN)
    host.send_raw(garbage)
    assert ended(worker.pidfd)
    assert host.process.wait(PATIENCE) == 0


def test_spawner_and_workers_die_with_the_host(tmp_path: Path) -> None:
    """Even when another process holds the host's end of the socket open."""
    script = tmp_path / "host.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path[:0] = {[str(CHECKOUT / 'tests'), str(CHECKOUT), *sys.path]!r}\n"
        "from walls_driver import Host\n"
        "host = Host()\n"
        f"workers = [host.spawn({SPIN!r}, tier='filtered'), host.spawn({WAIT!r}, tier='filtered')]\n"
        "for worker in workers: os.read(worker.replies, 1)\n"
        "heir = os.fork() or (os.close(1), time.sleep(60), os._exit(0))\n"
        "print(host.process.pid, *(worker.pid for worker in workers), heir, flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-B", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    *pids, heir = map(int, process.stdout.readline().split())
    pidfds = [os.pidfd_open(pid) for pid in pids]
    try:
        process.kill()
        assert all(ended(pidfd) for pidfd in pidfds)
    finally:
        os.kill(heir, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for pidfd in pidfds:
            os.close(pidfd)


def test_a_spawner_whose_host_is_not_its_parent_ends_at_once() -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(CHECKOUT), *sys.path]!r}\n"
        "from sandbox_worker.walls.spawner import main\n"
        "import socket\n"
        "main(socket.socketpair()[0].detach(), 1)"
    )
    done = subprocess.run([sys.executable, "-S", "-B", "-c", code], check=False, timeout=PATIENCE)
    assert done.returncode == 0


def test_root_without_the_right_to_drop_rights_still_has_none() -> None:
    """A container may take CAP_SETPCAP away from its root."""
    host = Host(before="from sandbox_worker.walls import linux; linux.drop_capabilities()")
    need(host.ready["landlock_abi"] and host.ready["seccomp"], "Landlock and seccomp")
    worker = started(host, WAIT)
    status = Path(f"/proc/{worker.pid}/status").read_text()
    assert "CapPrm:\t0000000000000000" in status
    assert "CapEff:\t0000000000000000" in status
    host.reap(worker)
    host.close()
