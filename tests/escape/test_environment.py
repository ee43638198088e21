"""A worker starts with what it was given and nothing else: variables, descriptors, modules, folders."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from poison import poison

if TYPE_CHECKING:
    from conftest import Plugins

VARIABLES: Final = "import os; result = dict(os.environ)"


def test_the_environment_is_exactly_the_list_and_the_locale(attacker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYAPP_MODE", "fast")
    monkeypatch.setenv("MYAPP_SECRET", "s3cret")
    monkeypatch.setenv("OTHER_TOKEN", "s3cret")
    monkeypatch.setenv("LC_CTYPE", "de_DE.UTF-8")
    monkeypatch.delenv("TZ", raising=False)
    worker = attacker(permissions={"env": ["MYAPP_*", "ABSENT"]}, deny={"env": ["MYAPP_SECRET"]})
    assert worker.run(VARIABLES) == {"MYAPP_MODE": "fast", "LC_CTYPE": "C.UTF-8"}


def test_without_a_list_there_is_the_locale_alone(attacker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.delenv("TZ", raising=False)
    assert attacker().run(VARIABLES) == {"LC_CTYPE": "C.UTF-8"}


def test_the_kernels_copy_of_the_environment_holds_no_more(attacker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_TOKEN", "s3cret")
    monkeypatch.delenv("TZ", raising=False)
    worker = attacker()
    environment = Path(f"/proc/{worker.plugin.pid}/environ").read_bytes()
    assert environment.strip(b"\0") == b"LC_CTYPE=C.UTF-8"


def test_the_command_line_names_neither_the_plugin_nor_the_application(attacker: Any, tmp_path: Path) -> None:
    worker = attacker()
    line = Path(f"/proc/{worker.plugin.pid}/cmdline").read_text()
    assert str(tmp_path) not in line
    assert sys.argv[0] not in line
    assert worker.run("import sys; result = sys.argv") == ["-c"]


OPEN: Final = """
    import os
    result = []
    for number in range(256):
        try:
            result.append([number, os.fstat(number).st_mode & 0o170000])
        except OSError:
            pass
"""


def test_no_descriptor_of_the_host_is_inherited(attacker: Any, places: Path) -> None:
    """Also not those that the application made inheritable."""
    with (places / "outside" / "secret.txt").open() as file:
        os.set_inheritable(file.fileno(), True)
        listing = attacker().run(OPEN)
    null, pipe = stat.S_IFCHR, stat.S_IFIFO
    assert listing == [[0, null], [1, pipe], [2, pipe], [3, pipe], [4, pipe], [5, pipe]]


def test_the_host_sees_the_same_descriptors_from_outside(attacker: Any, places: Path) -> None:
    with (places / "outside" / "secret.txt").open() as file:
        os.set_inheritable(file.fileno(), True)
        worker = attacker()
    folder = f"/proc/{worker.plugin.pid}/fd"
    targets = {number: os.readlink(f"{folder}/{number}") for number in os.listdir(folder)}
    assert sorted(targets) == ["0", "1", "2", "3", "4", "5"]
    assert targets.pop("0") == "/dev/null"
    assert all(target.startswith("pipe:") for target in targets.values())


UNWANTED: Final = frozenset(
    """
    host ctypes _ctypes pluggy psutil msgpack typing asyncio subprocess socket _socket re dataclasses enum json logging
    pathlib collections functools
    """.split()
)


def test_few_modules_are_loaded_at_ready_and_none_that_a_worker_must_not_have(attacker: Any) -> None:
    modules = set(attacker().plugin._worker.modules)
    assert len(modules) <= 64
    assert {name.partition(".")[0] for name in modules} & UNWANTED == set()
    assert not any(name.startswith("sandbox_worker.walls") for name in modules)


def test_the_import_path_is_the_plugin_and_the_standard_library(attacker: Any) -> None:
    worker = attacker()
    path = worker.run("import sys; result = sys.path")
    assert path[0] == str(Path(worker.plugin._manifest.file).parent)
    assert all(entry.startswith((sys.base_prefix, "/usr/lib")) for entry in path[1:])
    assert not any("site-packages" in entry for entry in path)


@pytest.mark.parametrize("name", ["host", "psutil", "hypothesis", "pytest", "pip", "conftest"])
def test_the_applications_packages_are_not_importable(attacker: Any, name: str) -> None:
    assert attacker().reason(f"import {name}")[0] == "ModuleNotFoundError"


@pytest.mark.parametrize("name", ["boot", "walls", "walls.linux", "walls.spawner"])
def test_importing_our_own_modules_gives_no_power(attacker: Any, places: Path, secret: str, name: str) -> None:
    """They are readable; that must not matter. Those with ctypes can't load it."""
    worker = attacker()
    worker.attempt(f"import sandbox_worker.{name}")
    assert secret not in str(worker.attempt("result = open(path).read()", path=places / "outside" / "secret.txt"))


POISONED: Final = """
import {module}
@hookimpl
def value():
    return {module}.value
"""


def test_poisoned_bytecode_beside_the_source_never_runs(plugin_from: Plugins) -> None:
    """A .pyc of other code, with the time and size of the reviewed source, as an ordinary import would take it."""
    file = plugin_from.manifest(POISONED.format(module="helper"))
    helper = file.parent / "helper.py"
    helper.write_text("value = 'reviewed'\n")
    poison(helper, "value = 'poison'")
    poison(file.parent / "plugin.py", "raise SystemExit('poison')")
    assert plugin_from.host().load(file).call("value") == "reviewed"


def test_no_bytecode_is_written_beside_the_source(plugin_from: Plugins) -> None:
    file = plugin_from.manifest(POISONED.format(module="helper"))
    (file.parent / "helper.py").write_text("value = 1\n")
    plugin_from.host().load(file).call("value")
    assert {path.name for path in file.parent.iterdir()} == {"helper.py", "plugin.py", "plughold.toml"}


def test_a_plugin_cannot_replace_a_module_of_the_standard_library_for_us(plugin_from: Plugins, places: Path) -> None:
    """Its folder comes first on the path, but what the worker needs is loaded by then."""
    source = "@hookimpl\ndef read(path):\n    return open(path).read()"
    file = plugin_from.manifest(source)
    for name in ("traceback", "codecs", "msgpack", "sandbox_worker", "posixpath", "os"):
        (file.parent / f"{name}.py").write_text("raise SystemExit('replaced')")
    plugin = plugin_from.host().load(file)
    with pytest.raises(PermissionError):
        plugin.call("read", path=str(places / "outside" / "secret.txt"))


# --- ${data} and ${tmp}


def test_the_data_folder_is_private_and_stays(attacker: Any, tmp_path: Path) -> None:
    worker = attacker(permissions={"fs.write": ["${data}"]}, data=tmp_path / "data")
    folder = tmp_path / "data" / worker.plugin.name
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    worker.run("open(d + '/f', 'w').write('kept')", d=folder)
    worker.plugin.restart()
    assert worker.run("result = open(d + '/f').read()", d=folder) == "kept"
    worker.plugin.close()
    assert (folder / "f").read_text() == "kept"


def test_one_plugin_does_not_reach_the_data_of_another(attacker: Any, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = attacker(permissions={"fs.write": ["${data}"]}, data=data)
    second = attacker(permissions={"fs.write": ["${data}"]}, data=data)
    mine = data / first.plugin.name / "f"
    first.run("open(p, 'w').write('mine')", p=mine)
    for code in ("open(p)", "open(p, 'a')", "import os; os.listdir(os.path.dirname(p))", "import os; os.remove(p)"):
        assert second.is_stopped(code, p=mine)
    assert mine.read_text() == "mine"


def test_the_temporary_folder_is_named_by_the_environment_and_usable(attacker: Any) -> None:
    worker = attacker(permissions={"fs.write": ["${tmp}"]})
    code = "import tempfile; f = tempfile.NamedTemporaryFile(delete=False); f.write(b'x'); result = f.name"
    name = worker.run(code)
    assert os.path.dirname(name) == worker.run("import os; result = os.environ['TMPDIR']")
    assert Path(name).exists()
    assert stat.S_IMODE(os.stat(os.path.dirname(name)).st_mode) == 0o700


def test_the_temporary_folder_is_new_for_each_worker_and_removed_with_it(attacker: Any) -> None:
    worker = attacker(permissions={"fs.write": ["${tmp}"]})
    folder = worker.run("import os; open(os.environ['TMPDIR'] + '/f', 'w'); result = os.environ['TMPDIR']")
    worker.plugin.restart()
    assert not os.path.exists(folder)
    assert worker.run("import os; result = os.listdir(os.environ['TMPDIR'])") == []


def test_without_a_grant_there_is_no_temporary_folder(attacker: Any) -> None:
    worker = attacker()
    assert "TMPDIR" not in worker.run(VARIABLES)
    assert worker.reason("import tempfile; tempfile.mkdtemp()")[0] in ("PermissionDenied", "FileNotFoundError")


def test_a_link_left_in_the_temporary_folder_is_not_followed_when_it_is_removed(attacker: Any, places: Path) -> None:
    worker = attacker(permissions={"fs.write": ["${tmp}"]})
    worker.run("import os; os.symlink(t, os.environ['TMPDIR'] + '/l')", t=places / "outside")
    worker.plugin.close()
    assert (places / "outside" / "secret.txt").exists()
