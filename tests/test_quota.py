"""host.run.quota: what is written and shared is counted, wherever a plugin hides it."""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.model.manifest import Limits
from host.run.quota import Quota, measure, shared_memory, unlinked

if TYPE_CHECKING:
    from pathlib import Path

SMALL = Limits(write_size=1 << 20, write_files=10)


def always(_usage: object) -> bool:
    return True


def test_files_and_folders_are_counted_at_every_depth(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/f").write_bytes(b"x" * 10_000)
    usage = measure((str(tmp_path),), always)
    assert (usage.entries, usage.hidden, usage.whole) == (3, 0, True)
    assert 10_000 <= usage.size < 100_000


def test_a_path_longer_than_the_kernel_takes_is_no_hiding_place(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 250, dir_fd=here)
        above, here = here, os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(above)
    file = os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.write(file, b"x" * 500_000)
    os.close(file)
    os.close(here)
    assert measure((str(tmp_path),), always).size >= 500_000


def test_a_tree_too_deep_to_look_into_counts_as_exceeded(tmp_path: Path) -> None:
    quota = Quota((str(tmp_path),))
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(205):
        os.mkdir("d", dir_fd=here)
        above, here = here, os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(here)
    assert quota.exceeded(Limits(), (), 0) == "write_size"


def test_a_root_swapped_for_a_link_is_not_walked(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/f").write_bytes(b"x" * 500_000)
    (tmp_path / "root").symlink_to(tmp_path / "elsewhere")
    assert measure((str(tmp_path / "root"),), always).size == 0


def test_blocks_beyond_the_end_of_a_file_count(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        os.ftruncate(file.fileno(), 1 << 20)
    assert measure((str(tmp_path),), always).size >= 1 << 20


def test_growth_is_what_counts_and_it_is_kept(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * (2 << 20))
    quota = Quota((str(tmp_path),))
    assert quota.exceeded(SMALL, (), 0) is None
    (tmp_path / "new").write_bytes(b"x" * (2 << 20))
    assert [quota.exceeded(SMALL, (), 0) for _ in range(2)] == ["write_size", "write_size"]
    (tmp_path / "new").unlink()
    assert quota.exceeded(SMALL, (), 0) is None


def test_many_empty_files_pass_the_limit_on_entries(tmp_path: Path) -> None:
    quota = Quota((str(tmp_path),))
    for number in range(11):
        (tmp_path / str(number)).touch()
    assert quota.exceeded(SMALL, (), 0) == "write_files"


@given(st.integers(0, 3 << 20))
def test_bytes_of_files_without_a_name_count_as_written(size: int) -> None:
    assert (Quota(()).exceeded(SMALL, (), size) == "write_size") is (size > SMALL.write_size)


def test_open_files_without_a_name_are_found() -> None:
    before = unlinked(os.getpid())
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 300_000)
        file.flush()
        assert unlinked(os.getpid()) - before >= 300_000


def test_shared_memory_is_found_resident_or_not() -> None:
    before = shared_memory(os.getpid())
    with mmap.mmap(-1, 8 << 20):
        assert shared_memory(os.getpid()) - before == 8 << 20


@pytest.mark.parametrize("pid", [0, 1 << 22])
def test_a_process_that_is_gone_uses_nothing(pid: int) -> None:
    assert (unlinked(pid), shared_memory(pid)) == (0, 0)
