"""What executing a program opens: real files in a folder of the test."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from sandbox_worker.walls import command_policy
from sandbox_worker.walls.keeping import policy_of
from sandbox_worker.walls.programs import interpreter_of, leads_through, look_up, place

if TYPE_CHECKING:
    from pathlib import Path

SHELL = os.path.realpath("/bin/sh")


def script(path: Path, first: str) -> Path:
    path.write_text(f"{first}\nexit 0\n")
    path.chmod(0o755)
    return path


def test_a_program_needs_itself_and_its_loader() -> None:
    found = look_up("/bin/sh")
    assert found.path == SHELL
    assert found.files[0] == SHELL
    assert all(os.path.realpath(file) == file for file in found.files)
    assert len(found.files) == 2


def test_a_script_needs_its_interpreters_and_their_loader(tmp_path: Path) -> None:
    inner = script(tmp_path / "inner", "#! /bin/sh -e")
    outer = script(tmp_path / "outer", f"#!{inner}")
    assert look_up(str(outer)).files[:3] == (str(outer), str(inner), SHELL)


def test_a_loop_of_scripts_ends(tmp_path: Path) -> None:
    loop = script(tmp_path / "loop", f"#!{tmp_path / 'loop'}")
    assert look_up(str(loop)).files == (str(loop),)


def test_the_links_by_which_it_is_spelled_come_with_it(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "link").symlink_to("bin")
    program = script(tmp_path / "bin" / "program", "#!/bin/sh")
    found = look_up(str(tmp_path / "link" / "program"))
    assert found.path == str(program)
    assert (str(tmp_path / "link"), "bin") in found.links


@pytest.mark.parametrize(
    ("start", "opened"),
    [
        (b"#!/bin/sh\n", "/bin/sh"),
        (b"#! \t/bin/sh -e\n", "/bin/sh"),
        (b"#!sh\n", None),
        (b"#!\n", None),
        (b"#!", None),
        (b"#!/a\0b\n", None),
        (b"text", None),
        (b"", None),
        (b"\x7fELF\x02\x01 and no more", None),
    ],
)
def test_what_runs_a_file_is_read_from_its_start(start: bytes, opened: str | None) -> None:
    assert interpreter_of(start) == opened


@pytest.mark.parametrize("what", ["folder", "plain", "absent", "fifo"])
def test_what_nobody_can_execute_is_an_error(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "plain":
        path.write_text("#!/bin/sh\n")
    elif what == "fifo":
        os.mkfifo(path)
    with pytest.raises(FileNotFoundError if what == "absent" else PermissionError):
        look_up(str(path))


def test_who_may_write_on_the_way_to_a_path_chooses_where_it_leads(tmp_path: Path) -> None:
    """Whether there is a link yet or not, and wherever it leads at present."""
    open_to_all = tmp_path / "open"
    (open_to_all / "folder").mkdir(parents=True)
    (tmp_path / "file").symlink_to("open/none")
    (tmp_path / "folder").symlink_to("open/folder")
    (tmp_path / "back").symlink_to("open/../safe")
    for name in ("open", "open/x", "file", "folder/x", "folder/../../safe", "open/../safe/x"):
        assert leads_through(f"{tmp_path}/{name}", [str(open_to_all)]), name
    for name in ("safe", "opened/x", "x"):
        assert not leads_through(f"{tmp_path}/{name}", [str(open_to_all), str(tmp_path / "other") + "/"]), name
    assert leads_through("/anything", ["/"])


def test_a_rule_behind_what_the_worker_may_write_is_not_resolved(tmp_path: Path) -> None:
    (tmp_path / "safe").mkdir()
    (tmp_path / "link").symlink_to("safe")
    rule, target = f"{tmp_path}/link/program", f"{tmp_path}/safe/program"
    wanted = {"layers": [[[rule, None]]], "deny": []}
    assert policy_of(wanted, []).judge(target, target, []) == command_policy.ALLOWED
    assert policy_of(wanted, [str(tmp_path)]).judge(target, target, []) == command_policy.NO_RULE


def test_a_place_is_the_folder_resolved_and_the_name_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "name").symlink_to(shutil.which("true") or "/bin/true")
    assert place(str(tmp_path / "link" / "name")) == str(tmp_path / "real" / "name")
    assert place(f"{tmp_path}/link/../name") == str(tmp_path / "name")
