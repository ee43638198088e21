"""Promises of what is kept about quarantined plugins: private, whole, and read as what anybody may have written."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.model.supervision import Quarantine
from host.store.quarantine import FOLDER, Quarantines, _read

if TYPE_CHECKING:
    from pathlib import Path

JSON: Final = st.recursive(st.none() | st.integers() | st.text(), st.lists)
ONE: Final = Quarantine("csv-stats", "1.4.0", "/srv/csv/plughold.toml", 1_700_000_000.25, 5, "PluginCrashed: died")


def plant(data: Path, content: bytes, name: str = "csv-stats.json") -> Path:
    (data / FOLDER).mkdir(exist_ok=True)
    (data / FOLDER / name).write_bytes(content)
    return data / FOLDER / name


def test_what_is_put_is_got_until_it_is_removed(tmp_path: Path) -> None:
    kept = Quarantines(tmp_path / "data" / "project")
    assert kept.get("csv-stats") is None
    assert kept.remove("csv-stats") is False
    kept.put(ONE)
    newer = dataclasses.replace(ONE, version="1.5.0")
    kept.put(newer)
    assert Quarantines(tmp_path / "data" / "project").get("csv-stats") == newer
    assert kept.get("other") is None
    assert kept.remove("csv-stats") is True
    assert kept.get("csv-stats") is None


def test_only_the_user_can_look_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    Quarantines(tmp_path / "data").put(ONE)
    folder = tmp_path / "data" / FOLDER
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data", folder)] == [0o700, 0o700]
    assert [path.name for path in folder.iterdir()] == ["csv-stats.json"]
    assert stat.S_IMODE((folder / "csv-stats.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "..", "../csv-stats", "a/b", "A", "a.json", "x" * 65, "a\n", "é"])
def test_what_is_no_name_of_a_plugin_names_no_file(tmp_path: Path, name: str) -> None:
    kept = Quarantines(tmp_path)
    kept.put(ONE)
    for ask in (kept.get, kept.remove):
        with pytest.raises(ValueError, match="no name of a plugin"):
            ask(name)


def test_a_link_in_the_folders_place_leads_nowhere(tmp_path: Path) -> None:
    """Else `plughold clear` would remove, and a quarantine replace, a file of somebody's choice."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    precious = elsewhere / "csv-stats.json"
    precious.write_text("precious")
    data = tmp_path / "data"
    data.mkdir()
    (data / FOLDER).symlink_to(elsewhere)
    kept = Quarantines(data)
    assert kept.get("csv-stats") is None
    with pytest.raises(OSError, match=r"directory|symbolic"):
        kept.put(ONE)
    with pytest.raises(OSError, match=r"directory|symbolic"):
        kept.remove("csv-stats")
    assert [path.read_text() for path in elsewhere.iterdir()] == ["precious"]


def test_a_link_in_a_files_place_is_replaced_and_never_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text(json.dumps(dataclasses.asdict(ONE)))
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "csv-stats.json").symlink_to(precious)
    kept = Quarantines(tmp_path)
    assert kept.get("csv-stats") is None
    kept.put(dataclasses.replace(ONE, failures=9))
    assert json.loads(precious.read_text())["failures"] == ONE.failures
    found = kept.get("csv-stats")
    assert found is not None
    assert found.failures == 9


def test_a_fifo_or_a_folder_in_a_files_place_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    os.mkfifo(tmp_path / FOLDER / "csv-stats.json")
    (tmp_path / FOLDER / "folder.json").mkdir()
    kept = Quarantines(tmp_path)
    assert kept.get("csv-stats") is None
    assert kept.get("folder") is None


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"name": 5},
        {"since": "now"},
        {"since": float("nan")},
        {"since": 1e300},
        {"since": -1},
        {"since": True},
        {"failures": 0},
        {"failures": 1.5},
        {"failures": True},
        {"reason": ["x"]},
        {"manifest": None},
    ],
)
def test_what_says_something_else_is_no_quarantine(tmp_path: Path, change: dict[str, Any]) -> None:
    plant(tmp_path, json.dumps(dataclasses.asdict(ONE) | change).encode())
    assert Quarantines(tmp_path).get("csv-stats") is None


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"{", b"\xff", b"[" * 20_000, b"9" * 10_000, b" " * 100_000 + b"{}"]
)
def test_a_file_that_is_nothing_of_ours_is_no_quarantine(tmp_path: Path, content: bytes) -> None:
    plant(tmp_path, content)
    assert Quarantines(tmp_path).get("csv-stats") is None


@given(st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode))
def test_no_content_raises(content: bytes) -> None:
    _read(content)


def test_the_texts_are_visible_whoever_wrote_them(tmp_path: Path) -> None:
    plant(tmp_path, json.dumps(dataclasses.asdict(ONE) | {"reason": "\x1b[2J\u202e", "version": "1\n2"}).encode())
    found = Quarantines(tmp_path).get("csv-stats")
    assert found is not None
    assert (found.reason, found.version) == ("\\x1b[2J\\u202e", "1\\n2")
