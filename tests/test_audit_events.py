"""The audit hook's tables against the events that the running interpreter raises, read from its own files.

Python modules are searched for `sys.audit("...")`. Compiled ones are disassembled as far as it takes: an instruction
that loads the address of a text, followed by a call to a function that also gets an event that is known. That reads
x86-64 code only, which is enough, since the C sources are the same on every machine.
"""

from __future__ import annotations

import functools
import glob
import itertools
import os
import platform
import re
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest

from sandbox_worker.audit_hook import HARMLESS, JUDGED, NAMESPACES

REFUSED: Final = frozenset(
    """
    builtins.breakpoint cpython.PyInterpreterState_New cpython.run_command cpython.run_file cpython.run_interactivehook
    cpython.run_module cpython.run_startup cpython.run_stdin ctypes.PyObj_FromPtr ctypes.addressof ctypes.call_function
    ctypes.cdata ctypes.cdata/buffer ctypes.create_string_buffer ctypes.create_unicode_buffer ctypes.dlopen ctypes.dlsym
    ctypes.dlsym/handle ctypes.get_errno ctypes.get_last_error ctypes.set_errno ctypes.set_last_error ctypes.string_at
    ctypes.wstring_at gc.get_objects gc.get_referents gc.get_referrers marshal.load msvcrt.get_osfhandle
    msvcrt.open_osfhandle pdb.Pdb resource.prlimit resource.setrlimit setopencodehook signal.pthread_kill
    socket.sethostname sys._current_exceptions sys._current_frames sys.addaudithook sys.monitoring.register_callback
    sys.setprofile sys.settrace
    """.split()
)
"""Events that nobody needs in a worker: in a namespace of CPython, so refused. A new event is to be thought about, and
then goes here, into HARMLESS or into JUDGED."""

ELSEWHERE: Final = {
    "_posixsubprocess.fork_exec": "3.14",
    "os._clearenv": "3.15",
    "asyncio.stalled": "3.15",
    "_thread.start_new_thread": "since 3.12",
    "_thread.start_joinable_thread": "since 3.13",
    "time.sleep": "since 3.13",
    "sys._getframemodulename": "since 3.12",
    "pathlib.Path.walk": "since 3.12",
    "nntplib.connect": "until 3.12",
    "nntplib.putline": "until 3.12",
    "telnetlib.Telnet.open": "until 3.12",
    "telnetlib.Telnet.write": "until 3.12",
    "sqlite3.enable_load_extension": "in builds with loadable SQLite extensions",
    "sqlite3.load_extension": "in builds with loadable SQLite extensions",
    "os.startfile": "on Windows",
    "os.killpg": "its name is loaded out of the search's sight",
    "sqlite3.connect/handle": "its name is loaded out of the search's sight",
    "os.spawn": "documented for os.spawn*, which raise os.fork and os.exec on POSIX",
    "http.client.send": "raised through a variable",
}
"""Events in the tables that this interpreter may lack, or that the search can't see; each with its reason."""

CALIBRATION: Final = frozenset(
    """
    os.listdir os.remove socket.connect fcntl.fcntl fcntl.ioctl ctypes.dlopen array.__new__ syslog.openlog sys.settrace
    resource.setrlimit mmap.__new__ sqlite3.connect pickle.find_class sys._getframe sys.addaudithook time.sleep
    """.split()
)
"""Events that are surely raised: what they are handed to is PySys_Audit, or a stub that leads there."""

RAISED_BY_PYTHON: Final = re.compile(r"""\baudit\(\s*["']([^"']+)["']""")
LOADS_FIXED: Final = re.compile(rb"[\xbf\xbe](....)", re.DOTALL)  # mov to edi or esi
LOADS_RELATIVE: Final = re.compile(rb"\x48\x8d[\x3d\x35](....)", re.DOTALL)  # lea to rdi or rsi, from rip
CALLS: Final = re.compile(rb"([\xe8\xe9]|\xff[\x15\x25])(....)", re.DOTALL)  # call or jmp, relative or through the GOT
TEXTS: Final = (
    re.compile(rb"[A-Za-z_]\w*(?:\.\w+)+(?:/\w+)?(?=\0)"),
    re.compile(rb"(?:open|import|exec|compile|setopencodehook)(?=\0)"),  # a linker merges them with longer texts' ends
)
NEARBY: Final = 64
"""Bytes of code between loading an event's name and the call, at most: the other arguments are loaded in between."""


def in_python_modules() -> set[str]:
    """Events that the standard library's Python code raises."""
    library = Path(os.path.realpath(os.__file__)).parent
    skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib2to3", "idlelib", "turtledemo"}
    found = set()
    for folder, folders, files in os.walk(library):
        folders[:] = [name for name in folders if name not in skipped]
        for name in files:
            if name.endswith(".py"):
                text = Path(folder, name).read_text(encoding="utf-8", errors="replace")
                if "audit(" in text:
                    found |= set(RAISED_BY_PYTHON.findall(text))
    return found


class Image:
    """The loadable segments of an ELF file (elf(5)), as far as finding code and the texts it names takes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.fixed = data[16] == 2  # ET_EXEC: loaded at the addresses that it was linked for
        table = struct.unpack_from("<Q", data, 32)[0]
        size, count = struct.unpack_from("<HH", data, 54)
        headers = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
        self.loaded = [(offset, at, length, flags) for kind, flags, offset, at, _, length in headers if kind == 1]

    def texts(self) -> dict[int, str]:
        """Every text that looks like an event, by its address."""
        matches = itertools.chain.from_iterable(pattern.finditer(self.data) for pattern in TEXTS)
        places = {match.start(): match[0].decode() for match in matches}
        return {
            at + place - offset: text
            for place, text in places.items()
            for offset, at, length, _ in self.loaded
            if offset <= place < offset + length
        }

    def holds(self, address: int) -> bool:
        """Whether anything is loaded there."""
        return any(at <= address < at + length for _, at, length, _ in self.loaded)

    def handed_over(self) -> set[tuple[str, int]]:
        """(text, address called or of its GOT entry) of every call soon after the text's address was loaded."""
        found = set()
        texts = self.texts()
        loads = LOADS_FIXED if self.fixed else LOADS_RELATIVE
        for offset, at, length, flags in self.loaded:
            code = self.data[offset : offset + length] if flags & 1 else b""
            for load in loads.finditer(code):
                end = load.end()
                text = texts.get(signed(load[1]) + (0 if self.fixed else at + end))
                if text is not None:
                    calls = CALLS.finditer(code[end : end + NEARBY])
                    targets = (at + end + call.end() + signed(call[2]) for call in calls)
                    found |= {(text, target) for target in itertools.islice(filter(self.holds, targets), 1)}
        return found


def signed(raw: bytes) -> int:
    """A 32-bit displacement."""
    return int.from_bytes(raw, "little", signed=True)


def in_compiled_modules() -> set[str]:
    """Events that the interpreter and the standard library's compiled modules raise."""
    folders = {sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib")}
    files = [os.path.realpath(sys.executable)]
    files += [
        file
        for folder in folders
        for file in glob.glob(f"{folder}/libpython{sys.version_info[0]}.{sys.version_info[1]}*.so*")
    ]
    files += glob.glob(f"{sysconfig.get_config_var('DESTSHARED')}/*.so")
    found = set()
    for file in {os.path.realpath(file) for file in files}:
        data = Path(file).read_bytes()
        if b"PySys_Audit\0" in data:
            handed = Image(data).handed_over()
            audits = {target for text, target in handed if text in CALIBRATION}
            assert audits, f"{os.path.basename(file)} raises events, and none that CALIBRATION knows"
            found |= {text for text, target in handed if target in audits and not text.endswith("CAPI")}
    return found


@functools.cache
def raised_here() -> frozenset[str]:
    """Every event that this interpreter raises, as far as it can be read from its files."""
    if platform.machine() != "x86_64":
        pytest.skip("reads x86-64 code")
    return frozenset(in_python_modules() | in_compiled_modules())


def namespace(event: str) -> str:
    """What stands before an event's first dot."""
    return event.partition(".")[0]


def test_every_namespace_that_the_interpreter_uses_is_its_own_in_the_table() -> None:
    """A new event in a namespace that is listed is refused; one in a namespace that is not would pass."""
    assert {namespace(event) for event in raised_here() if "." in event} - NAMESPACES == set()


def test_every_event_of_the_interpreter_is_classified() -> None:
    assert raised_here() - HARMLESS - JUDGED - REFUSED == set()


def test_every_classified_event_exists_or_has_its_reason() -> None:
    """Also the proof that the search finds what is there."""
    assert (HARMLESS | JUDGED) - raised_here() - ELSEWHERE.keys() == set()


def test_the_classes_are_disjoint() -> None:
    assert set() == HARMLESS & JUDGED
    assert set() == (HARMLESS | JUDGED) & REFUSED


def test_every_classified_event_lies_in_a_namespace_of_the_table() -> None:
    assert {namespace(event) for event in HARMLESS | JUDGED | REFUSED if "." in event} - NAMESPACES == set()


CONTROL: Final = """
import os, sys
seen = set()
sys.addaudithook(lambda event, _: seen.add(event))
os.listdir("/"), open("/dev/null").close(), list(os.walk("/dev/null")), id(1)
print(*seen)
"""


def test_events_of_ordinary_work_are_among_those_that_were_found() -> None:
    """A positive control of the search itself: what is seen when it is raised was found in the files."""
    output = subprocess.run([sys.executable, "-ISc", CONTROL], capture_output=True, text=True, check=True).stdout
    seen = set(output.split())
    assert {"open", "os.listdir", "os.scandir", "os.walk", "builtins.id"} <= seen
    assert seen - raised_here() == set()
