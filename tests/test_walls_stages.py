"""Namespaces that are begun before they are wanted: real ones, in a process of their own that may mount."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final

import pytest
from walls_driver import CHECKOUT, ended, need

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SCRIPT: Final = """
import json, os, signal, sys
sys.path[:0] = {path!r}
from sandbox_worker.walls import linux, mounts, namespaces, stages, view

NAME = os.uname().nodename
user, group = os.geteuid(), os.getegid()
try:
    linux.syscall("unshare", 0x10020000)
    for name, content in (("setgroups", "deny"), ("uid_map", f"0 {{user}} 1"), ("gid_map", f"0 {{group}} 1")):
        with open("/proc/self/" + name, "w") as file:
            file.write(content)
    made = namespaces.UserNamespace()
    assert made.descriptor is not None, made.why_not
except (OSError, AssertionError) as error:
    print(json.dumps({{"refused": str(error)}}))
    sys.exit()
T = {folder!r}
BASE = [(T + "/base", "r"), (T + "/base/hidden", "n"), ("/dev/null", "r")]
begun = stages.Stages(made.descriptor, view.arrange(BASE, (), ()))

def waiting():
    with open(f"/proc/self/task/{{os.getpid()}}/children") as file:
        return [int(pid) for pid in file.read().split()]

def net(pid):
    try:
        return os.readlink(f"/proc/{{pid}}/ns/net")
    except FileNotFoundError:
        return "of one that is dead"

def mount(folder):
    tree, place = mounts.new_tmpfs(()), os.open(folder, os.O_PATH)
    mounts.attach(tree, place)
    os.close(place)
    os.close(tree)

def seen(own, look, links=(), named=False):
    '''What `look` gives in namespaces with these grants, and whether they are those that were begun.'''
    before = waiting()
    read, write = os.pipe()
    with begun.prepared(view.arrange(BASE, own, links), named=named) as handle:
        begun_ones = [net(pid) for pid in waiting() if pid in before]
        pid = os.fork()
        if not pid:
            try:
                taken = os.open("/proc/self/ns", os.O_RDONLY)
                linux.syscall("setns", handle, namespaces.CLONE_NEWUSER | namespaces.OWN)
                os.write(write, json.dumps([look(), os.readlink("net", dir_fd=taken) in begun_ones]).encode())
            finally:
                os._exit(0)
        os.close(write)
        said = os.read(read, 65536)
        os.waitpid(pid, 0)
    return json.loads(said)

def text(path):
    with open(path) as file:
        return file.read()

begun.prepare()
{code}
print(json.dumps(result))
begun.close()
assert waiting() == []
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], Any]:
    """Run code with what the script offers; gives what it leaves in `result`."""
    folder = tmp_path.resolve()
    for name in ("base/hidden", "granted", "writable", "around/inner"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text(name)

    def ran(code: str) -> Any:
        source = SCRIPT.format(path=[str(CHECKOUT)], folder=str(folder), code=textwrap.dedent(code))
        done = subprocess.run([sys.executable, "-I", "-B", "-c", source], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        need(not (isinstance(found, dict) and "refused" in found), f"namespaces: {found}")
        return found

    return ran


def test_what_was_begun_is_finished_with_what_is_granted(run: Callable[[str], Any]) -> None:
    result = run("""
        def look():
            written = os.open(T + "/writable/new", os.O_CREAT | os.O_WRONLY)
            return [sorted(os.listdir(T + "/granted")), text(T + "/link/file"), os.path.exists(T + "/around"),
                os.listdir(T + "/base/hidden"), os.statvfs(T + "/granted").f_flag & os.ST_NOEXEC > 0]
        result = seen([(T + "/granted", "r"), (T + "/writable", "rw")], look, [(T + "/link", "granted")])
    """)
    assert result == [[["file"], "granted", False, [], True], True]


def test_a_grant_inside_the_base_is_mounted_in_it(run: Callable[[str], Any]) -> None:
    assert run("""
        os.mkdir(T + "/base/own")
        def look():
            written = os.open(T + "/base/own/new", os.O_CREAT | os.O_WRONLY)
            return [os.access(T + "/base", os.W_OK), os.path.exists(T + "/base/own/new")]
        result = seen([(T + "/base/own", "rw")], look)
    """) == [[False, True], True]


def test_one_is_of_one_use(run: Callable[[str], Any]) -> None:
    assert run("""
        first, second = (seen([(T + "/granted", "r")], lambda: text(T + "/granted/file")) for _ in range(2))
        begun.prepare()
        third = seen([(T + "/granted", "r")], lambda: text(T + "/granted/file"))
        result = [first, second, third]
    """) == [["granted", True], ["granted", False], ["granted", True]]


def test_what_was_mounted_since_is_there(run: Callable[[str], Any]) -> None:
    assert run("""
        mount(T + "/granted")
        with open(T + "/granted/late", "w") as file:
            file.write("mounted")
        before = seen([(T + "/granted", "r")], lambda: os.listdir(T + "/granted"))
        begun.prepare()
        result = [before, seen([(T + "/granted", "r")], lambda: os.listdir(T + "/granted"))]
    """) == [[["late"], False], [["late"], True]]


def test_one_that_waits_while_something_is_mounted_is_replaced(run: Callable[[str], Any]) -> None:
    assert run("""
        [old] = waiting()
        mount(T + "/granted")
        begun.prepare()
        [new] = waiting()
        result = [old != new, seen([(T + "/granted", "r")], lambda: os.listdir(T + "/granted"))]
    """) == [True, [[], True]]


@pytest.mark.parametrize("granted", ["T", "'/'", "T + '/base'"])
def test_a_view_that_changes_more_than_it_adds_is_made_anew(run: Callable[[str], Any], granted: str) -> None:
    code = "lambda: text(T + '/base/file') if os.path.exists(T + '/base/file') else ''"
    assert run(f"""
        with open(T + "/base/file", "w") as file:
            file.write("base")
        result = seen([({granted}, "rw")], {code})
    """) == ["base", granted == "T + '/base'"]  # where the base has the same path, it wins


def test_what_lies_where_the_stage_is_mounted_is_seen(run: Callable[[str], Any]) -> None:
    assert run("""
        result = seen([("/proc/meminfo", "r")], lambda: text("/proc/meminfo")[:8])
    """) == ["MemTotal", False]


def test_a_worker_that_knows_the_machines_name_has_others(run: Callable[[str], Any]) -> None:
    assert run("""
        neutral = seen([], lambda: os.uname().nodename)
        result = [neutral, seen([], lambda: os.uname().nodename == NAME, named=True)]
    """) == [["localhost", True], [True, False]]


def test_one_that_was_killed_is_made_anew(run: Callable[[str], Any]) -> None:
    assert run("""
        os.kill(waiting()[0], signal.SIGKILL)
        result = [seen([(T + "/granted", "r")], lambda: text(T + "/granted/file"))]
        begun.prepare()
        [pid] = waiting()
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        begun.prepare()
        result += [seen([(T + "/granted", "r")], lambda: text(T + "/granted/file"))]
    """) == [["granted", False], ["granted", True]]


def test_what_goes_wrong_in_it_is_told(run: Callable[[str], Any]) -> None:
    assert (
        run("""
        try:
            seen([(T + "/granted", "r"), (T + "/granted/gone", "n")], lambda: "made")
        except FileNotFoundError as error:
            result = error.filename
    """)
        == "openat2"
    )


def test_it_ends_with_the_process_that_began_it(run: Callable[[str], Any]) -> None:
    pid = run("""
        [result] = waiting()
        print(json.dumps(result), flush=True)
        os._exit(0)
    """)
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert ended(handle)
    os.close(handle)
