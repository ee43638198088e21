"""Rulesets on every version of Landlock that this kernel can play."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from walls_driver import CHECKOUT, need

from sandbox_worker.walls import landlock

if TYPE_CHECKING:
    from pathlib import Path

ABI, _ = landlock.version()


@given(st.text("rwlx", min_size=1, max_size=6))
def test_rights_of_letters_are_the_union_of_each(access: str) -> None:
    union = 0
    for letter in access:
        union |= landlock.ACCESS[letter]
    assert landlock.rights(access) == union


@pytest.mark.parametrize("access", ["", "a", "rW", "r w", "read"])
def test_other_letters_are_an_error(access: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        landlock.rights(access)


def test_no_letter_makes_devices_sockets_or_fifos() -> None:
    make_char, make_sock, make_fifo, make_block = 1 << 6, 1 << 9, 1 << 10, 1 << 11
    assert not landlock.rights("rwlx") & (make_char | make_sock | make_fifo | make_block)


def test_writing_does_not_imply_reading_and_listing_reads_no_file() -> None:
    assert not landlock.rights("w") & landlock.rights("r")
    assert not landlock.rights("l") & landlock.READ_FILE
    assert not landlock.rights("rwl") & landlock.EXECUTE


@pytest.mark.parametrize(
    ("abi", "files", "ports", "scopes"),
    [(1, 13, 0, 0), (2, 14, 0, 0), (3, 15, 0, 0), (4, 15, 3, 0), (5, 16, 3, 0), (6, 16, 3, 3), (9, 16, 3, 3)],
)
def test_every_version_handles_what_its_kernel_knows(abi: int, files: int, ports: int, scopes: int) -> None:
    assert landlock.handled_rights(abi) == ((1 << files) - 1, ports, scopes)


def test_paths_that_are_gone_unreachable_or_links_are_skipped(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "folder/inner").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to("folder")
    rules = [(f"{root}/{name}", "r") for name in ("folder", "gone", "link", "link/inner", "file", "file/below")]
    opened, skipped = landlock.open_rules(rules)
    landlock.close_rules(opened)
    assert [os.path.basename(path) for path in skipped] == ["gone", "link", "inner", "below"]
    assert [granted for _, granted in opened] == [landlock.rights("r"), landlock.READ_FILE]


@pytest.mark.parametrize("path", ["relative", "", "/nu\0ll"])
def test_a_path_that_is_none_is_an_error_and_leaves_nothing_open(path: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=r"absolute|null"):
        landlock.open_rules([("/", "r"), (path, "r")])
    assert len(os.listdir("/proc/self/fd")) == before


def test_descriptors_of_rules_read_nothing_and_are_not_inherited() -> None:
    opened, _ = landlock.open_rules([("/", "r")])
    ((descriptor, _),) = opened
    try:
        assert not os.get_inheritable(descriptor)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fchmod(descriptor, 0o755)
    finally:
        landlock.close_rules(opened)


ATTEMPTS = """
import errno, json, os, sys
sys.path.insert(0, {checkout!r})
from sandbox_worker.walls import landlock, linux, profile
abi, root = {abi}, {root!r}
opened, _ = landlock.open_rules([(root + '/r', 'r'), (root + '/w', 'rw'), (root + '/w2', 'rw'), (root + '/f', 'rw')])
ruleset = landlock.make_ruleset(abi, landlock.Rules(opened[:2], abi), landlock.Rules(opened[2:], abi))
linux.prctl(38, 1)
landlock.restrict_self(ruleset)
code = profile.worker_filter(linux.ARCHITECTURE, abi).patch(dict(pid=os.getpid(), path=0, argv=0, envp=0))
linux.install_filter(code)
def attempt(what):
    try:
        what()
        return 'ok'
    except OSError as error:
        return errno.errorcode[error.errno]
print(json.dumps([
    attempt(lambda: os.close(os.open(root + '/r/file', os.O_RDONLY))),
    attempt(lambda: os.open(root + '/r/file', os.O_WRONLY)),
    attempt(lambda: os.open(root + '/x/file', os.O_RDONLY)),
    attempt(lambda: os.listdir(root + '/x')),
    attempt(lambda: os.open(root + '/r/file', os.O_RDONLY | os.O_TRUNC)),
    attempt(lambda: os.open(root + '/r/file', 3 | os.O_TRUNC)),
    attempt(lambda: os.truncate(root + '/r/file', 0)),
    attempt(lambda: os.truncate(root + '/x/file', 0)),
    attempt(lambda: os.unlink(root + '/r/file')),
    attempt(lambda: os.rename(root + '/w/file', root + '/x/moved')),
    attempt(lambda: os.close(os.open(root + '/w/new', os.O_WRONLY | os.O_CREAT | os.O_TRUNC))),
    attempt(lambda: os.rename(root + '/w/new', root + '/w/newer')),
    attempt(lambda: os.rename(root + '/w/newer', root + '/w2/newer')),
    attempt(lambda: os.close(os.open(root + '/f', os.O_RDWR))),
]))
"""


@pytest.mark.parametrize("abi", range(1, 8))
def test_every_version_holds_the_same_walls(abi: int, tmp_path: Path) -> None:
    """Together with the filter made for it. Only moves between folders differ: before ABI 2 there are none."""
    need(abi <= ABI, f"Landlock ABI {abi}")
    root = tmp_path.resolve()
    for name in ("r", "w", "w2", "x"):
        (root / name).mkdir()
        (root / name / "file").write_text("content")
    (root / "f").touch()
    code = ATTEMPTS.format(checkout=str(CHECKOUT), abi=abi, root=str(root))
    done = subprocess.run([sys.executable, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=False)
    results = json.loads(done.stdout or "[]")
    across = "ok" if abi >= 2 else "EXDEV"
    assert results[:9] == ["ok"] + ["EACCES"] * 8, done.stderr
    assert results[9] in {"EACCES", "EXDEV"}
    assert results[10:] == ["ok", "ok", across, "ok"]
    assert (root / "r/file").read_text() == (root / "x/file").read_text() == "content"


def test_landlock_names_the_reason_when_there_is_none() -> None:
    abi, why_not = landlock.version()
    assert (abi > 0) != bool(why_not)


def test_of_paths_in_one_folder_each_is_judged_by_itself(tmp_path: Path) -> None:
    folder = tmp_path.resolve() / "folder"
    for name in ("a", "d"):
        (folder / name).mkdir(parents=True)
    (folder / "b").symlink_to("a")
    (folder / "f").write_text("")
    (tmp_path / "link").symlink_to("folder")
    wanted = [str(folder / name) for name in ("a", "b", "c", "d", "f", "a/..", "a/.")]
    through = [f"{tmp_path.resolve()}/link/{name}" for name in ("a", "d")]
    opened, skipped = landlock.open_rules([(path, "rw") for path in (*wanted, *through)])
    found = [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor, _ in opened]
    given = [granted for _, granted in opened]
    landlock.close_rules(opened)
    assert found == [str(folder / "a"), str(folder / "d"), str(folder / "f"), str(folder), str(folder / "a")]
    assert skipped == [str(folder / "b"), str(folder / "c"), *through]
    assert given[0] == given[1] == landlock.rights("rw")
    assert not given[2] & landlock.READ_DIR


def test_paths_that_share_a_folder_leave_nothing_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ValueError, match="not an absolute path"):
        landlock.open_rules([(f"{tmp_path}/{name}", "r") for name in "ab"] + [("/usr", "r"), ("usr", "r")])
    with pytest.raises(ValueError, match="null"):
        landlock.open_rules([("/usr", "r"), ("/etc", "r"), ("/lib\0", "r")])
    assert os.listdir("/proc/self/fd") == before
