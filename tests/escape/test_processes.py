"""A plugin starts no program and no process, however it is asked for; threads it may have."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

TIERS: Final = ["walled", "confined", "filtered", "hooked"]

TOUCH: Final = "[python, '-ISc', f'open({marker!r}, \"w\")']"

BEHIND_THE_STUB: Final = "the real _posixsubprocess, and subprocess without its event"

WAYS: Final = {
    "subprocess": f"import subprocess; subprocess.run({TOUCH}, check=True)",
    "subprocess with a shell": "import subprocess; subprocess.run('touch ' + marker, shell=True, check=True)",
    "os.system": "import os; assert os.system('touch ' + marker) == 0",
    "os.popen": "import os; os.popen('touch ' + marker).read()",
    "os.fork": "import os; pid = os.fork(); open(marker, 'w') if pid == 0 else os.waitpid(pid, 0)",
    "os.forkpty": "import os; pid, _ = os.forkpty(); pid or os._exit(0)",
    "os.posix_spawn": f"import os; os.waitpid(os.posix_spawn(python, {TOUCH}, {{}}), 0)",
    "os.posix_spawnp": "import os; os.waitpid(os.posix_spawnp('touch', ['touch', marker], {}), 0)",
    "os.spawnv": f"import os; assert os.spawnv(os.P_WAIT, python, {TOUCH}) == 0",
    "os.execv": f"import os; os.execv(python, {TOUCH})",
    "os.execve of a shell": "import os; os.execve('/bin/sh', ['sh', '-c', 'touch ' + marker], {})",
    "os.execvp": "import os; os.execvp('touch', ['touch', marker])",
    "os.execve by descriptor": f"import os; os.execve(os.open(python, os.O_RDONLY), {TOUCH}, {{}})",
    "multiprocessing": (
        "import multiprocessing as m; p = m.Process(target=open, args=(marker, 'w')); p.start(); p.join()"
    ),
    "multiprocessing by spawn": """
        import multiprocessing
        p = multiprocessing.get_context("spawn").Process(target=open, args=(marker, "w"))
        p.start()
        p.join()
    """,
    "process pool": (
        "import concurrent.futures as f; f.ProcessPoolExecutor(1).submit(open, marker, 'w').result()"
    ),
    "pty": f"import pty; pty.spawn({TOUCH})",
    "asyncio": (
        f"import asyncio; asyncio.run((lambda: asyncio.create_subprocess_exec(*{TOUCH}))())"
    ),
    "webbrowser": "import webbrowser; assert webbrowser.get('touch %s').open(marker)",
    "the stub of _posixsubprocess": (
        "import _posixsubprocess; _posixsubprocess.fork_exec([b'/bin/true'], [b'/bin/true'])"
    ),
    BEHIND_THE_STUB: """
        import importlib.machinery as m, importlib.util as u, subprocess, sys
        spec = m.BuiltinImporter.find_spec("_posixsubprocess") or m.PathFinder.find_spec("_posixsubprocess")
        module = u.module_from_spec(spec)
        spec.loader.exec_module(module)
        subprocess._fork_exec, sys.audit = module.fork_exec, lambda *_: None
        subprocess.run(["/bin/sh", "-c", "touch " + marker], check=True)
    """,
}  # fmt: skip


STOPS: Final = (
    ("PermissionDenied", "run"),
    ("ImportDenied", "native"),
    ("PermissionError", ""),
    ("FileNotFoundError", ""),  # in tier walled: neither the program nor /dev/shm is there
    ("NotImplementedError", ""),  # what concurrent.futures makes of an import that was refused
)


@pytest.mark.parametrize("tier", TIERS)
def test_no_program_and_no_process_is_started(attacker: Any, tmp_path: Path, tier: str) -> None:
    """Before 3.14 the C function behind the stub raises no event: tier `hooked` does not claim to stop it."""
    worker = attacker(permissions={"fs.read": ["*"], "fs.write": [tmp_path]}, tier=tier, minimum_tier="hooked")
    process = psutil.Process(worker.plugin.pid)
    for number, (way, code) in enumerate(WAYS.items()):
        if (way, tier) != (BEHIND_THE_STUB, "hooked"):
            marker = tmp_path / f"marker-{number}"
            reason = worker.reason(code, marker=marker, python=sys.executable)
            assert reason[:2] in STOPS, (way, reason)
            assert not marker.exists(), way
            assert process.children(recursive=True) == [], way
    assert worker.run("result = 1") == 1, "the worker itself lives on"
    assert worker.plugin.restarts == 0


@pytest.mark.parametrize("way", ["subprocess", "os.posix_spawn", "os.spawnv", "pty", BEHIND_THE_STUB])
def test_control_the_same_code_starts_a_process_outside_a_worker(tmp_path: Path, way: str) -> None:
    marker = tmp_path / "marker"
    code = f"marker, python = {str(marker)!r}, {sys.executable!r}\n" + textwrap.dedent(WAYS[way])
    command = [sys.executable, "-Ic", code]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    assert marker.exists()


def test_a_refused_process_is_a_denial_that_names_the_program(attacker: Any) -> None:
    worker = attacker()
    assert worker.reason("import subprocess; subprocess.run(['/bin/ls'])")[:2] == ("PermissionDenied", "run")
    [record] = worker.plugin.denials()
    assert (record.permission.kind, record.permission.target) == ("run", "/bin/ls")


def test_control_threads_start_and_end(attacker: Any) -> None:
    code = "import threading; t = threading.Thread(target=list); t.start(); t.join(); result = not t.is_alive()"
    assert attacker().run(code) is True


NATIVE: Final = {
    "ctypes": "import ctypes",
    "_ctypes": "import _ctypes",
    "_ctypes under another name": """
        import glob, importlib.machinery as m, importlib.util as u
        spec = u.spec_from_file_location("harmless", file, loader=m.ExtensionFileLoader("harmless", file))
        u.module_from_spec(spec)
    """,
    "imp": """
        import _imp, importlib.machinery as m
        _imp.create_dynamic(m.ModuleSpec("_ctypes", None, origin=file))
    """,
    "cffi": "import cffi",
    "_testcapi": "import _testcapi",
    "_testinternalcapi": "import _testinternalcapi",
    "subinterpreters": "import _xxsubinterpreters",
    "subinterpreters of 3.13": "import _interpreters",
    "SQLite extensions": """
        import sqlite3
        c = sqlite3.connect(":memory:")
        c.enable_load_extension(True)
        c.load_extension(file)
    """,
    "SQLite extensions by SQL": """
        import sqlite3
        sqlite3.connect(":memory:").execute("select load_extension(?)", (file,))
    """,
    "executable memory": "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
}


def extension() -> str:
    """The file of _ctypes, which can call any code."""
    import _ctypes

    return str(_ctypes.__file__)


def test_no_code_of_another_language_is_loaded(attacker: Any) -> None:
    worker = attacker()
    for way, code in NATIVE.items():
        assert worker.is_stopped(code, file=extension()), way
        mapped = Path(f"/proc/{worker.plugin.pid}/maps").read_text()
        for name in ("_ctypes", "_testcapi", "_interpreters", "_xxsubinterpreters", "cffi"):
            assert f"/{name}." not in mapped, way


def test_an_extension_that_the_plugin_brings_or_writes_is_not_loaded(attacker: Any, tmp_path: Path) -> None:
    folder = tmp_path / "granted"
    folder.mkdir()
    copy = folder / "mine.so"
    copy.write_bytes(Path(extension()).read_bytes())
    worker = attacker(permissions={"fs.read": [folder], "fs.write": [folder]})
    assert worker.is_stopped(NATIVE["_ctypes under another name"], file=copy)
    assert str(copy) not in Path(f"/proc/{worker.plugin.pid}/maps").read_text()


def test_control_extensions_of_the_standard_library_load_after_the_lockdown(attacker: Any) -> None:
    code = "import _ssl, _sqlite3, _hashlib, _bz2, _lzma, _decimal, _socket, zlib; result = 1"
    assert attacker().run(code) == 1
