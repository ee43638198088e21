"""The broker against a worker without an audit hook that wants to change files: what native code could try."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Any, Final

import pytest
from test_broker import Network
from walls_driver import need, read_all

from sandbox_worker.messages import events_of
from sandbox_worker.walls import linux

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CWD: Final = -100
NOFOLLOW: Final = 0x100
EMPTY: Final = 0x1000
NOW: Final = 0x3FFFFFFF
OMIT: Final = 0x3FFFFFFE
PROLOGUE: Final = """
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(name, *arguments):
    plain = [a if isinstance(a, bytes) or a is None else ctypes.c_long(a) for a in arguments]
    if libc.syscall(ctypes.c_long(NUMBERS[name]), *plain) < 0:
        raise OSError(ctypes.get_errno(), name)
def words(*values):
    return struct.pack("=%dq" % len(values), *values)
def path(name):
    return os.path.join(T, name).encode()
def opened(name, flags=os.O_RDONLY):
    return os.open(os.path.join(T, name), flags)
"""

if linux.ARCHITECTURE is None:
    pytest.skip("a table of system calls", allow_module_level=True)
NUMBERS: Final = linux.ARCHITECTURE.numbers


class Box:
    """`in` is granted but for `in/denied`; `out` may be read, `read` too. Each holds a `file`."""

    def __init__(self, folder: Path) -> None:
        self.network = Network(replace=False)
        self.folder = folder
        for name in ("in", "in/denied", "out"):
            (folder / name).mkdir()
            (folder / name / "file").write_text("old")
            (folder / name / "file").chmod(0o600)
        (folder / "in" / "to-out").symlink_to(folder / "out" / "file")
        (folder / "in" / "to-folder").symlink_to(folder / "out")
        (folder / "in" / "to-in").symlink_to("file")
        os.mkfifo(folder / "in" / "fifo")
        os.link(folder / "out" / "file", folder / "in" / "linked")
        os.link(folder / "in" / "file", folder / "out" / "also-in")

    def start(self, code: str) -> tuple[Any, int]:
        """A worker that runs the code, and the pipe of what it is refused."""
        head = f"import ctypes\nNUMBERS = {dict(NUMBERS)!r}\nT = {str(self.folder)!r}\n" + PROLOGUE
        text = str(self.folder)
        return self.network.start(
            head + code,
            readable=[[text, "r"], [f"{text}/in", "rw"], ["/usr", "r"], ["/lib", "r"]],
            writes=(f"{text}/in",),
            deny=(f"{text}/in/denied",),
        )

    def run(self, code: str) -> str:
        """What the code says."""
        worker, refusals = self.start(code)
        said = read_all(worker.replies).decode()
        log = read_all(worker.log).decode()
        self.network.spawner.reap(worker)
        os.close(refusals)
        assert not log, log
        return said

    def picture(self, name: str = "out") -> list[tuple[object, ...]]:
        """Mode, owner and times of all that lies in a folder, and of itself; what it reads changes no time of it."""
        paths = [self.folder / name, *sorted((self.folder / name).iterdir())]
        found = [path.lstat() for path in paths]
        return [(p.name, s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns) for p, s in zip(paths, found, strict=True)]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    try:
        need(made.network.broker.abilities[0], "seccomp notifications")
        need(made.network.spawner.ready["landlock_abi"], "Landlock")
        yield made
    finally:
        made.network.close()


WORKS: Final = {
    "chmod": ("call('chmod', path('in/file'), 0o640)", "mode", 0o640),
    "chmod through a link": ("call('chmod', path('in/to-in'), 0o640)", "mode", 0o640),
    "chmod of the working folder's file": ("os.chdir(T + '/in'); call('chmod', b'file', 0o640)", "mode", 0o640),
    "sticky": ("call('chmod', path('in/file'), 0o1640)", "mode", 0o1640),
    "a pipe with a name": ("call('chmod', path('in/fifo'), 0o600)", "mode", 0o600),
    "fchmod": ("call('fchmod', opened('in/file'), 0o640)", "mode", 0o640),
    "fchmodat": ("call('fchmodat', opened('in'), b'file', 0o640)", "mode", 0o640),
    "fchmodat of a descriptor's path": (
        "call('fchmodat', -100, b'/proc/self/fd/%d' % opened('in/file'), 0o640)",
        "mode",
        0o640,
    ),
    "fchmodat2 of a descriptor": ("call('fchmodat2', opened('in/file'), b'', 0o640, 0x1000)", "mode", 0o640),
    "chown to itself": ("call('chown', path('in/file'), os.getuid(), os.getgid())", "mode", 0o600),
    "chown to nobody": ("call('fchownat', -100, path('in/file'), -1, -1, 0)", "mode", 0o600),
    "lchown": ("call('lchown', path('in/to-out'), os.getuid(), -1)", "mode", 0o600),
    "fchown": ("call('fchown', opened('in/file'), -1, os.getgid())", "mode", 0o600),
    "utime": ("call('utime', path('in/file'), words(5, 7))", "time", 7 * 10**9),
    "utimes": ("call('utimes', path('in/file'), words(5, 6, 7, 8))", "time", 7 * 10**9 + 8000),
    "futimesat": ("call('futimesat', opened('in'), b'file', words(5, 6, 7, 8))", "time", 7 * 10**9 + 8000),
    "utimensat": ("call('utimensat', -100, path('in/file'), words(5, 6, 7, 8), 0)", "time", 7 * 10**9 + 8),
    "futimens": ("call('utimensat', opened('in/file'), None, words(5, 6, 7, 8), 0)", "time", 7 * 10**9 + 8),
    "an omitted time": (f"call('utimensat', -100, path('in/file'), words(5, 6, 7, {OMIT}), 0)", "time", None),
    "the other one": (f"call('utimensat', -100, path('in/file'), words(5, {OMIT}, 7, 8), 0)", "time", 7 * 10**9 + 8),
}


@pytest.mark.parametrize("name", WORKS)
def test_a_change_inside_the_grant_is_made(box: Box, name: str) -> None:
    code, what, wanted = WORKS[name]
    if "call('" in code and code.partition("call('")[2].partition("'")[0] not in NUMBERS:
        pytest.skip("a call of other machines")
    before = (box.folder / "in" / "file").stat()
    out = box.picture()
    assert box.run(f"{code}; say('done')") == "done"
    after = (box.folder / "in" / "file").stat()
    if what == "mode":
        assert stat.S_IMODE(after.st_mode) == wanted
    else:
        assert after.st_mtime_ns == (before.st_mtime_ns if wanted is None else wanted)
    assert box.picture()[2:] == out[2:]


def test_now_is_now(box: Box) -> None:
    file = box.folder / "in" / "file"
    for times in ("None", f"words(0, {NOW}, 0, {NOW})"):
        os.utime(file, (1, 1))
        box.run(f"call('utimensat', -100, path('in/file'), {times}, 0)")
        assert abs(file.stat().st_mtime - (box.folder / "in" / "denied").stat().st_mtime) < 100


def test_a_links_own_times_change_without_the_file(box: Box) -> None:
    out = box.picture()
    box.run(f"call('utimensat', -100, path('in/to-out'), words(5, 6, 7, 8), {NOFOLLOW})")
    assert (box.folder / "in" / "to-out").lstat().st_mtime_ns == 7 * 10**9 + 8
    assert box.picture() == out


REFUSED: Final = {
    "the file itself": "call('chmod', path('out/file'), 0o777)",
    "a folder outside": "call('chmod', path('out'), 0o777)",
    "the folder above": "call('chmod', path('in/..'), 0o777)",
    "a link to it": "call('chmod', path('in/to-out'), 0o777)",
    "a link to its folder": "call('chmod', path('in/to-folder/file'), 0o777)",
    "dots": "call('chmod', path('in/../out/file'), 0o777)",
    "another name of a file of the grant": "call('chmod', path('out/also-in'), 0o777)",
    "its descriptor": "call('fchmod', opened('out/file'), 0o777)",
    "its descriptor by a path": "call('chmod', b'/proc/self/fd/%d' % opened('out/file'), 0o777)",
    "its descriptor by /dev": "call('chmod', b'/dev/fd/%d' % opened('out/file'), 0o777)",
    "its descriptor without a path": "call('fchmodat2', opened('out/file', os.O_PATH), b'', 0o777, 0x1000)",
    "a descriptor of its folder": "call('fchmodat', opened('out'), b'file', 0o777)",
    "a descriptor of the granted folder": "call('fchmodat', opened('in'), b'../out/file', 0o777)",
    "the working folder": "os.chdir(T + '/out'); call('chmod', b'file', 0o777)",
    "utime": "call('utimensat', -100, path('out/file'), words(1, 2, 3, 4), 0)",
    "utime of a descriptor": "call('utimensat', opened('out/file'), None, words(1, 2, 3, 4), 0)",
    "utime now": "call('utimensat', opened('out/file'), None, None, 0)",
    "utime without a path": "call('utimensat', opened('out'), b'', None, 0x1000)",
    "utimes": "call('utimes', path('out/file'), None)",
    "chown": "call('chown', path('out/file'), os.getuid(), os.getgid())",
    "fchown": "call('fchown', opened('out/file'), os.getuid(), -1)",
    "lchown": "call('lchown', path('out/file'), os.getuid(), -1)",
    "a denied file": "call('chmod', path('in/denied/file'), 0o777)",
    "a denied folder": "call('chmod', path('in/denied'), 0o777)",
    "a device": "call('chmod', b'/dev/null', 0o600)",
    "the descriptor of a device": "call('fchmod', 0, 0o600)",
    "a pipe": "call('fchmod', 4, 0o600)",
    "a kernel file": "call('chmod', b'/proc/self/mem', 0o600)",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_change_outside_the_grant_is_refused(box: Box, name: str) -> None:
    if REFUSED[name].partition("call('")[2].partition("'")[0] not in NUMBERS:
        pytest.skip("a call of other machines")
    before = box.picture(), box.picture("in/denied"), os.stat("/dev/null").st_mode
    *first, last = REFUSED[name].split("; ")
    assert box.run("\n".join((*first, f"attempt(lambda: {last})"))) == "EACCES"
    assert (box.picture(), box.picture("in/denied"), os.stat("/dev/null").st_mode) == before


def test_a_name_that_the_application_linked_into_the_grant_is_of_the_grant(box: Box) -> None:
    """The plugin can't make such a link: Landlock refuses link(2) and rename(2) across the border."""
    said = box.run(
        "attempt(lambda: os.link(T + '/out/file', T + '/in/stolen'))\n"
        "attempt(lambda: os.rename(T + '/out/file', T + '/in/stolen'))\n"
        "attempt(lambda: os.link(T + '/in/denied/file', T + '/in/stolen'))\n"
        "attempt(lambda: call('chmod', path('in/linked'), 0o640))"
    )
    assert said in ("EXDEVEXDEVokok", "EACCESEACCESokok", "EXDEVEACCESokok")
    assert stat.S_IMODE((box.folder / "out" / "file").stat().st_mode) == 0o640


ODD: Final = {
    "no such file": ("call('chmod', path('in/none'), 0)", "ENOENT"),
    "no path": ("call('fchmodat', -100, None, 0)", "EFAULT"),
    "no path and no descriptor": ("call('utimensat', -100, None, None, 0)", "EFAULT"),
    "an empty path": ("call('chmod', b'', 0)", "ENOENT"),
    "a path that is too long": ("call('chmod', b'a' * 5000, 0)", "ENAMETOOLONG"),
    "a name that is too long": ("call('chmod', path('in/' + 'a' * 300), 0)", "ENAMETOOLONG"),
    "an address of nothing": ("call('chmod', 4096, 0)", "EFAULT"),
    "an address of the kernel": ("call('chmod', -4096, 0)", "EFAULT"),
    "times of nothing": ("call('utimensat', -100, path('in/file'), 4096, 0)", "EFAULT"),
    "a closed descriptor": ("call('fchmod', 99, 0)", "EBADF"),
    "a negative descriptor": ("call('fchmod', -1, 0)", "EBADF"),
    "a folder that is none": ("call('fchmodat', opened('in/file'), b'file', 0)", "ENOTDIR"),
    "a folder that is closed": ("call('fchmodat', 99, b'file', 0)", "EBADF"),
    "a loop": ("os.symlink('loop', T + '/in/loop'); call('chmod', path('in/loop'), 0)", "ELOOP"),
    "another process's root": ("call('chmod', b'/proc/%d/root' % os.getppid() + path('in/file'), 0)", "ELOOP"),
    "another process's folder": ("call('chmod', b'/proc/%d/cwd/x' % os.getppid(), 0)", "ELOOP"),
    "the broker's descriptors": ("call('chmod', b'/proc/self/task/../fd/5', 0)", "ELOOP"),
    "a set-uid bit": ("call('chmod', path('in/file'), 0o4755)", "EPERM"),
    "a set-gid bit": ("call('fchmod', opened('in/file'), 0o2755)", "EPERM"),
    "another owner": ("call('chown', path('in/file'), 12345, -1)", "EPERM"),
    "another group": ("call('lchown', path('in/file'), -1, 12345)", "EPERM"),
    "nanoseconds beyond a second": ("call('utimensat', -100, path('in/file'), words(1, 10**9, 1, 1), 0)", "EINVAL"),
    "microseconds beyond a second": ("call('utimes', path('in/file'), words(1, 10**6, 1, 1))", "EINVAL"),
    "unknown flags": ("call('utimensat', -100, path('in/file'), None, 2)", "EINVAL"),
    "the mode of a link": (f"call('fchmodat2', -100, path('in/to-in'), 0, {NOFOLLOW})", "EOPNOTSUPP"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_call_gets_the_kernels_answer(box: Box, name: str) -> None:
    code, wanted = ODD[name]
    *before, last = code.split("; ")
    if last.partition("call('")[2].partition("'")[0] not in NUMBERS:
        pytest.skip("a call of other machines")
    said = box.run("\n".join((*before, f"attempt(lambda: {last})")))
    assert getattr(errno, said) == getattr(errno, wanted)
    assert stat.S_IMODE((box.folder / "in" / "file").stat().st_mode) == 0o600


def test_a_path_without_an_end_is_an_error(box: Box) -> None:
    code = (
        "import mmap\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "start = libc.mmap(None, 8192, 3, 0x22, -1, ctypes.c_long(0))\n"
        "libc.munmap(ctypes.c_void_p(start + 4096), ctypes.c_size_t(4096))\n"
        "ctypes.memset(start, 97, 4096)\n"
        "attempt(lambda: call('chmod', start + 4000, 0))\n"
    )
    assert box.run(code) in ("EFAULT", "ENOENT", "ENAMETOOLONG")  # what lies behind it may be mapped by now


def test_what_is_refused_is_reported(box: Box) -> None:
    worker, refusals = box.start(
        "attempt(lambda: call('chmod', path('in/to-out'), 0))\n"
        "attempt(lambda: call('chmod', path('in/denied/file'), 0))\n"
        "attempt(lambda: fcntl.flock(opened('out/file'), fcntl.LOCK_SH))"
    )
    read_all(worker.replies)
    read_all(worker.log)
    found, _ = events_of(os.read(refusals, 65536))
    box.network.spawner.reap(worker)
    os.close(refusals)
    assert found == [
        ("fs.write", f"{box.folder}/out/file", False),
        ("fs.write", f"{box.folder}/in/denied/file", True),
        ("fs.write", f"{box.folder}/out/file", False),
    ]


def test_a_removed_file_is_still_of_the_grant_and_its_place_still_judged(box: Box) -> None:
    said = box.run(
        "kept = opened('in/file'); os.unlink(T + '/in/file')\n"
        "attempt(lambda: call('fchmod', kept, 0o640)); say(oct(os.fstat(kept).st_mode))\n"
        "lost = opened('in/denied/file'); os.unlink(T + '/in/denied/file')\n"
        "attempt(lambda: call('fchmod', lost, 0o640)); say(oct(os.fstat(lost).st_mode))"
    )
    assert said == "ok0o100640EACCES0o100600"


def test_a_name_that_changes_meanwhile_changes_nothing_outside(box: Box) -> None:
    """The path in memory, the link that it names, and the number of a descriptor, each swapped as fast as may be."""
    before = box.picture()
    said = box.run("""
inside, outside = path("in/file"), path("out/file")
size = max(len(inside), len(outside)) + 1
text = ctypes.create_string_buffer(size)
good, bad, number = opened("in/file"), opened("out/file"), 77
over = False
def swap():
    n = 0
    while not over:
        n += 1
        ctypes.memmove(text, (inside if n % 2 else outside).ljust(size, b"\\0"), size)
        os.dup2(good if n % 2 else bad, number)
        os.symlink(inside if n % 2 else outside, T + "/in/next")
        os.rename(T + "/in/next", T + "/in/flips")
os.dup2(good, number)
os.symlink(inside, T + "/in/flips")
thread = threading.Thread(target=swap); thread.start()
done = refused = 0
for _ in range(700):
    for work in (
        lambda: call("chmod", ctypes.addressof(text), 0o644),
        lambda: call("chmod", path("in/flips"), 0o644),
        lambda: call("fchmod", number, 0o644),
        lambda: call("utimensat", number, None, words(1, 2, 3, 4), 0),
    ):
        try:
            work()
            done += 1
        except OSError as error:
            assert error.errno in (errno.EACCES, errno.ENOENT), error
            refused += 1
over = True
thread.join()
say((done > 50, refused > 50))
""")
    assert said == "(True, True)"
    assert [row for row in box.picture() if row[0] != "also-in"] == [row for row in before if row[0] != "also-in"]


def test_many_threads_are_answered(box: Box) -> None:
    said = box.run("""
def work(n):
    for i in range(100):
        call("chmod", path("in/%d" % n), 0o600 + i % 8)
for n in range(16):
    open(T + "/in/%d" % n, "w").close()
threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
[t.start() for t in threads]; [t.join() for t in threads]
say({oct(os.stat(T + "/in/%d" % n).st_mode) for n in range(16)})
""")
    assert said == "{'0o100603'}"


def test_without_a_broker_nothing_changes(box: Box) -> None:
    worker, refusals = box.start("""
say("up")
os.read(3, 1)
attempt(lambda: call("chmod", path("in/file"), 0o777))
attempt(lambda: fcntl.flock(opened("in/file"), fcntl.LOCK_EX))
""")
    assert os.read(worker.replies, 99) == b"up"
    box.network.broker.close()
    os.write(worker.calls, b"x")
    assert read_all(worker.replies).decode() == "ENOSYSENOSYS"
    read_all(worker.log)
    box.network.spawner.reap(worker)
    os.close(refusals)
    assert stat.S_IMODE((box.folder / "in" / "file").stat().st_mode) == 0o600


LOCKS: Final = {
    "exclusive inside": ("fcntl.flock(opened('in/file'), fcntl.LOCK_EX)", "ok"),
    "shared inside": ("fcntl.flock(opened('in/file'), fcntl.LOCK_SH | fcntl.LOCK_NB)", "ok"),
    "a folder inside": ("fcntl.flock(opened('in'), fcntl.LOCK_EX)", "ok"),
    "written inside": ("fcntl.flock(opened('in/file', os.O_RDWR), fcntl.LOCK_EX)", "ok"),
    "given up outside": ("fcntl.flock(opened('out/file'), fcntl.LOCK_UN)", "ok"),
    "exclusive outside": ("fcntl.flock(opened('out/file'), fcntl.LOCK_EX)", "ENOSYS"),
    "shared outside": ("fcntl.flock(opened('out/file'), fcntl.LOCK_SH)", "ENOSYS"),
    "a folder outside": ("fcntl.flock(opened('out'), fcntl.LOCK_EX | fcntl.LOCK_NB)", "ENOSYS"),
    "denied": ("fcntl.flock(opened('in/denied/file'), fcntl.LOCK_SH)", "ENOSYS"),
    "a device": ("fcntl.flock(0, fcntl.LOCK_EX)", "ENOSYS"),
    "a pipe": ("fcntl.flock(4, fcntl.LOCK_EX)", "ENOSYS"),
    "nothing": ("call('flock', 99, fcntl.LOCK_EX)", "EBADF"),
    "no operation": ("call('flock', opened('in/file'), 16)", "EINVAL"),
}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_taken_where_writing_is_granted(box: Box, name: str) -> None:
    code, wanted = LOCKS[name]
    assert box.run(f"attempt(lambda: {code})") == wanted


def test_a_lock_is_the_workers_and_others_wait_for_it(box: Box) -> None:
    """In both directions; the worker's end gives it up, and one that waits for ever ends with its worker."""
    with open(box.folder / "in" / "file") as ours:
        worker, refusals = box.start("f = opened('in/file'); fcntl.flock(f, 2); say('locked'); os.read(3, 1)")
        assert os.read(worker.replies, 99) == b"locked"
        with pytest.raises(BlockingIOError):
            fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(worker.calls, b"x")
        read_all(worker.replies)
        read_all(worker.log)
        box.network.spawner.reap(worker)
        os.close(refusals)
        fcntl.flock(ours, fcntl.LOCK_EX)
        again = "attempt(lambda: fcntl.flock(f, 6)); say('waits'); attempt(lambda: fcntl.flock(f, 2))"
        worker, refusals = box.start("f = opened('in/file'); " + again)
        assert os.read(worker.replies, 99).startswith(b"EAGAIN")
        fcntl.flock(ours, fcntl.LOCK_UN)
        assert read_all(worker.replies).endswith(b"ok")
        read_all(worker.log)
        box.network.spawner.reap(worker)
        os.close(refusals)
        fcntl.flock(ours, fcntl.LOCK_EX)
        worker, refusals = box.start("f = opened('in/file'); say('waits'); fcntl.flock(f, 2)")
        os.read(worker.replies, 99)
        os.kill(worker.pid, 9)
        box.network.spawner.reap(worker)
        os.close(refusals)
    assert box.network.broker.alive
