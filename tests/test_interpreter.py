"""Promises of the interpreter's facts: real paths, what a worker needs and nothing of other people's packages."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from host.run import interpreter

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_executable_is_the_real_binary() -> None:
    found = interpreter.find().executable
    assert os.path.realpath(found) == found
    assert os.access(found, os.X_OK)


def test_the_three_packages_are_found_where_they_are_installed() -> None:
    packages = dict(interpreter.find().packages)
    assert set(packages) == {"pluggy", "msgpack", "sandbox_worker"}
    assert all(os.path.isfile(f"{folder}/__init__.py") for folder in packages.values())
    assert interpreter.find().root == os.path.dirname(packages["sandbox_worker"])


def test_the_standard_library_is_readable_without_the_packages_in_it() -> None:
    found = interpreter.find()
    stdlib = os.path.dirname(os.path.realpath(os.__file__))
    granted = {path for path, access in found.kernel_rules if "r" in access}
    assert stdlib in found.readable
    for folder in (f"{stdlib}/site-packages", f"{stdlib}/dist-packages"):
        assert folder in found.hidden
        if os.path.isdir(folder):  # Debian keeps its packages elsewhere
            assert not any(folder == path or folder.startswith(path + "/") for path in granted)
    assert f"{stdlib}/os.py" in granted or stdlib in granted


def test_no_rule_lets_a_worker_write_anywhere_but_to_dev_null() -> None:
    assert [path for path, access in interpreter.find().kernel_rules if "w" in access] == ["/dev/null"]


def test_no_rule_reaches_a_home_or_the_configuration_of_the_machine() -> None:
    homes = {os.path.expanduser("~"), "/etc", "/home", "/", "/usr", "/var"}
    granted = {path for path, _ in interpreter.find().kernel_rules}
    assert granted & homes == set()


def test_bytecode_is_used_where_it_is_that_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / f"{name}.py").write_text("value = 1\n")
    assert list(interpreter._compiled(str(tmp_path))) == ["one", "other"]
    monkeypatch.setattr("compileall.compile_dir", lambda *_, **_options: False)  # as where nothing can be written
    (tmp_path / "other.py").write_text("value = 2 + 1\n")
    (tmp_path / "new.py").write_text("value = 1\n")
    assert list(interpreter._compiled(str(tmp_path))) == ["one"]
    os.utime(tmp_path / "one.py", (5, 5))
    assert list(interpreter._compiled(str(tmp_path))) == []


def test_where_there_can_be_no_bytecode_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("value = 1\n")
    (tmp_path / "__pycache__").write_text("no folder")
    assert list(interpreter._compiled(str(tmp_path))) == []


def test_the_applications_packages_come_with_the_folders_of_its_pth_files_but_not_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, extra = tmp_path / "site-packages", tmp_path / "extra"
    packages.mkdir()
    extra.mkdir()
    (packages / "a.pth").write_text(
        f"# comment\n{extra}\n\nimport sys; sys.ran = True\nimport\tos\n{tmp_path}/absent\n"
    )
    monkeypatch.setattr("site.getsitepackages", lambda: [str(packages), str(tmp_path / "nowhere")])
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)
    assert interpreter.site_packages() == (str(packages), str(extra))
    assert not hasattr(sys, "ran")
