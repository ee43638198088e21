"""What a worker can't do, at kernel strength: real workers without any hook, each attempt by the bare call.

All attempts of the table run in one worker per situation: as ourselves and, for root, as an ordinary user; on the bare
machine and under what a container refuses on top.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from walls_driver import LIKE_DOCKER, LIMITS, NOBODY, SYSTEM_PYTHON, Host, Worker, need

from sandbox_worker.walls.steps import EXIT_BASE, STEPS, step_of
from sandbox_worker.walls.syscalls import ARCHITECTURES

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS: Final = ARCHITECTURES[os.uname().machine].numbers if os.uname().machine in ARCHITECTURES else {}
NO_MOVE: Final = "EACCES EXDEV"

PROLOGUE: Final = """
import array, ctypes, errno, fcntl, json, mmap, os, resource, shutil, socket, struct, sys, threading, zipfile
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(name, *arguments):
    number = NUMBERS[name] if isinstance(name, str) else name
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(value) for value in arguments])
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result
def text(value):
    KEPT.append(ctypes.create_string_buffer(os.fsencode(value)))
    return ctypes.addressof(KEPT[-1])
def space(size):
    KEPT.append(ctypes.create_string_buffer(size))
    return ctypes.addressof(KEPT[-1])
KEPT = []
def families():
    found = set()
    for family in range(46):
        for kind in (1, 2, 3, 5, 10):
            try:
                found.add(call('socket', family, kind, 0))
            except OSError as error:
                found.add(errno.errorcode[error.errno])
    return found
def thread():
    one = threading.Thread(target=RESULTS.append, args=(1,))
    one.start(); one.join()
    return RESULTS
RESULTS = []
def touch_copy_unzip():
    shutil.copy2(R + '/file', W + '/copy')
    with zipfile.ZipFile(W + '/z.zip', 'w') as archive:
        archive.write(R + '/file', 'inner')
    zipfile.ZipFile(W + '/z.zip').extractall(W)
    os.utime(W + '/copy')
    return open(W + '/inner').read()
def code_from_file():
    with open(W + '/code', 'wb') as file:
        file.write(bytes(4096))
    fd = os.open(W + '/code', os.O_RDWR)
    return fd
def own_folder():
    os.mkdir(W + '/d'); open(W + '/d/a', 'w').close(); os.rename(W + '/d/a', W + '/b'); os.symlink('b', W + '/s')
    os.unlink(W + '/s'); os.unlink(W + '/b'); os.rmdir(W + '/d')
def pair():
    PAIRS.append(socket.socketpair())
    return PAIRS[-1][0].fileno()
PAIRS = []
def sqlite():
    import sqlite3
    with sqlite3.connect(W + '/db.sqlite') as db:
        db.execute('create table t (x)'); db.execute('insert into t values (7)')
        return db.execute('select x from t').fetchone()
def run_asyncio():
    import asyncio
    async def main():
        await asyncio.sleep(0)
        return await asyncio.to_thread(lambda: 5)
    return asyncio.run(main())
def attempt(source):
    try:
        return repr(eval(source))
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))
    except BaseException as error:
        return repr(error)
os.write(4, json.dumps([attempt(source) for source in SOURCES]).encode())
os.close(4)
os.read(3, 1)
"""

# (promise, attempt, what comes of it: one or several errno names, or the value's repr)
ON_EVERY_MACHINE: Final[list[tuple[str, str, str]]] = [
    # files
    ("a granted file is read", "os.read(os.open(R + '/file', os.O_RDONLY), 9)", "b'readable'"),
    ("a granted folder is listed", "sorted(os.listdir(R))", "['file', 'small']"),
    ("another file is not read", "os.open(X + '/secret', os.O_RDONLY)", "EACCES"),
    ("nor by the bare call", "call('openat', -100, text(X + '/secret'), 0)", "EACCES"),
    ("nor through '..'", "os.open(R + '/../x/secret', os.O_RDONLY)", "EACCES"),
    ("nor through a link", "os.symlink(X + '/secret', W + '/link') or os.open(W + '/link', 0)", "EACCES"),
    (
        "nor by reopening a descriptor without rights",
        "os.open('/proc/self/fd/%d' % os.open(X + '/secret', os.O_PATH), os.O_RDONLY)",
        "EACCES",
    ),
    ("another folder is not listed", "os.listdir(X)", "EACCES"),
    ("a folder granted for listing is listed", "os.listdir(L)", "['seen']"),
    ("and its files are not read", "os.open(L + '/seen', os.O_RDONLY)", "EACCES"),
    ("/etc/passwd is not read", "os.open('/etc/passwd', os.O_RDONLY)", "EACCES"),
    ("the host's environment is not read", "os.open('/proc/%d/environ' % HOST, os.O_RDONLY)", "EACCES ENOENT"),
    ("the spawner's memory is not read", "os.open('/proc/%d/mem' % os.getppid(), os.O_RDONLY)", "EACCES ENOENT"),
    ("files are made, moved, linked and removed in a granted folder", "own_folder()", "None"),
    ("a file is written", "os.write(os.open(W + '/new', os.O_WRONLY | os.O_CREAT, 0o666), b'abc')", "3"),
    ("a readable file is not opened for writing", "os.open(R + '/file', os.O_WRONLY)", "EACCES"),
    ("nor made", "os.open(R + '/made', os.O_WRONLY | os.O_CREAT)", "EACCES"),
    ("nor emptied by opening it", "os.open(R + '/file', os.O_RDONLY | os.O_TRUNC)", "EACCES"),
    ("nor by the access mode that is neither reading nor writing", "os.open(R + '/file', 3 | os.O_TRUNC)", "EACCES"),
    ("nor by truncate", "os.truncate(R + '/file', 0)", "EACCES"),
    ("nor deleted", "os.unlink(R + '/file')", "EACCES"),
    ("nor moved out", "os.rename(R + '/file', W + '/file')", NO_MOVE),
    ("nothing is moved out of the granted folder", "os.rename(W + '/mine', X + '/mine')", NO_MOVE),
    ("no readable file becomes writable by a hard link", "os.link(R + '/file', W + '/hard')", NO_MOVE),
    ("no secret becomes readable by a hard link", "os.link(X + '/secret', W + '/hard')", NO_MOVE),
    ("no FIFO is made", "os.mkfifo(W + '/fifo')", "EPERM"),
    ("no device is made", "os.mknod(W + '/null', 0o20666, 0x103)", "EPERM"),
    ("no set-uid file is made", "os.open(W + '/suid', os.O_CREAT | os.O_WRONLY, 0o4755)", "EPERM"),
    ("openat2 is not there", "call('openat2', -100, text(R), space(24), 24)", "ENOSYS"),
    (
        "no file larger than the limit",
        "os.posix_fallocate(os.open(W + '/big', os.O_RDWR | os.O_CREAT), 0, 2 << 20)",
        "EFBIG",
    ),
    # metadata: success without effect, which the test of the effects looks at afterwards
    ("chmod pretends", "os.chmod(X + '/secret', 0o777)", "None"),
    ("chmod of a descriptor pretends", "os.fchmod(os.open(R + '/file', 0), 0o777)", "None"),
    ("utime pretends", "os.utime(X + '/secret', (1, 1))", "None"),
    ("chown pretends", "os.chown(X + '/secret', 12345, 12345)", "None"),
    ("copies, archives and time stamps work", "touch_copy_unzip()", "'readable'"),
    ("extended attributes are not supported", "os.setxattr(W + '/mine', 'user.x', b'1')", "EOPNOTSUPP ENOTSUP"),
    ("nor read", "os.getxattr(X + '/secret', 'user.x')", "EOPNOTSUPP ENOTSUP"),
    ("nor listed", "os.listxattr(X + '/secret')", "EOPNOTSUPP ENOTSUP"),
    ("nor removed", "os.removexattr(W + '/mine', 'user.x')", "EOPNOTSUPP ENOTSUP"),
    ("file attributes are not set", "call('file_setattr', -100, text(W), space(24), 24, 0)", "EPERM"),
    # programs
    ("no fork", "os.fork()", "EPERM"),
    ("no clone of the process", "call('clone', 17, 0, 0, 0, 0)", "EPERM"),
    ("clone3 is not there", "call('clone3', space(88), 88)", "ENOSYS"),
    ("threads work", "thread()", "[1]"),
    ("no other program", "os.execv('/bin/true', ['true'])", "EPERM"),
    ("not even the interpreter itself", "os.execv(PYTHON, [PYTHON, '-c', 'pass'])", "EPERM"),
    ("nor by descriptor", "os.execve(os.open(PYTHON, os.O_RDONLY), ['python'], {})", "EPERM"),
    ("nor by spawning", "os.posix_spawn(PYTHON, [PYTHON], {})", "EPERM"),
    # other processes
    ("no signal to the host", "os.kill(HOST, 0)", "EPERM"),
    ("nor to the spawner", "os.kill(os.getppid(), 9)", "EPERM"),
    ("nor to everybody", "os.kill(-1, 0)", "EPERM"),
    ("nor to a thread of the host", "call('tgkill', HOST, HOST, 0)", "EPERM"),
    ("nor by thread alone", "call('tkill', HOST, 0)", "EPERM"),
    ("nor with a value", "call('rt_sigqueueinfo', HOST, 0, space(128))", "EPERM"),
    ("nor through SIGIO", "fcntl.fcntl(0, 8, HOST)", "EPERM"),
    ("signals to itself arrive", "os.kill(os.getpid(), 0)", "None"),
    ("no handle of the host", "os.pidfd_open(HOST)", "EPERM"),
    ("no debugging of the host", "call('ptrace', 16, HOST, 0, 0)", "EPERM"),
    ("no reading of the host's memory", "call('process_vm_readv', HOST, space(16), 1, space(16), 1, 0)", "EPERM"),
    ("no limits for the host", "resource.prlimit(HOST, resource.RLIMIT_NOFILE, (9, 9))", "EPERM"),
    ("not even reading them", "resource.prlimit(HOST, resource.RLIMIT_NOFILE)", "EPERM"),
    ("its own limits can be read", "resource.prlimit(0, resource.RLIMIT_NOFILE)", "(64, 64)"),
    (
        "and not be raised",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))",
        "ValueError('not allowed to raise maximum limit')",
    ),
    ("no priority for the host", "os.setpriority(os.PRIO_PROCESS, HOST, 5)", "EPERM"),
    ("no processors for the host", "os.sched_setaffinity(HOST, {0})", "EPERM"),
    ("its own processors can be chosen", "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", "None"),
    ("no other session", "os.setsid()", "EPERM"),
    ("the parent's death stays deadly", "libc.prctl(1, 0, 0, 0, 0) or 'undone'", "-1"),
    # code
    ("no writable code", "mmap.mmap(-1, 4096, prot=7)", "EPERM"),
    ("no anonymous code", "mmap.mmap(-1, 4096, prot=5)", "EPERM"),
    ("no memory becomes code", "call('mprotect', call('mmap', 0, 4096, 3, 0x22, -1, 0), 4096, 5)", "EPERM"),
    ("no file mapped as writable code", "mmap.mmap(code_from_file(), 4096, mmap.MAP_SHARED, 7)", "EPERM"),
    ("no file without a name", "os.memfd_create('x')", "EPERM"),
    (
        "extension modules load",
        "[__import__(name).__name__ for name in ('_ssl', '_sqlite3', '_ctypes', '_bz2')]",
        "['_ssl', '_sqlite3', '_ctypes', '_bz2']",
    ),
    ("a TLS context is made", "__import__('ssl').SSLContext(16).verify_mode.name", "'CERT_REQUIRED'"),
    ("SQLite works on a granted folder", "sqlite()", "(7,)"),
    # network
    ("no socket of any family", "families()", "{'EACCES'}"),
    ("a connected pair works", "pair() >= 3", "True"),
    (
        "no pair of datagrams, which could send anywhere",
        "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "EPERM",
    ),
    ("a pair sends to no address", "call('sendto', pair(), text('x'), 1, 0, text('/dev/log'), 16)", "EPERM"),
    ("a pair opens no connection", "call('sendto', pair(), text('x'), 1, 0x20000000, 0, 0)", "EPERM"),
    ("a pair does not connect", "call('connect', pair(), space(16), 16)", "EPERM"),
    ("a pair does not listen", "call('listen', pair(), 1)", "EPERM"),
    ("a pair takes no program", "PAIRS[0][0].setsockopt(socket.SOL_SOCKET, 26, bytes(16))", "ENOPROTOOPT"),
    ("asyncio works", "run_asyncio()", "5"),
    # the kernel
    ("no io_uring", "call('io_uring_setup', 4, space(120))", "EPERM"),
    ("no keyrings", "call('keyctl', 0, -4, 0)", "EPERM"),
    ("no BPF", "call('bpf', 0, space(64), 64)", "EPERM"),
    ("no userfaultfd", "call('userfaultfd', 0)", "EPERM"),
    ("no performance counters", "call('perf_event_open', space(128), 0, -1, -1, 0)", "EPERM"),
    ("no namespaces", "call('unshare', 0x10000000)", "EPERM"),
    ("no mounts", "call('mount', text('none'), text(W), text('tmpfs'), 0, 0)", "EPERM"),
    ("no other root", "os.chroot(W)", "EPERM"),
    ("no shared memory segments", "call('shmget', 0, 4096, 0o1600)", "EPERM"),
    ("no message queues", "call('mq_open', text('x'), 0o102, 0o600, 0)", "EPERM"),
    ("no watching of files", "call('inotify_init1', 0)", "EPERM"),
    ("no typing into a terminal", "call('ioctl', 0, 0x5412, text('x'))", "ENOTTY"),
    ("not with high bits either", "call('ioctl', 0, 0x100005412, text('x'))", "ENOTTY"),
    ("no further filter", "call('seccomp', 1, 0, space(16))", "EPERM"),
    ("no further ruleset", "call('landlock_create_ruleset', 0, 0, 1)", "EPERM"),
    ("no other identity", "os.setuid(os.getuid())", "EPERM"),
    ("no code on the stack by personality", "call('personality', 0x0400000)", "EPERM"),
    ("calls of a future kernel are not there", "call(600)", "ENOSYS"),
]
ON_X86_64: Final[list[tuple[str, str, str]]] = [
    ("no vfork", "call('vfork')", "EPERM"),
    ("no reading by the legacy call", "call('open', text(X + '/secret'), 0)", "EACCES"),
    ("no set-uid file by the legacy call", "call('creat', text(W + '/suid'), 0o4755)", "EPERM"),
]
ATTEMPTS: Final = ON_EVERY_MACHINE + (ON_X86_64 if os.uname().machine == "x86_64" else [])


@dataclass(frozen=True, slots=True)
class Situation:
    """A live worker that has made all attempts, and what came of each."""

    host: Host
    worker: Worker
    folder: Path
    results: dict[str, str]


def folders(owner: int | None) -> Path:
    """r (readable), w (writable), l (listable), x (nothing granted), all open to the user as far as modes go."""
    root = Path(os.path.realpath(tempfile.mkdtemp(prefix="plughold-files-")))
    for name in "rwlx":
        (root / name).mkdir()
    (root / "r/file").write_text("readable")
    (root / "r/small").write_text("small")
    (root / "w/mine").write_text("mine")
    (root / "l/seen").write_text("seen")
    (root / "x/secret").write_text("secret")
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (1_000_000_000, 1_000_000_000))
        if owner is not None:
            os.chown(path, owner, owner)
    return root


def grants(root: Path) -> list[list[str]]:
    """Rules for what `folders` makes."""
    return [[f"{root}/r", "r"], [f"{root}/w", "rw"], [f"{root}/l", "l"], [f"{root}/vanished", "rw"]]


def payload(host: Host, root: Path) -> str:
    """The code that makes all attempts."""
    names: dict[str, object] = {letter.upper(): f"{root}/{letter}" for letter in "rwlx"}
    names |= {"HOST": os.getpid(), "PYTHON": host.interpreter, "NUMBERS": NUMBERS}
    names |= {"SOURCES": [source for _, source, _ in ATTEMPTS]}
    return "".join(f"{name} = {value!r}\n" for name, value in names.items()) + PROLOGUE


SITUATIONS: Final = [
    pytest.param((user, before, forks), id=f"{who}{where}{how}")
    for forks, how in ((False, ""), (True, ", forked"))
    for user, who in ((None, "ourselves"), (NOBODY, "nobody"))
    for before, where in (("", ""), (LIKE_DOCKER, " in a container"))
]


@pytest.fixture(scope="module", params=SITUATIONS)
def situation(request: pytest.FixtureRequest) -> Iterator[Situation]:
    user, before, forks = request.param
    if user is not None and (os.geteuid() != 0 or not Path(SYSTEM_PYTHON).exists()):
        pytest.skip("only root can start a worker as somebody else, with an interpreter that everybody can read")
    host, root = Host(user=user, before=before, forks=forks), folders(user)
    try:
        need(not host.ready["no_fork"], f"a fork server: {host.ready['no_fork']}")
        need(host.ready["landlock_abi"] and host.ready["seccomp"], "Landlock and seccomp")
        worker = host.spawn(payload(host, root), rules=grants(root), unjudged=True)
        reply = worker.reply()
        assert reply, os.read(worker.log, 65536).decode()
        results = dict(zip((promise for promise, _, _ in ATTEMPTS), json.loads(reply), strict=True))
        yield Situation(host, worker, root, results)
        assert os.WIFEXITED(host.reap(worker))
    finally:
        host.close()
        shutil.rmtree(root)


@pytest.mark.parametrize(("promise", "expected"), [(promise, expected) for promise, _, expected in ATTEMPTS])
def test_of_every_attempt_comes_what_is_promised(situation: Situation, promise: str, expected: str) -> None:
    result = situation.results[promise]
    assert result == expected or result in expected.split()


def test_promises_have_names_of_their_own() -> None:
    promises = [promise for promise, _, _ in ATTEMPTS]
    assert len(set(promises)) == len(promises)


# ---------------------------------------------------------------- what the attempts left behind


def test_nothing_outside_the_grants_has_changed(situation: Situation) -> None:
    root = situation.folder
    assert (root / "r/file").read_text() == "readable"
    assert (root / "x/secret").read_text() == "secret"
    for path in (root / "x/secret", root / "r/file"):
        status = path.stat()
        assert (status.st_mode & 0o7777, status.st_mtime, status.st_nlink) == (0o644, 1_000_000_000, 1)
        assert status.st_uid == root.stat().st_uid
    assert sorted(os.listdir(root / "x")) == ["secret"]
    assert sorted(os.listdir(root / "r")) == ["file", "small"]


def test_new_files_are_private(situation: Situation) -> None:
    assert (situation.folder / "w/new").stat().st_mode & 0o777 == 0o600


def test_no_file_is_setuid(situation: Situation) -> None:
    assert not [path for path in situation.folder.rglob("*") if path.lstat().st_mode & 0o6000]


# ---------------------------------------------------------------- the worker from outside


def status(situation: Situation) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{situation.worker.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


@pytest.mark.parametrize("which", ["CapInh", "CapPrm", "CapEff", "CapAmb"])
def test_a_worker_has_no_capabilities(situation: Situation, which: str) -> None:
    assert int(status(situation)[which], 16) == 0


def test_root_has_no_capabilities_to_come_back_by_exec(situation: Situation) -> None:
    if status(situation)["Uid"].split()[0] == "0":
        assert int(status(situation)["CapBnd"], 16) == 0


def test_no_new_privs_and_the_filter_are_in_force(situation: Situation) -> None:
    fields = status(situation)
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_a_worker_has_its_six_descriptors_and_no_other(situation: Situation) -> None:
    """Those that the attempts opened came later, and are all in the granted folders or anonymous."""
    opened = Path(f"/proc/{situation.worker.pid}/fd")
    targets = {int(path.name): os.readlink(path) for path in opened.iterdir()}
    assert targets[0] == "/dev/null"
    assert targets[1] == targets[2] != targets[3]
    assert all(targets[number].startswith("pipe:") for number in (1, 2, 3, 5))
    foreign = {number: target for number, target in targets.items() if number > 5}
    root = str(situation.folder)
    assert not [
        target for target in foreign.values() if not target.startswith((root, situation.host.interpreter, "socket:"))
    ]


def test_a_worker_leads_a_session_without_a_terminal(situation: Situation) -> None:
    fields = Path(f"/proc/{situation.worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
    group, session, terminal = (int(field) for field in fields[2:5])
    assert group == session == situation.worker.pid
    assert terminal == 0


def test_signals_are_at_their_defaults(situation: Situation) -> None:
    """But those that CPython sets itself: SIGPIPE and SIGXFSZ ignored, SIGINT caught."""
    fields = status(situation)
    ignored = {number for number in range(1, 65) if int(fields["SigIgn"], 16) >> number - 1 & 1}
    caught = {number for number in range(1, 65) if int(fields["SigCgt"], 16) >> number - 1 & 1}
    assert int(fields["SigBlk"], 16) == 0
    assert ignored == {signal.SIGPIPE, signal.SIGXFSZ}
    assert signal.SIGINT in caught


def test_a_worker_keeps_the_niceness_of_its_host(situation: Situation) -> None:
    assert os.getpriority(os.PRIO_PROCESS, situation.worker.pid) == os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.parametrize(
    ("limit", "line"),
    [("data", "Max data size"), ("as", "Max address space"), ("nofile", "Max open files"), ("fsize", "Max file size"),
     ("stack", "Max stack size"), ("core", "Max core file size")],
)  # fmt: skip
def test_limits_are_soft_and_hard_alike(situation: Situation, limit: str, line: str) -> None:
    lines = Path(f"/proc/{situation.worker.pid}/limits").read_text().splitlines()
    (found,) = [text for text in lines if text.startswith(line)]
    assert found.removeprefix(line).split()[:2] == [str(LIMITS[limit])] * 2


def test_the_environment_is_what_the_host_said_and_nothing_else(situation: Situation) -> None:
    environment = Path(f"/proc/{situation.worker.pid}/environ").read_bytes()
    assert environment == b"LC_CTYPE=C.UTF-8\0"


# ---------------------------------------------------------------- attempts that are deadly


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    need(host.ready["landlock_abi"] and host.ready["seccomp"], "Landlock and seccomp")
    yield host
    host.close()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the x32 ABI is one of x86_64")
def test_a_call_of_the_x32_abi_is_deadly(host: Host) -> None:
    code = "import ctypes; ctypes.CDLL(None).syscall(ctypes.c_long(0x40000027))"
    assert os.WTERMSIG(host.run(code)[2]) == signal.SIGSYS


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="int 0x80 enters the i386 ABI of x86_64")
def test_a_call_of_the_i386_abi_is_deadly(host: Host, tmp_path: Path) -> None:
    """mov eax, 20 (getpid); int 0x80; ret - in a file, as no other code can be had."""
    (tmp_path / "code").write_bytes(b"\xb8\x14\0\0\0\xcd\x80\xc3".ljust(4096, b"\0"))
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        f"fd = os.open({str(tmp_path / 'code')!r}, os.O_RDONLY)\n"
        "at = libc.mmap(None, ctypes.c_size_t(4096), 5, 2, fd, ctypes.c_long(0))\n"
        "os.write(4, b'mapped' if at < 2**47 else b'refused')\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(at)()\n"
        "os.write(4, b' and returned')\n"
    )
    reply, _, status = host.run(code, rules=[[str(tmp_path.resolve()), "r"]])
    assert (reply, os.WTERMSIG(status)) == (b"mapped", signal.SIGSYS)


# ---------------------------------------------------------------- steps that fail


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        ("session", {"cwd": "/nowhere"}),
        ("seccomp", {"limits": LIMITS | {"as": 4096, "data": 4096}}),
    ],
)
def test_a_step_that_fails_ends_the_child_and_is_named(host: Host, step: str, changes: dict[str, object]) -> None:
    reply, log, status = host.run("import os; os.write(4, b'started')", **changes)
    assert reply == b""
    assert step_of(os.WEXITSTATUS(status)) == step
    assert repr(step) in log


def test_an_interpreter_that_has_vanished_fails_in_the_step_exec(tmp_path: Path) -> None:
    host = Host(base=False)
    try:
        host.interpreter = str(shutil.copy(host.interpreter, tmp_path.resolve() / "python"))
        kind, content = host.ask("base", host.base())
        assert kind == "ready"
        need(content["landlock_abi"] and content["seccomp"], "Landlock and seccomp")
        Path(host.interpreter).unlink()
        reply, log, status = host.run("")
        assert (reply, os.WEXITSTATUS(status)) == (b"", EXIT_BASE + STEPS.index("exec"))
        assert "'exec'" in log
    finally:
        host.close()
