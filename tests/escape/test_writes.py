"""What is not granted for writing does not change: no content, no name, no link, no attribute, no special file."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any, Final

import pytest

TIERS: Final = ["walled", "confined", "filtered", "hooked"]

WAYS: Final = {
    "open w": "open(path, 'w').write('changed')",
    "open a": "open(path, 'a').write('changed')",
    "open r+": "open(path, 'r+').write('changed')",
    "open x beside": "open(path + '.new', 'x')",
    "os.open O_WRONLY": "import os; os.write(os.open(path, os.O_WRONLY), b'changed')",
    "os.open O_RDWR": "import os; os.write(os.open(path, os.O_RDWR), b'changed')",
    "O_RDONLY | O_TRUNC": "import os; os.open(path, os.O_RDONLY | os.O_TRUNC)",
    "O_RDONLY | O_CREAT beside": "import os; os.open(path + '.new', os.O_RDONLY | os.O_CREAT)",
    "access mode 3": "import os; os.open(path, 3 | os.O_TRUNC)",
    "O_TMPFILE": "import os; os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR)",
    "truncate": "import os; os.truncate(path, 0)",
    "ftruncate of a descriptor for reading": "import os; os.ftruncate(os.open(path, os.O_RDONLY), 0)",
    "posix_fallocate of a descriptor for reading": (
        "import os; os.posix_fallocate(os.open(path, os.O_RDONLY), 0, 4096)"
    ),
    "remove": "import os; os.remove(path)",
    "rename": "import os; os.rename(path, path + '.new')",
    "replace by a link": "import os; os.symlink('x', path + '.new'); os.replace(path + '.new', path)",
    "mkdir beside": "import os; os.mkdir(path + '.new')",
    "symlink beside": "import os; os.symlink(path, path + '.new')",
    "hard link beside": "import os; os.link(path, path + '.new')",
    "remove by descriptor": (
        "import os; os.remove(os.path.basename(path), dir_fd=os.open(os.path.dirname(path), os.O_RDONLY))"
    ),
    "rmtree": "import os, shutil; shutil.rmtree(os.path.dirname(path))",
    "FIFO": "import os; os.mkfifo(path + '.new')",
    "device": "import os; os.mknod(path + '.new', 0o20666, os.makedev(1, 5))",
    "file by mknod": "import os; os.mknod(path + '.new')",
    "reopening through /proc": (
        "import os; fd = os.open(path, os.O_RDONLY); open(f'/proc/self/fd/{fd}', 'w').write('changed')"
    ),
    "shared mapping": """
        import mmap, os
        m = mmap.mmap(os.open(path, os.O_RDONLY), 0, mmap.MAP_SHARED, mmap.PROT_WRITE)
        m[0] = 0
        m.flush()
    """,
    "SQLite creates a database": (
        "import sqlite3; c = sqlite3.connect(':memory:'); c.execute('attach ? as x', (path + '.new',)); "
        "c.execute('create table x.t (a)'); c.commit()"
    ),
    "SQLite's VACUUM INTO": (
        "import sqlite3; c = sqlite3.connect(':memory:'); c.execute('create table t (a)'); c.commit(); "
        "c.execute('vacuum into ?', (path + '.new',))"
    ),
    "SQLite's backup": (
        "import sqlite3; c = sqlite3.connect(':memory:'); c.execute('create table t (a)'); "
        "c.backup(sqlite3.connect('file:' + path + '.new', uri=True))"
    ),
    "copy_file_range": (
        "import os; os.copy_file_range(os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY), 4, 0, 8)"
    ),
}  # fmt: skip

CONFINED_ONLY: Final = {
    "SQLite creates a database",
    "SQLite's VACUUM INTO",
    "SQLite's backup",
    "FIFO",
    "device",
    "file by mknod",
}
"""C code and calls that raise no event: what stops them is the kernel, so tier `hooked` doesn't claim to."""


def picture(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything in a folder that a write could change."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        times = () if path == folder else (status.st_mtime_ns,)
        found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, status.st_size, *times, content)
    return found


@pytest.mark.parametrize("tier", TIERS)
def test_a_file_that_may_only_be_read_does_not_change(attacker: Any, places: Path, tier: str) -> None:
    before = picture(places / "outside")
    grants = {"fs.read": [places], "fs.write": [places / "granted"]}
    worker = attacker(permissions=grants, tier=tier, minimum_tier="hooked")
    for way, code in WAYS.items():
        if tier in ("walled", "confined") or way not in CONFINED_ONLY:
            assert worker.is_stopped(code, path=places / "outside" / "secret.txt"), way
            assert picture(places / "outside") == before, way


UNGRANTABLE: Final = {
    "access mode 3", "ftruncate of a descriptor for reading", "posix_fallocate of a descriptor for reading",
    "O_TMPFILE", "copy_file_range", "rmtree", "FIFO", "device", "file by mknod", "reopening through /proc",
    "shared mapping",
}  # fmt: skip
"""Ways that no grant opens, or that change nothing there when it is open."""


def test_control_a_granted_file_changes_in_every_way(attacker: Any, places: Path) -> None:
    for way in WAYS.keys() - UNGRANTABLE:
        folder = places / way.replace(" ", "-")
        folder.mkdir()
        (folder / "file").write_text("original")
    worker = attacker(permissions={"fs.read": [places], "fs.write": [places]})
    for way in WAYS.keys() - UNGRANTABLE:
        folder = places / way.replace(" ", "-")
        before = picture(folder)
        worker.run(WAYS[way], path=folder / "file")
        assert picture(folder) != before, way


def test_moving_out_of_and_into_the_grant_is_refused(attacker: Any, places: Path) -> None:
    before = picture(places / "granted"), picture(places / "outside")
    worker = attacker(permissions={"fs.read": [places], "fs.write": [places / "granted"]})
    for source, target in (("granted/open.txt", "outside/new"), ("outside/secret.txt", "granted/new")):
        for call in ("rename", "link", "replace"):
            assert worker.is_stopped(f"import os; os.{call}(a, b)", a=places / source, b=places / target)
    assert (picture(places / "granted"), picture(places / "outside")) == before


@pytest.mark.parametrize("target", ["../outside/new", "../outside/secret.txt"])
def test_writing_through_a_link_that_leads_out_is_refused(attacker: Any, places: Path, target: str) -> None:
    before = picture(places / "outside")
    grant = [places / "granted"]
    worker = attacker(permissions={"fs.read": grant, "fs.write": grant})
    code = "import os; os.symlink(target, path); open(path, 'w').write('changed')"
    assert worker.is_stopped(code, target=target, path=places / "granted" / "link")
    assert picture(places / "outside") == before


def test_a_deny_inside_an_allow_holds(attacker: Any, places: Path) -> None:
    before = picture(places / "outside")
    everything = {"fs.read": [places], "fs.write": [places]}
    worker = attacker(permissions=everything, deny={"fs.write": [places / "outside"]})
    for way in ("open w", "remove", "open x beside", "SQLite creates a database", "rmtree"):
        assert worker.is_stopped(WAYS[way], path=places / "outside" / "secret.txt")
    worker.run("open(path, 'w').write('fine')", path=places / "granted" / "open.txt")
    assert (places / "granted" / "open.txt").read_text() == "fine"
    assert picture(places / "outside") == before


def test_nothing_appears_in_the_shared_folders_of_the_machine(attacker: Any) -> None:
    worker = attacker()
    for path in ("/dev/shm/plughold-test", "/tmp/plughold-test", "/var/tmp/plughold-test"):
        for code in ("open(path, 'w')", "import os; os.mkdir(path)", WAYS["SQLite's VACUUM INTO"]):
            assert worker.is_stopped(code, path=path)
        assert not os.path.exists(path)
        assert not os.path.exists(path + ".new")


def test_shared_memory_and_anonymous_files_are_refused(attacker: Any) -> None:
    worker = attacker()
    assert worker.is_stopped("import os; os.memfd_create('x')")
    assert worker.is_stopped("from multiprocessing import shared_memory as s; s.SharedMemory(create=True, size=9)")


def test_writing_into_the_own_code_is_refused(attacker: Any) -> None:
    """A plugin that could change its source would be another one at its next start."""
    worker = attacker()
    folder = Path(worker.plugin._manifest.file).parent
    before = picture(folder)
    for code in (WAYS["open w"], WAYS["remove"], WAYS["open x beside"]):
        assert worker.is_stopped(code, path=folder / "plugin.py")
    assert picture(folder) == before


def test_dev_null_may_be_written(attacker: Any) -> None:
    attacker().run("open('/dev/null', 'w').write('x')")


# --- metadata: more of it in test_metadata.py

METADATA: Final = {
    "chmod": "os.chmod(path, 0o4777)",
    "utime": "os.utime(path, (1, 1))",
    "chown": "os.chown(path, 12345, 12345)",
    "lchown": "os.lchown(path, 12345, 12345)",
    "xattr": "os.setxattr(path, 'user.x', b'x')",
    "chmod by descriptor": "os.chmod(os.open(path, os.O_RDONLY), 0o4777)",
    "fchmod": "os.fchmod(os.open(path, os.O_RDONLY), 0o4777)",
    "utime by descriptor": "os.utime(os.open(path, os.O_RDONLY), (1, 1))",
    "fchown": "os.fchown(os.open(path, os.O_RDONLY), 12345, 12345)",
    "xattr by descriptor": "os.setxattr(os.open(path, os.O_RDONLY), 'user.x', b'x')",
    "chmod relative to a folder": (
        "os.chmod(os.path.basename(path), 0o4777, dir_fd=os.open(os.path.dirname(path), os.O_RDONLY))"
    ),
    "chmod by /proc": "os.chmod(f'/proc/self/fd/{os.open(path, os.O_RDONLY)}', 0o4777)",
    "touch": "pathlib.Path(path).touch()",
}


@pytest.mark.parametrize("tier", TIERS)
def test_the_metadata_of_a_file_that_may_only_be_read_does_not_change(attacker: Any, places: Path, tier: str) -> None:
    before = picture(places / "outside")
    worker = attacker(permissions={"fs.read": [places]}, tier=tier, minimum_tier="hooked")
    for way, code in METADATA.items():
        worker.attempt("import os, pathlib\n" + code, path=places / "outside" / "secret.txt")
        assert picture(places / "outside") == before, way
        assert os.listxattr(places / "outside" / "secret.txt") == [], way


def test_no_file_becomes_set_uid(attacker: Any, places: Path) -> None:
    """Not even where writing is granted: whoever runs it later would be the host's user."""
    grant = [places / "granted"]
    worker = attacker(permissions={"fs.read": grant, "fs.write": grant})
    path = places / "granted" / "tool"
    worker.attempt("import os; os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755)", path=path)
    worker.attempt("import os; open(path, 'w'); os.chmod(path, 0o6777)", path=path)
    assert not path.exists() or not path.stat().st_mode & 0o6000


def test_existence_and_metadata_stay_visible_in_confined(attacker: Any, places: Path) -> None:
    """What the documentation says of this tier, so that nobody takes it for more."""
    worker = attacker(tier="confined")
    code = "import os; result = [os.path.exists(path), os.stat(path).st_size]"
    path = places / "outside" / "secret.txt"
    assert worker.run(code, path=path) == [True, path.stat().st_size]


def test_a_listening_socket_in_the_file_system_gets_nothing(attacker: Any, places: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        address = str(places / "granted" / "s")
        listener.bind(address)
        listener.listen()
        listener.setblocking(False)
        grant = [places / "granted"]
        worker = attacker(permissions={"fs.read": grant, "fs.write": grant})
        assert worker.is_stopped("import socket; socket.socket(socket.AF_UNIX).connect(path)", path=address)
        with pytest.raises(BlockingIOError):
            listener.accept()
