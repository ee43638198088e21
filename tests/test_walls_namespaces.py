"""Tier `walled` at kernel strength: real workers without any hook, each attempt by the bare call.

As ourselves and, for root, as an ordinary user; executed, and forked into a view that was begun before; and on machines
that refuse a part of it, which must be noticed and named.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest
from until import until
from walls_driver import LIKE_DOCKER, NOBODY, SYSTEM_PYTHON, Host, Worker, need

from sandbox_worker.walls.tracing import SUPPORTED

if TYPE_CHECKING:
    from collections.abc import Iterator

PROLOGUE: Final = """
import ctypes, errno, json, mmap, os, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
    return 0
def mode(path):
    return oct(stat.S_IMODE(os.lstat(path).st_mode))
def code(path):
    file = os.open(path, os.O_RDONLY)
    mmap.mmap(file, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
    return 'mapped'
def names(path):
    return sorted(os.fsencode(name) for name in os.listdir(path))
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
ATTEMPTS: Final[list[tuple[str, str, str]]] = [
    # what is there
    ("a granted file is read", "open(T + '/r/file').read()", "'readable'"),
    ("a granted folder is listed", "names(T + '/r')", "[b'file', b'folder', b'image']"),
    ("by its link too", "open(T + '/link/file').read()", "'readable'"),
    ("names may hold anything", "open(os.fsencode(T) + b'/a \\n\\xff/file').read()", "'odd'"),
    ("a single file is granted", "open(T + '/single').read()", "'alone'"),
    ("and nothing beside it", "os.stat(T + '/secret')", "ENOENT"),
    ("the names around a grant lead to it alone", "[os.path.exists(T + s) for s in ('', '/w', '/x')]",
     "[True, True, False]"),
    ("they can't be listed", "os.listdir(T)", "EACCES"),
    ("a grant that does not exist stops nothing", "os.stat(T + '/vanished')", "ENOENT"),
    ("what is not granted has no metadata", "os.stat(T + '/x/secret')", "ENOENT"),
    ("nor a link's target", "os.readlink(T + '/hidden-link')", "ENOENT"),
    ("/etc/passwd is not there", "os.stat('/etc/passwd')", "ENOENT"),
    ("/proc is not there", "os.stat('/proc')", "ENOENT"),
    ("/sys is not there", "os.stat('/sys')", "ENOENT"),
    ("other devices are not there", "os.stat('/dev/zero')", "ENOENT"),
    ("/dev/null works", "os.write(os.open('/dev/null', os.O_RDWR), b'x')", "1"),
    ("/dev/urandom works", "len(open('/dev/urandom', 'rb').read(4))", "4"),
    ("/tmp is there", "os.path.isdir('/tmp')", "True"),
    ("and closed for writing", "open('/tmp/file', 'w')", "EROFS EACCES"),
    # denied inside granted
    ("a denied folder can't be listed", "os.listdir(T + '/w/denied')", "EACCES"),
    ("what is in it is not there", "os.stat(T + '/w/denied/secret')", "ENOENT"),
    ("nothing is made in it", "open(T + '/w/denied/new', 'w')", "EROFS"),
    ("a denied file can't be read", "open(T + '/w/denied-file').read()", "EACCES"),
    ("its size is not told", "os.stat(T + '/w/denied-file').st_size", "0"),
    ("its mode can't be changed", "os.chmod(T + '/w/denied-file', 0o666)", "EROFS"),
    ("it can't be removed", "os.unlink(T + '/w/denied-file')", "EBUSY"),
    ("nor moved", "os.rename(T + '/w/denied-file', T + '/w/moved')", "EBUSY EXDEV"),
    ("nor replaced", "open(T + '/w/mine', 'w').close() or os.replace(T + '/w/mine', T + '/w/denied-file')", "EBUSY"),
    ("nor the folder", "os.rename(T + '/w/denied', T + '/w/moved')", "EBUSY EXDEV"),
    ("nor linked", "os.link(T + '/w/denied-file', T + '/w/linked')", "EXDEV EPERM EACCES"),
    ("a new file beside it works", "open(T + '/w/new', 'w').write('new') and open(T + '/w/new').read()", "'new'"),
    ("read-only inside writable is read", "open(T + '/w/read-only/file').read()", "'kept'"),
    ("and not written", "open(T + '/w/read-only/file', 'a')", "EROFS EACCES"),
    # metadata
    ("chmod works in a write grant", "os.chmod(T + '/w/new', 0o640) or mode(T + '/w/new')", "'0o640'"),
    ("utime works there", "os.utime(T + '/w/new', (5, 5)) or os.stat(T + '/w/new').st_mtime", "5.0"),
    ("no file becomes set-uid", "os.chmod(T + '/w/new', 0o4755)", "EPERM"),
    ("nor set-gid", "os.fchmod(os.open(T + '/w/new', os.O_RDONLY), 0o2755)", "EPERM"),
    ("no file is given away", "os.chown(T + '/w/new', 4242, -1)", "EINVAL EPERM"),
    ("nor to a group", "os.chown(T + '/w/new', -1, 4242)", "EINVAL EPERM"),
    ("chmod fails in a read grant", "os.chmod(T + '/r/file', 0o600)", "EROFS"),
    ("so it does by descriptor", "os.fchmod(os.open(T + '/r/file', os.O_RDONLY), 0o600)", "EROFS"),
    ("utime fails there", "os.utime(T + '/r/file')", "EROFS"),
    ("so it does in the standard library", "os.utime(os.__file__)", "EROFS"),
    ("a device keeps its mode", "os.chmod('/dev/null', 0o600)", "EROFS"),
    ("also by the descriptor it began with", "os.fchmod(0, 0o600)", "EROFS"),
    ("a device keeps its time", "os.utime('/dev/null')", "EROFS"),
    # code
    ("a library of the base is mapped as code", "code(LIBRARY)", "'mapped'"),
    ("a file in a read grant is not", "code(T + '/r/image')", "EPERM EACCES"),
    ("nor one in a write grant", "open(T + '/w/image', 'wb').write(bytes(4096)) and code(T + '/w/image')",
     "EPERM EACCES"),
    # namespaces
    ("the machine's name is neutral", "{socket.gethostname(), os.uname().nodename}", "{'localhost'}"),
    ("nothing is mounted", "call('mount', b'none', T.encode(), b'tmpfs', 0, None)", "EPERM"),
    ("no cover is taken off", "call('umount2', (T + '/w/denied').encode(), 2)", "EPERM"),
    ("there is no way back", "call('chroot', b'.')", "EPERM"),
    ("no further namespaces", "call('unshare', 0x10000000)", "EPERM"),
    ("the folder it starts in lies in the view", "os.getcwd() == os.path.realpath(T + '/r')", "True"),
    ("nothing lies above the root", "os.stat('/').st_ino == os.stat('/..').st_ino", "True"),
]  # fmt: skip


@dataclass(frozen=True)
class Situation:
    """A worker that has made every attempt and waits."""

    host: Host
    worker: Worker
    folder: Path
    results: dict[str, str]


def tree(owner: int | None) -> Path:
    """The files of the attempts; in a folder of its own, since no other test may share it."""
    root = Path(tempfile.mkdtemp(prefix="plughold-view-")).resolve()
    odd = Path(os.fsdecode(os.fsencode(root) + b"/a \n\xff"))
    for folder in ("r/folder", "w/denied", "w/read-only", "x", odd.name):
        (root / folder).mkdir(parents=True)
    for name, content in (
        ("r/file", "readable"), ("r/image", "\0" * 4096), ("single", "alone"), ("secret", "secret"),
        ("x/secret", "secret"), ("w/denied/secret", "secret"), ("w/denied-file", "secret"),
        ("w/read-only/file", "kept"), (f"{odd.name}/file", "odd"),
    ):  # fmt: skip
        (root / name).write_text(content)
        os.utime(root / name, (1_000_000_000, 1_000_000_000))
    (root / "link").symlink_to("r")
    (root / "hidden-link").symlink_to("secret")
    for path in (root, *root.rglob("*")):
        if owner is not None:
            os.lchown(path, owner, owner)
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return root


def wanted(root: Path) -> dict[str, object]:
    """The plan of a worker: its rules, the links by which they are spelled, its folder."""
    odd = os.fsdecode(os.fsencode(root) + b"/a \n\xff")
    rules = [
        [f"{root}/r", "r"], [f"{root}/w", "rw"], [f"{root}/w/denied", "n"], [f"{root}/w/denied-file", "n"],
        [f"{root}/w/read-only", "r"], [f"{root}/single", "r"], [f"{root}/vanished", "r"], [odd, "r"],
        ["/dev/null", "rw"],
    ]  # fmt: skip
    return {"rules": rules, "links": [[f"{root}/link", "r"]], "cwd": f"{root}/r", "tier": "walled"}


@pytest.fixture(scope="module", params=["ourselves", "nobody", "ourselves, forked", "nobody, forked"])
def situation(request: pytest.FixtureRequest) -> Iterator[Situation]:
    user = NOBODY if request.param.startswith("nobody") else None
    if user is not None and (os.getuid() != 0 or not Path(SYSTEM_PYTHON).exists()):
        pytest.skip(f"needs root, and {SYSTEM_PYTHON}")
    forks = request.param.endswith("forked") and SUPPORTED
    host, root = Host(user=user, forks=forks), tree(user)
    try:
        need(host.ready["namespaces"], f"namespaces: {host.ready['missing']}")
        if forks:
            need(not host.ready["no_fork"], host.ready["no_fork"])
            until(lambda: len(psutil.Process(host.process.pid).children()) == 3)  # server, copy, and namespaces for it
        library = next(Path("/lib").resolve().rglob("libc.so.6"), None) or next(Path("/lib").resolve().glob("libc.*"))
        sources = [source for _, source, _ in ATTEMPTS]
        head = f"T, LIBRARY, SOURCES = {str(root)!r}, {str(library)!r}, {sources!r}"
        worker = host.spawn(head + PROLOGUE, **wanted(root))
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
    assert len({promise for promise, _, _ in ATTEMPTS}) == len(ATTEMPTS)


def test_nothing_outside_the_write_grant_has_changed(situation: Situation) -> None:
    root = situation.folder
    for name in ("r/file", "x/secret", "w/denied/secret", "w/denied-file", "w/read-only/file", "secret"):
        status = (root / name).stat()
        assert (status.st_mode & 0o7777, status.st_mtime, status.st_nlink) == (0o644, 1_000_000_000, 1)
    assert (root / "w/denied-file").read_text() == "secret"
    assert os.listdir(root / "w/denied") == ["secret"]
    assert sorted(os.listdir(root / "x")) == ["secret"]


def test_what_is_written_in_the_grant_is_written(situation: Situation) -> None:
    assert (situation.folder / "w/new").read_text() == "new"


def test_nothing_of_the_making_is_left_to_be_seen(situation: Situation) -> None:
    """The worker's root holds what leads to grants, and no stage or name of a cover."""
    names = set(os.listdir(f"/proc/{situation.worker.pid}/root/"))
    assert names <= {"tmp", "usr", "lib", "lib64", "dev", "etc", Path(situation.host.interpreter).parts[1]}


@pytest.mark.parametrize("kind", ["user", "mnt", "net", "ipc", "uts"])
def test_each_namespace_is_another_than_ours(situation: Situation, kind: str) -> None:
    assert os.readlink(f"/proc/{situation.worker.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_no_capability_is_left_or_can_come_back(situation: Situation) -> None:
    """A user namespace hands out all of its own; even an ordinary user can and must drop them for good."""
    lines = Path(f"/proc/{situation.worker.pid}/status").read_text().splitlines()
    found = {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}
    assert {int(found[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_every_mount_is_closed_for_what_it_is_not_for(situation: Situation) -> None:
    """From outside, as the kernel lists them: nosuid all, nodev all but two devices, written only the write grant."""
    for line in os.fsdecode(Path(f"/proc/{situation.worker.pid}/mountinfo").read_bytes()).splitlines():
        fields = line.split()
        path, options = fields[4], set(fields[5].split(","))
        assert "nosuid" in options
        assert ("nodev" in options) != path.startswith("/dev/")
        assert ("rw" in options) == (path == f"{situation.folder}/w")
        assert ("noexec" in options) or "/lib" in path or path == situation.host.interpreter


def test_what_is_mounted_inside_a_grant_is_closed_like_it(tmp_path: Path) -> None:
    """By whoever runs the machine, with devices and programs, and where mounts of several kinds lie in one another."""
    if os.getuid() != 0:
        pytest.skip("needs root, to mount something")
    folder = tmp_path.resolve()
    for name in ("r/inner", "r/w", "w/r"):
        (folder / name).mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "exec,dev,suid", "tmpfs", folder / "r/inner"], check=False)
    if mounted.returncode:
        pytest.skip("mounting is refused here")
    host = Host()
    try:
        need(host.ready["namespaces"], f"namespaces: {host.ready['missing']}")
        rules = [
            [f"{folder}/{name}", access] for name, access in (("r", "r"), ("r/w", "rw"), ("w", "rw"), ("w/r", "r"))
        ]
        worker = host.spawn("import os; os.write(4, b'!'); os.read(3, 1)", tier="walled", rules=rules)
        assert os.read(worker.replies, 1) == b"!"
        lines = [line.split() for line in Path(f"/proc/{worker.pid}/mountinfo").read_text().splitlines()]
        found = {line[4].removeprefix(f"{folder}/"): line[5].split(",") for line in lines if str(folder) in line[4]}
        assert {name for name, options in found.items() if "rw" in options} == {"r/w", "w"}
        assert found.keys() == {"r", "r/inner", "r/w", "w", "w/r"}
        assert all({"nosuid", "nodev", "noexec"} <= {*options} for options in found.values())
    finally:
        host.close()
        subprocess.run(["umount", folder / "r/inner"], check=True)


def test_two_workers_share_nothing_but_their_grants() -> None:
    host = Host()
    try:
        need(host.ready["namespaces"], f"namespaces: {host.ready['missing']}")
        first, second = (host.spawn("import os; os.write(4, b'!'); os.read(3, 1)", tier="walled") for _ in range(2))
        for worker in (first, second):
            assert os.read(worker.replies, 1) == b"!"
        for kind in ("mnt", "net", "ipc", "uts"):
            assert os.readlink(f"/proc/{first.pid}/ns/{kind}") != os.readlink(f"/proc/{second.pid}/ns/{kind}")
    finally:
        host.close()


@pytest.mark.parametrize("forks", [False, True])
def test_the_whole_root_can_be_granted(forks: bool) -> None:
    host = Host(forks=forks and SUPPORTED)
    try:
        need(host.ready["namespaces"], f"namespaces: {host.ready['missing']}")
        need(not host.ready["no_fork"], host.ready["no_fork"])
        code = (
            "import os; os.write(4, repr((os.path.exists('/etc/passwd'), os.path.exists('/proc/self'),"
            "open('/etc/passwd').read(4), os.access('/etc', os.W_OK))).encode())"
        )
        rules = [["/", "r"], *([path, "n"] for path in ("/proc", "/sys", "/dev"))]
        reply, log, _ = host.run(code, tier="walled", rules=rules)
        assert reply.decode() == "(True, False, 'root', False)", log
    finally:
        host.close()


def test_a_cover_that_cannot_be_put_up_ends_the_start(tmp_path: Path) -> None:
    """Gone since it was planned, a denied path could come back: then there is no worker at all."""
    host = Host()
    try:
        need(host.ready["namespaces"], f"namespaces: {host.ready['missing']}")
        folder = str(tmp_path.resolve())
        reply, log, status = host.run("", tier="walled", rules=[[folder, "r"], [f"{folder}/gone", "n"]])
        assert reply == b""
        assert os.WEXITSTATUS(status)
        assert "'namespaces'" in log
    finally:
        host.close()


# ---------------------------------------------------------------- machines that refuse

REFUSING: Final = """
from sandbox_worker.walls import bpf, linux
linux.prctl(38, 1)
linux.install_filter(bpf.compile_filter({CALL: bpf.fail_with(1)}, bpf.ALLOW, linux.ARCHITECTURE).patch({}))
"""


@pytest.mark.parametrize("call", "unshare setns mount_setattr open_tree fsopen move_mount pivot_root umount2".split())
def test_a_call_that_is_refused_is_noticed_and_named(call: str) -> None:
    """Ubuntu, say, hands out the user namespace and refuses what comes then."""
    host = Host(before=REFUSING.replace("CALL", repr(call)))
    try:
        need(host.ready["landlock_abi"], "Landlock")
        assert host.ready["namespaces"] is False
        [reason] = host.ready["missing"]
        assert call in reason
        answer, _ = host.try_to_spawn("", tier="walled")
        assert answer[0] == "error"
        assert call in answer[1]
    finally:
        host.close()


def test_a_container_is_left_with_the_tier_below() -> None:
    host = Host(before=LIKE_DOCKER)
    try:
        need(host.ready["landlock_abi"] and host.ready["seccomp"], "Landlock and seccomp")
        assert host.ready["namespaces"] is False
        assert host.run("import os; os.write(4, b'works')", tier="confined")[0] == b"works"
    finally:
        host.close()
