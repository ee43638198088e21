"""Inside a write grant ordinary code sets modes and times and takes locks, in each tier with seccomp; nowhere else."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest
from walls_driver import LIKE_DOCKER

from host import PermissionDenied
from host.run.spawner import Spawner

if TYPE_CHECKING:
    from pathlib import Path

TIERS: Final = ("walled", "confined", "filtered")
LIBRARIES: Final = {
    "shutil.copystat": """
import os, shutil
open(d + "/from", "w").close(); open(d + "/to", "w").close()
os.chmod(d + "/from", 0o644); os.utime(d + "/from", ns=(5, 7))
shutil.copystat(d + "/from", d + "/to")
found = os.stat(d + "/to")
result = [oct(found.st_mode), found.st_mtime_ns] == ["0o100644", 7]
""",
    "shutil.copytree": """
import os, shutil
os.makedirs(d + "/tree/sub"); open(d + "/tree/sub/tool", "w").close(); os.symlink("tool", d + "/tree/sub/link")
os.chmod(d + "/tree/sub/tool", 0o755); os.chmod(d + "/tree/sub", 0o750); os.utime(d + "/tree/sub", (1000, 2000))
shutil.copytree(d + "/tree", d + "/copy", symlinks=True)
tool, sub = os.stat(d + "/copy/sub/tool"), os.stat(d + "/copy/sub")
result = [oct(tool.st_mode), oct(sub.st_mode), sub.st_mtime] == ["0o100755", "0o40750", 2000.0]
""",
    "tarfile": """
import io, os, tarfile
made = io.BytesIO()
with tarfile.open(fileobj=made, mode="w") as archive:
    for name, mode, kind in (("folder", 0o750, tarfile.DIRTYPE), ("folder/tool", 0o755, tarfile.REGTYPE)):
        entry = tarfile.TarInfo(name)
        entry.mode, entry.mtime, entry.type = mode, 1000, kind
        entry.uid, entry.gid = os.getuid(), os.getgid()
        archive.addfile(entry)
with tarfile.open(fileobj=io.BytesIO(made.getvalue())) as archive:
    archive.extractall(d, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}))
found = [os.stat(d + name) for name in ("/folder", "/folder/tool")]
result = [(oct(f.st_mode), f.st_mtime) for f in found] == [("0o40750", 1000.0), ("0o100755", 1000.0)]
""",
    "zipfile": """
import io, os, zipfile
made = io.BytesIO()
with zipfile.ZipFile(made, "w") as archive:
    archive.writestr("sub/file", "text")
with zipfile.ZipFile(made) as archive:
    archive.extractall(d)
os.chmod(d + "/sub/file", 0o444)
result = oct(os.stat(d + "/sub/file").st_mode) == "0o100444"
""",
    "Path.touch": """
import os, pathlib
file = pathlib.Path(d, "touched"); file.touch(); os.utime(file, (1, 1)); file.touch()
result = file.stat().st_mtime > 1000
""",
    "Path.chmod": """
import pathlib
file = pathlib.Path(d, "f"); file.touch(); file.chmod(0o400)
result = oct(file.stat().st_mode) == "0o100400"
""",
    "os.utime of a descriptor": """
import os
file = os.open(d + "/f", os.O_CREAT | os.O_WRONLY); os.utime(file, ns=(3, 4))
result = os.fstat(file).st_mtime_ns == 4
""",
    "tempfile": """
import os, tempfile
with tempfile.TemporaryFile(dir=d) as file:
    os.fchmod(file.fileno(), 0o640)
    first = oct(os.fstat(file.fileno()).st_mode)
with tempfile.TemporaryDirectory(dir=d) as folder:
    os.mkdir(folder + "/sub"); open(folder + "/sub/file", "w").close()
    os.chmod(folder + "/sub", 0)
result = (first, os.path.exists(folder)) == ("0o100640", False)
""",
    "sqlite with a write-ahead log": """
import sqlite3
with sqlite3.connect(d + "/base") as base, sqlite3.connect(d + "/base") as other:
    base.execute("pragma journal_mode=wal")
    base.execute("create table t (x)"); base.execute("insert into t values (1)")
    base.commit()
    result = other.execute("select x from t").fetchall() == [(1,)]
""",
    "a lock file": """
import fcntl, os
first, second = (os.open(d + "/lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
fcntl.flock(first, fcntl.LOCK_EX)
try:
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    fcntl.flock(first, fcntl.LOCK_UN)
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    result = True
""",
    "a lock of a file that is only read": """
import fcntl
open(d + "/f", "w").close()
with open(d + "/f") as file:
    fcntl.flock(file, fcntl.LOCK_SH)
result = True
""",
}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_ordinary_code_works_inside_a_write_grant(attacker: Any, places: Path, library: str, tier: str) -> None:
    grant = [places / "granted"]
    worker = attacker(permissions={"fs.read": grant, "fs.write": grant}, tier=tier, minimum_tier=tier)
    assert worker.run(LIBRARIES[library], d=places / "granted") is True
    assert worker.plugin.denials() == ()


@pytest.mark.parametrize("tier", TIERS)
def test_a_change_outside_is_told_as_the_brokers_refusal(attacker: Any, places: Path, tier: str) -> None:
    file = places / "outside" / "secret.txt"
    before = file.stat()
    worker = attacker(permissions={"fs.read": [places], "fs.write": [places / "granted"]}, tier=tier, minimum_tier=tier)
    # A call by descriptor raises no event that names a path: below `walled` the broker alone can know.
    assert worker.is_stopped("import os; os.fchmod(os.open(path, os.O_RDONLY), 0o777)", path=file)
    assert worker.is_stopped("import fcntl; fcntl.flock(open(path), fcntl.LOCK_EX)", path=file)
    assert (file.stat().st_mode, file.stat().st_ctime_ns) == (before.st_mode, before.st_ctime_ns)
    found = [
        (r.layer, r.origin, r.permission.kind, r.permission.target, r.hint)
        for r in worker.plugin.denials()
        if r.layer == "broker"
    ]
    assert found == [("broker", "host", "fs.write", str(file), f'fs.write = ["{file}"]')]


@pytest.mark.parametrize("tier", TIERS)
def test_a_plugin_that_may_only_read_keeps_nobody_waiting(attacker: Any, places: Path, tier: str) -> None:
    """Neither where it may write something else, for which it has a broker, nor where it may write nothing."""
    file = places / "outside" / "secret.txt"
    for writes in ({}, {"fs.write": [places / "granted"]}):
        worker = attacker(permissions={"fs.read": [places], **writes}, tier=tier, minimum_tier=tier)
        for how in ("LOCK_EX", "LOCK_SH", "LOCK_EX | fcntl.LOCK_NB", "LOCK_SH | fcntl.LOCK_NB"):
            code = f"import fcntl\nkept = open(path)\nglobals()['keep'] = kept\nfcntl.flock(kept, fcntl.{how})"
            assert worker.reason(code, path=file) == ("OSError", "", 38)
        worker.run("import fcntl; fcntl.flock(open(path), fcntl.LOCK_UN)", path=file)
        with open(file) as ours:
            fcntl.flock(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)


def brokers() -> list[psutil.Process]:
    """The brokers of this process."""
    return [child for child in psutil.Process().children() if any("broker" in word for word in child.cmdline())]


@pytest.mark.parametrize("tier", TIERS)
def test_a_broker_is_started_with_the_first_question(attacker: Any, places: Path, tier: str) -> None:
    grant = [places / "granted"]
    worker = attacker(permissions={"fs.write": grant}, tier=tier, minimum_tier=tier)
    assert brokers() == []
    worker.run("import fcntl; fcntl.flock(open(d + '/f', 'w'), fcntl.LOCK_EX)", d=places / "granted")
    assert len(brokers()) == 1


def test_a_question_at_the_import_is_answered(plugin_from: Any, places: Path) -> None:
    grant = [places / "granted"]
    plugin = plugin_from(
        f"""
        import os
        os.chmod({str(places / "granted" / "open.txt")!r}, 0o640)
        @hookimpl
        def nothing(): pass
        """,
        permissions={"fs.read": grant, "fs.write": grant},
        tier="confined",
    )
    assert plugin.call("nothing") is None
    assert stat.S_IMODE((places / "granted" / "open.txt").stat().st_mode) == 0o640


def test_a_worker_whose_broker_died_is_replaced(attacker: Any, places: Path) -> None:
    grant = [places / "granted"]
    worker = attacker(permissions={"fs.read": grant, "fs.write": grant}, tier="confined")
    chmod = "import os; os.chmod(path, int(mode, 8)); result = os.getpid()"
    first = worker.run(chmod, path=places / "granted" / "open.txt", mode="640")
    [broker] = brokers()
    broker.send_signal(signal.SIGKILL)
    broker.wait()
    second = worker.run(chmod, path=places / "granted" / "open.txt", mode="644")
    assert first != second
    assert stat.S_IMODE((places / "granted" / "open.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize("tier", TIERS)
def test_what_is_dropped_is_no_longer_changed(attacker: Any, places: Path, tier: str) -> None:
    """By a descriptor, of which the hook knows no path."""
    grant = [places / "granted"]
    worker = attacker(permissions={"fs.read": grant, "fs.write": grant}, tier=tier, minimum_tier=tier)
    worker.run(
        "import fcntl; from sandbox_worker.plugin_api import permissions\n"
        "kept = open(d + '/open.txt')\nfcntl.flock(kept, fcntl.LOCK_EX); fcntl.flock(kept, fcntl.LOCK_UN)\n"
        "permissions.drop('fs.write', d)",
        d=places / "granted",
    )
    code = "import fcntl; fcntl.flock(open(d + '/open.txt'), fcntl.LOCK_EX)"
    assert worker.reason(code, d=places / "granted") == ("OSError", "", 38)


@pytest.mark.parametrize("tier", TIERS)
def test_a_temporary_folder_is_removed_whatever_modes_it_has(attacker: Any, tier: str) -> None:
    worker = attacker(permissions={"fs.write": ["${tmp}"]}, tier=tier, minimum_tier=tier)
    tmp = worker.run("""
import os, tempfile
result = d = tempfile.gettempdir()
os.makedirs(d + "/a/b"); open(d + "/a/b/file", "w").close()
for path in ("/a/b/file", "/a/b", "/a", ""):
    os.chmod(d + path, 0)
""")
    worker.plugin.close()
    assert not os.path.exists(tmp)


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp")
def test_in_a_container_locks_are_judged_too(plugin_from: Any, places: Path) -> None:
    """Container engines refuse pidfd_getfd: there the kernel goes on with a lock that was judged."""
    manifest = plugin_from.manifest(
        f"""
        import fcntl, os
        @hookimpl
        def attempt():
            said = []
            for path in ({str(places / "granted" / "open.txt")!r}, {str(places / "outside" / "secret.txt")!r}):
                try:
                    fcntl.flock(open(path), fcntl.LOCK_EX)
                    said.append("locked")
                except OSError as e:
                    said.append(e.errno)
            os.chmod({str(places / "granted" / "open.txt")!r}, 0o640)
            return said
        """,
        permissions={"fs.read": [places], "fs.write": [places / "granted"]},
    )
    code = (
        LIKE_DOCKER
        + "\n"
        + (
            "import sys; import host\n"
            "with host.PluginHost('tests', grants='requested') as plugins:\n"
            "    plugin = plugins.load(sys.argv[1]); print(plugin.tier, plugin.call('attempt'))\n"
        )
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(manifest)], capture_output=True, text=True, timeout=200, check=False
    )
    assert run.stdout == "confined ['locked', 38]\n", run.stderr
    assert stat.S_IMODE((places / "granted" / "open.txt").stat().st_mode) == 0o640


def test_an_uncaught_refusal_by_the_broker_is_a_denial(plugin_from: Any, places: Path) -> None:
    file = places / "outside" / "secret.txt"
    plugin = plugin_from(
        f"""
        import fcntl, os
        @hookimpl
        def chmod(): os.fchmod(os.open({str(file)!r}, os.O_RDONLY), 0o600)
        @hookimpl
        def lock(): fcntl.flock(open({str(file)!r}), fcntl.LOCK_SH)
        @hookimpl
        def other():
            try: lock()
            except OSError: pass
            raise PermissionError(13, "Permission denied", "/nowhere")
        """,
        permissions={"fs.read": [places], "fs.write": [places / "granted"]},
        tier="confined",
    )
    for hook in ("chmod", "lock"):
        with pytest.raises(PermissionDenied) as caught:
            plugin.call(hook)
        assert (caught.value.permission, caught.value.target, caught.value.layer) == ("fs.write", str(file), "broker")
    with pytest.raises(PermissionDenied) as caught:
        plugin.call("other")
    assert caught.value.layer == "landlock"


@pytest.mark.parametrize("name", ["new", "old/../new"])
def test_what_is_new_beside_a_denied_path_is_refused_with_a_hint(plugin_from: Any, places: Path, name: str) -> None:
    granted = places / "granted"
    (granted / "denied").mkdir()
    (granted / "old").mkdir()
    plugin = plugin_from(
        """
        import os
        @hookimpl
        def write(path): open(path, "w").close()
        @hookimpl
        def move(path, to): os.rename(path, to)
        """,
        permissions={"fs.read": [granted], "fs.write": [granted]},
        deny={"fs.read": [str(granted / "denied")]},
        tier="confined",
    )
    plugin.call("write", path=str(granted / "old" / "file"))
    for hook, arguments in (
        ("write", {"path": str(granted / name)}),
        ("move", {"path": str(granted / "old" / "file"), "to": str(granted / name)}),
    ):
        with pytest.raises(PermissionError) as caught:
            plugin.call(hook, **arguments)
        assert type(caught.value) is PermissionError
        [note] = [note for note in caught.value.__notes__ if note.startswith("hint: ")]
        assert note.startswith(f"hint: {os.path.normpath(granted / name)} is granted from the next start on")
    (granted / os.path.basename(name)).touch()
    plugin.restart()
    plugin.call("write", path=str(granted / name))


def test_an_ordinary_permission_error_has_no_hint(plugin_from: Any, places: Path) -> None:
    granted = places / "granted"
    (granted / "denied").mkdir()
    plugin = plugin_from(
        "@hookimpl\ndef fail(path): raise PermissionError(13, 'Permission denied', path)",
        permissions={"fs.read": [granted], "fs.write": [granted]},
        deny={"fs.read": [str(granted / "denied")]},
        tier="confined",
    )
    with pytest.raises(PermissionError) as caught:
        plugin.call("fail", path=str(granted / "open.txt"))
    assert not any(note.startswith("hint") for note in caught.value.__notes__)


@pytest.mark.parametrize("tier", TIERS)
def test_a_machine_without_notifications_pretends_below_walled(
    attacker: Any, places: Path, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has no broker; a plugin that may write nothing is refused as everywhere."""
    known = Spawner.__init__

    def without(self: Spawner, *arguments: Any, **options: Any) -> None:
        known(self, *arguments, **options)
        self.abilities["notifications"] = False

    monkeypatch.setattr(Spawner, "__init__", without)
    grant = [places / "granted"]
    file = places / "granted" / "open.txt"
    file.chmod(0o600)
    change = "import os, fcntl; file = os.open(path, os.O_RDONLY); os.fchmod(file, 0o640); fcntl.flock(file, 2)"
    worker = attacker(permissions={"fs.read": grant, "fs.write": grant}, tier=tier, minimum_tier=tier)
    worker.run(change, path=file)
    assert stat.S_IMODE(file.stat().st_mode) == (0o640 if tier == "walled" else 0o600)
    assert brokers() == []
    assert attacker(permissions={"fs.read": grant}, tier=tier, minimum_tier=tier).is_stopped(change, path=file)
