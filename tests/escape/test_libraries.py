"""Ordinary library code works inside a write grant: walls that break honest plugins would be taken down."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

WORK: Final = {
    "shutil.copytree": """
        os.makedirs(d + "/a/b"); open(d + "/a/b/f", "w").write("x"); os.symlink("f", d + "/a/b/l")
        shutil.copytree(d + "/a", d + "/c", symlinks=True)
        result = open(d + "/c/b/l").read() == "x"
    """,
    "shutil.copy and copy2": """
        open(d + "/a", "w").write("x")
        result = [open(f(d + "/a", d + "/" + f.__name__)).read() for f in (shutil.copy, shutil.copy2)] == ["x", "x"]
    """,
    "shutil.move": """
        os.mkdir(d + "/a"); open(d + "/a/f", "w").write("x"); os.mkdir(d + "/b")
        shutil.move(d + "/a", d + "/b"); shutil.move(d + "/b/a/f", d + "/g")
        result = open(d + "/g").read() == "x"
    """,
    "shutil.rmtree": """
        os.makedirs(d + "/a/b/c"); open(d + "/a/b/f", "w").write("x"); os.symlink("/etc", d + "/a/l")
        shutil.rmtree(d + "/a")
        result = os.listdir(d) == []
    """,
    "tarfile": """
        import tarfile
        os.mkdir(d + "/a"); open(d + "/a/f", "w").write("x")
        with tarfile.open(d + "/t.tar.gz", "w:gz") as t: t.add(d + "/a", "a")
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # PEP 706, in 3.11 since 3.11.4
        with tarfile.open(d + "/t.tar.gz") as t: t.extractall(d + "/out", **safe)
        result = open(d + "/out/a/f").read() == "x"
    """,
    "zipfile": """
        import zipfile
        with zipfile.ZipFile(d + "/z.zip", "w", zipfile.ZIP_DEFLATED) as z: z.writestr("a/f", "x")
        with zipfile.ZipFile(d + "/z.zip") as z: z.extractall(d + "/out")
        result = open(d + "/out/a/f").read() == "x"
    """,
    "shutil.make_archive": """
        os.mkdir(d + "/a"); open(d + "/a/f", "w").write("x")
        shutil.unpack_archive(shutil.make_archive(d + "/arc", "zip", d + "/a"), d + "/out")
        result = open(d + "/out/f").read() == "x"
    """,
    "tempfile": """
        import tempfile
        with tempfile.TemporaryDirectory(dir=d) as t:
            with tempfile.NamedTemporaryFile(dir=t) as f: f.write(b"x")
            with tempfile.TemporaryFile(dir=t) as f: f.write(b"x")
        result = os.listdir(d) == []
    """,
    "SQLite with a write-ahead log": """
        import sqlite3
        c = sqlite3.connect(d + "/x.db")
        mode = c.execute("pragma journal_mode=wal").fetchone()[0]
        with c: c.execute("create table t (a)"); c.execute("insert into t values (1)")
        result = mode == "wal" and sqlite3.connect(d + "/x.db").execute("select a from t").fetchone() == (1,)
    """,
    "SQLite with a rollback journal": """
        import sqlite3
        c = sqlite3.connect(d + "/x.db")
        with c: c.execute("create table t (a)"); c.execute("insert into t values (1)")
        c.execute("vacuum")
        result = c.execute("select a from t").fetchone() == (1,)
    """,
    "pathlib": """
        import pathlib
        p = pathlib.Path(d, "a", "b"); p.mkdir(parents=True); (p / "f").touch(); (p / "f").touch()
        (p / "f").write_text("x"); (p / "f").rename(p / "g"); (p / "l").symlink_to("g")
        names = [x.name for x in sorted(pathlib.Path(d).rglob("*"))]
        result = names == ["a", "b", "g", "l"] and (p / "l").read_text() == "x"
    """,
    "times and modes": """
        open(d + "/f", "w"); os.utime(d + "/f"); os.utime(d + "/f", (1, 2)); os.chmod(d + "/f", 0o600)
        shutil.copystat(d, d + "/f")
        result = True
    """,
    "locks": """
        import fcntl
        f = open(d + "/lock", "w"); fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)
        result = True
    """,
    "shared mappings": """
        import mmap
        with open(d + "/m", "w+b") as f:
            f.truncate(8192)
            m = mmap.mmap(f.fileno(), 0); m[:4] = b"data"; m.flush()
        result = open(d + "/m", "rb").read(4) == b"data"
    """,
    "shelves": """
        import dbm.dumb
        with dbm.dumb.open(d + "/s", "c") as s: s["k"] = "v"
        result = dbm.dumb.open(d + "/s")["k"] == b"v"
    """,
}


def test_it_works_inside_a_write_grant(attacker: Any, tmp_path: Path) -> None:
    worker = attacker(permissions={"fs.read": [tmp_path], "fs.write": [tmp_path]})
    for number, (name, work) in enumerate(WORK.items()):
        folder = tmp_path / f"work-{number}"
        folder.mkdir()
        code = "import os, shutil\n" + textwrap.dedent(work)
        assert worker.run(code, d=folder) is True, name


PURE: Final = {
    "asyncio": "import asyncio; result = asyncio.run(asyncio.sleep(0, 'x')) == 'x'",
    "asyncio in threads": "import asyncio; result = asyncio.run(asyncio.to_thread(lambda: 1)) == 1",
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor as T; result = sum(T(4).map(abs, range(-50, 0))) == 1275"
    ),
    "socket pairs": "import socket; a, b = socket.socketpair(); a.send(b'x'); result = b.recv(1) == b'x'",
    "hashes": "import hashlib; result = len(hashlib.sha256(b'x').hexdigest()) == 64",
    "time zones": (
        "import zoneinfo, datetime as d; t = d.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')); "
        "result = t.utcoffset() == d.timedelta(hours=2)"
    ),
    "randomness": "import os, secrets; result = len(os.urandom(8)) == len(secrets.token_bytes(8))",
    "TLS contexts": "import ssl; result = ssl.create_default_context().check_hostname",
    "dataclasses, enums, typing": (
        "import dataclasses, enum, typing; D = dataclasses.make_dataclass('D', ['a']); "
        "result = D(1).a == 1 and enum.Enum('E', 'A').A.name == 'A'"
    ),
    "named tuples": "import collections; result = collections.namedtuple('N', 'a')(1).a == 1",
    "logging with a traceback": (
        "import logging\ntry: 1 / 0\nexcept ZeroDivisionError: logging.getLogger().exception('x')\nresult = True"
    ),
    "generators and coroutines": (
        "import types; result = list(i for i in range(3)) == [0, 1, 2] and types.coroutine(lambda: (yield)) is not None"
    ),
    "pickle in memory": (
        "import pickle, datetime; v = [datetime.date(2024, 1, 1)]; result = pickle.loads(pickle.dumps(v)) == v"
    ),
    "importing what starts processes": "import subprocess, multiprocessing, asyncio.subprocess; result = True",
    "a module that may be missing": ("try: import ctypes\nexcept ImportError: result = True\nelse: result = False"),
    "compression": "import bz2, lzma, zlib; result = zlib.decompress(zlib.compress(b'x')) == b'x'",
    "decimal, json, csv, xml": (
        "import csv, decimal, json, xml.etree.ElementTree as e; result = e.fromstring('<a>x</a>').text == 'x'"
    ),
    "garbage collection": "import gc; gc.collect(); gc.disable(); gc.enable(); result = True",
    "copies": "import copy; v = [1, [2]]; result = copy.deepcopy(v) == v",
}


def test_it_works_without_any_grant(attacker: Any) -> None:
    worker = attacker()
    for name, code in PURE.items():
        assert worker.run(code) is True, name


def test_a_plugin_that_imports_msgpack_gets_the_whole_package(attacker: Any) -> None:
    """The worker itself loads the extension without its package; the plugin must not notice."""
    code = """
        import msgpack, datetime
        stamp = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
        packed = msgpack.packb([msgpack.ExtType(5, b"x"), stamp], datetime=True)
        back = msgpack.unpackb(packed, timestamp=3)
        try:
            msgpack.unpackb(packed + packed)
        except msgpack.ExtraData as e:
            extra = e.extra
        result = [
            extra == packed,
            back == [msgpack.ExtType(5, b"x"), stamp],
            isinstance(back[0], msgpack.ExtType),
            isinstance(msgpack.unpackb(packed)[1], msgpack.Timestamp),
            msgpack.unpackb(msgpack.packb({"a": [1, 2.5, None, b"b"]})) == {"a": [1, 2.5, None, b"b"]},
        ]
    """
    worker = attacker()
    assert worker.run(code) == [True] * 5
    assert worker.run("result = [1, {'k': None}]") == [1, {"k": None}]


def test_what_stood_in_for_the_standard_library_is_gone(attacker: Any) -> None:
    code = """
        import sys
        loaded = [name for name in ("collections", "datetime", "struct") if name in sys.modules]
        import collections, datetime, msgpack, struct
        stamp = msgpack.Timestamp(5).to_datetime()
        files = [module.__file__.rpartition("/")[2] for module in (collections, datetime, struct)]
        result = [loaded, files, type(stamp) is datetime.datetime]
    """
    assert attacker().run(code) == [[], ["__init__.py", "datetime.py", "struct.py"], True]


def test_a_plugin_that_uses_msgpack_does_not_change_the_wire(attacker: Any) -> None:
    """Extension types still don't cross, even when the plugin knows the class that they have."""
    worker = attacker()
    worker.run("import msgpack")
    reply = worker.plugin
    with pytest.raises(Exception, match="ExtType"):
        reply.call("attempt", code="import msgpack; result = msgpack.ExtType(5, b'x')", names={})
    assert worker.run("result = 1") == 1


def test_a_plugin_may_import_pluggy(attacker: Any) -> None:
    assert attacker().run("import pluggy; result = callable(pluggy.HookimplMarker('x'))") is True
