"""Promises of a launch: a command line that says nothing of the plugin, and the same descriptors however it starts."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from host.run import interpreter
from host.run.launch import Bare, Launch, _prelude, command
from host.run.pidfd import ended

if TYPE_CHECKING:
    from pathlib import Path


def test_the_command_line_names_no_plugin_and_turns_off_whatever_would_run_before() -> None:
    found = interpreter.find()
    argv = command(found)
    assert argv[:5] == [found.executable, "-I", "-S", "-B", "-u"]
    assert len(argv) == 7


@pytest.mark.parametrize("compiled", [True, False])
def test_our_modules_are_found_with_bytecode_that_is_up_to_date_and_without(compiled: bool) -> None:
    found = dataclasses.replace(interpreter.find(), compiled=("wire", "boot") if compiled else ())
    argv = command(found)
    argv[-1] = argv[-1].removesuffix("main()") + (
        "from sandbox_worker import channel, wire\n"
        "print(*(type(m.__loader__).__name__ + ' ' + m.__file__ for m in (wire, channel)), sep='\\n')\n"
        "import sandbox_worker.nothing_of_ours"
    )
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    folder = dict(found.packages)["sandbox_worker"]
    assert done.stdout.splitlines() == [
        f"{'SourcelessFileLoader' if compiled else 'SourceFileLoader'} {folder}/wire.py",
        f"SourceFileLoader {folder}/channel.py",
    ]
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'sandbox_worker.nothing_of_ours'\n")


def plain(folder: Path, **limits: int) -> Launch:
    return Launch("hooked", {}, (), limits, {"ONLY": "this"}, str(folder))


@pytest.mark.parametrize(
    "numbers", [(3, 4, 5), (5, 4, 3), (197, 200, 202), (202, 200, 201), (300, 256, 255), (4, 3, 700)]
)
def test_the_descriptors_are_3_4_and_5_and_nothing_else_whatever_numbers_they_had(numbers: tuple[int, ...]) -> None:
    import json
    import sys

    code = (
        "import os, json; seen = sorted(map(int, os.listdir('/proc/self/fd'))); "
        "os.write(4, json.dumps([os.read(3, 10).decode(), seen]).encode()); os.write(5, b'event')"
    )
    runner = (
        "import os, sys, json\n"
        "code, numbers = json.loads(sys.argv[1])\n"
        "pipes = [os.pipe() for _ in range(3)]\n"
        "pipes = [tuple(os.dup2(end, 900 + 2 * i + j) for j, end in enumerate(pipe)) for i, pipe in enumerate(pipes)]\n"
        "(call, ours), (reply, theirs), (event, last) = pipes\n"
        "os.write(ours, b'call')\n"
        "if not os.fork():\n"
        "    for number, end in zip(numbers, (call, theirs, last)): os.dup2(end, number)\n"
        "    for number in set(range(3, 1000)) - set(numbers):\n"
        "        try: os.close(number)\n"
        "        except OSError: pass\n"
        "    for number in numbers: os.set_inheritable(number, True)\n"
        "    os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', code])\n"
        "os.close(theirs); os.close(last); os.wait()\n"
        "print(json.dumps([json.loads(os.read(reply, 1000)), os.read(event, 100).decode()]))\n"
    )
    argument = json.dumps([_prelude(numbers, {}) + code, numbers])
    done = subprocess.run([sys.executable, "-c", runner, argument], capture_output=True, text=True, check=True)
    (call, seen), event = json.loads(done.stdout)
    assert (call, event) == ("call", "event")
    assert [number for number in seen if number > 2][:3] == [3, 4, 5]
    assert len(seen) <= 7  # and the one that lists the folder


def bare(folder: Path, **limits: int) -> tuple[Bare, list[int], Any]:
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(4)]
    theirs = [pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1]]
    ours = [pipes[0][1], pipes[1][0], pipes[2][0], pipes[3][0]]
    process = Bare(interpreter.find(), plain(folder, **limits), theirs)
    for end in theirs:
        os.close(end)
    return process, ours, os.pidfd_open(process.pid)


def test_a_bare_worker_has_only_its_environment_and_its_own_session(tmp_path: Path) -> None:
    process, ours, handle = bare(tmp_path)
    try:
        with open(f"/proc/{process.pid}/environ", "rb") as file:
            assert file.read() in (b"ONLY=this\0", b"")
        assert os.getsid(process.pid) == process.pid
    finally:
        os.kill(process.pid, signal.SIGKILL)
        assert ended(handle, 20)
        assert process.reap() == signal.SIGKILL
        for descriptor in (*ours, handle):
            os.close(descriptor)


def test_a_bare_worker_without_settings_ends_with_a_status_of_its_own(tmp_path: Path) -> None:
    process, ours, handle = bare(tmp_path)
    os.close(ours[0])
    assert ended(handle, 20)
    assert os.waitstatus_to_exitcode(process.reap()) == 80
    for descriptor in (*ours[1:], handle):
        os.close(descriptor)
