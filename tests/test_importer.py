"""Promises of importing: bytecode beside a plugin's source never runs, and the listed packages alone are found."""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from pathlib import Path

import pytest
from poison import MAGIC, poison

from sandbox_worker.importer import PackageFinder, SourceOnlyLoader, source_only_hook


def run(program: str) -> str:
    """What a fresh interpreter prints: import state can't be put back in this one."""
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-I", "-S", "-B", "-c", f"import sys; sys.path.append({root!r}); {program}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def installed(folder: Path) -> str:
    """The statement that a worker sets its importing up with."""
    return f"from sandbox_worker import importer; importer.install([{str(folder)!r}], ('/usr/lib/',), {{}}); "


def test_the_poison_of_these_tests_works_without_us(tmp_path: Path) -> None:
    """Positive control: the ordinary import system runs the bytecode."""
    (tmp_path / "victim.py").write_text("value = 'source'\n")
    poison(tmp_path / "victim.py", "value = 'poison'")
    assert run(f"sys.path.insert(0, {str(tmp_path)!r}); import victim; print(victim.value)") == "poison"


def test_bytecode_in_pycache_never_runs(tmp_path: Path) -> None:
    (tmp_path / "victim.py").write_text("value = 'source'\n")
    poison(tmp_path / "victim.py", "value = 'poison'")
    assert run(installed(tmp_path) + "import victim; print(victim.value)") == "source"


def test_bytecode_in_the_pycache_of_a_package_never_runs(tmp_path: Path) -> None:
    package = tmp_path / "victim"
    package.mkdir()
    for name in ("__init__", "inner"):
        (package / f"{name}.py").write_text("value = 'source'\n")
        poison(package / f"{name}.py", "value = 'poison'")
    assert run(installed(tmp_path) + "import victim.inner; print(victim.value, victim.inner.value)") == "source source"


@pytest.mark.parametrize("name", ["victim.pyc", "victim/__init__.pyc"])
def test_bytecode_without_source_is_no_module(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(MAGIC + bytes(12) + marshal.dumps(compile("value = 1", "x", "exec")))
    code = f"{installed(tmp_path)}import importlib.util; s = importlib.util.find_spec('victim'); print(s and s.loader)"
    assert "Loader" not in run(code).replace("NamespaceLoader", "")


def test_no_bytecode_is_written_beside_the_source(tmp_path: Path) -> None:
    (tmp_path / "victim.py").write_text("value = 1\n")
    run(f"sys.dont_write_bytecode = False; {installed(tmp_path)}import victim")
    assert [entry.name for entry in tmp_path.iterdir()] == ["victim.py"]


def test_a_zip_file_is_no_way_around(tmp_path: Path) -> None:
    with pytest.raises(ImportError):
        source_only_hook(("/usr/lib/",))(str(tmp_path / "x.zip"))


@pytest.mark.parametrize("path", ["", "/usr/lib", "/usr/lib/python3"])
def test_trusted_folders_are_left_to_the_ordinary_import_system(path: str) -> None:
    with pytest.raises(ImportError):
        source_only_hook(("/usr/lib/",))(path)


def test_a_folder_that_only_begins_like_a_trusted_one_is_not_trusted() -> None:
    assert source_only_hook(("/usr/lib/",))("/usr/library") is not None


def test_the_loader_compiles_what_is_there_now(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text("a = 1")
    loader = SourceOnlyLoader("m", str(file))
    first = loader.get_code("m")
    times = file.stat().st_atime, file.stat().st_mtime
    file.write_text("a = 2")
    os.utime(file, times)
    assert first.co_consts != loader.get_code("m").co_consts


def test_exactly_the_listed_packages_are_found(tmp_path: Path) -> None:
    for name in ("listed", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    finder = PackageFinder({"listed": str(tmp_path / "listed")})
    spec = finder.find_spec("listed")
    assert spec is not None
    assert spec.origin == str(tmp_path / "listed" / "__init__.py")
    assert list(spec.submodule_search_locations or ()) == [str(tmp_path / "listed")]
    assert finder.find_spec("other") is None
    assert finder.find_spec("listed.inner") is None
