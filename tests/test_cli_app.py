"""The command as a whole: help, usage errors, interruption, readers that leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cli_driver import environment, plughold
from until import PATIENCE, sleeping, until

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("demo", "call", "can", "check", "doctor", "clear")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_in_100_columns_and_takes_json(command: str) -> None:
    ran = plughold(command, "--help", COLUMNS="300")
    assert ran.status == 0
    assert "--json" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 100


def test_the_bare_command_lists_the_commands_and_is_a_usage_error() -> None:
    ran = plughold()
    assert (ran.status, ran.out) == (2, "")
    assert all(f"  {command} " in ran.err for command in COMMANDS)


def test_version_is_one_line() -> None:
    ran = plughold("--version")
    assert ran.status == 0
    assert ran.out.startswith("plughold ")
    assert ran.out.count("\n") == 1


def test_a_usage_error_says_where_help_is() -> None:
    ran = plughold("call", "--no-such-option")
    assert (ran.status, ran.out) == (2, "")
    assert "--no-such-option" in ran.err
    assert "plughold call --help" in ran.err


def test_a_usage_error_is_a_document_with_json() -> None:
    ran = plughold("no-such-command", "--json")
    assert ran.status == 2
    assert set(ran.document["error"]) == {"type", "message", "permission", "target", "layer"}


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_extra_it_prints_exactly_how_to_get_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from host.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"pip install 'plughold[cli]'\n")


def test_ctrl_c_ends_it_with_130_and_no_traceback(tmp_path: Path) -> None:
    fifo = tmp_path / "cases"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "host", "can", "--cases", str(fifo)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as running,
        open(fifo, "wb", buffering=0) as rows,
    ):
        rows.write(b"{}\n")
        assert running.stdout is not None
        assert running.stdout.readline()
        # A signal that comes after Python's last look and before the read is seen when that returns: PEP 475.
        until(lambda: sleeping(running.pid))
        running.send_signal(signal.SIGINT)
        err = running.communicate(timeout=PATIENCE)[1]
    assert running.returncode == 130
    assert b"Traceback" not in err


def test_a_reader_that_leaves_ends_it_without_a_word(tmp_path: Path) -> None:
    rows = tmp_path / "cases.jsonl"
    rows.write_text('{"id": "1"}\n' * 10_000)
    command = [sys.executable, "-m", "host", "can", "--cases", str(rows)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert running.stdout is not None
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr is not None
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait(PATIENCE) == 141


def test_a_closed_stdout_is_no_failure() -> None:
    command = f"exec {sys.executable} -m host can --cases /dev/null >&-"
    done = subprocess.run(["/bin/sh", "-c", command], stderr=subprocess.PIPE, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, b"")
