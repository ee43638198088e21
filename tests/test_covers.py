"""Whether what was covered is still what the name stands for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from host.run.covers import Covers

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_written_in_place_keeps_its_cover(tmp_path: Path) -> None:
    file = tmp_path / "denied"
    file.write_text("old")
    covers = Covers([str(file)])
    file.write_text("new")
    assert not covers.lost()


def test_a_file_replaced_has_lost_it(tmp_path: Path) -> None:
    (tmp_path / "denied").write_text("old")
    (tmp_path / "new").write_text("new")
    covers = Covers([str(tmp_path / "denied")])
    os.replace(tmp_path / "new", tmp_path / "denied")
    assert covers.lost()


def test_a_folder_moved_away_has_lost_it_once_there_is_another(tmp_path: Path) -> None:
    folder = tmp_path / "denied"
    folder.mkdir()
    covers = Covers([str(folder)])
    folder.rename(tmp_path / "moved")
    assert not covers.lost()
    folder.mkdir()
    assert covers.lost()


def test_what_was_not_there_had_no_cover_to_lose(tmp_path: Path) -> None:
    covers = Covers([str(tmp_path / "denied")])
    (tmp_path / "denied").write_text("new")
    assert not covers.lost()
