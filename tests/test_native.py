"""A `native` grant: what it resolves to, and that exactly this loads and runs in a real worker."""

from __future__ import annotations

import shutil
import sysconfig
import textwrap
from importlib import machinery
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from client_code import need_package
from walls_driver import need

import host
from host.errors import GrantError, PermissionDenied, PluginStartError
from host.model.grants import Effective, effective, requested
from host.model.manifest import Manifest, load_manifest
from host.run import native

if TYPE_CHECKING:
    from collections.abc import Callable

SUFFIX = machinery.EXTENSION_SUFFIXES[0]
LIBRARIES = {
    "numpy": (
        '["numpy"]',
        """
import numpy, threading
assert numpy.linalg.det(numpy.eye(3)) == 1.0
sums = []
def work():
    a = numpy.ones((800, 800))
    sums.append(float((a @ a).sum()))
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
return sums == [800.0 ** 3] * 3
""",
    ),
    "PIL": (
        '["pillow"]',
        """
import io
from PIL import Image
data = io.BytesIO()
Image.new("RGB", (64, 64), "red").save(data, "JPEG")
return Image.open(data).resize((8, 8)).size == (8, 8)
""",
    ),
    "pydantic": (
        '["pydantic"]',
        """
import pydantic
class Row(pydantic.BaseModel):
    count: int
return Row(count="3").model_dump() == {"count": 3}
""",
    ),
    "lxml": ('["lxml"]', "import lxml.etree as e\nreturn e.fromstring('<a><b/></a>').xpath('count(//b)') == 1.0"),
    "cryptography": (
        '["cryptography"]',
        """
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import rsa
rsa.generate_private_key(65537, 2048)
box = Fernet(Fernet.generate_key())
return box.decrypt(box.encrypt(b"x")) == b"x"
""",
    ),
    "orjson": ('["orjson"]', "import orjson\nreturn orjson.dumps([1]) == b'[1]'"),
    "cffi": (
        '["ctypes"]',
        "import cffi\nf = cffi.FFI()\nf.cdef('int getpid(void);')\nreturn f.dlopen(None).getpid() > 0",
    ),
}


DENIED: Final = {"pydantic": "pydantic_core", "cffi": "ctypes"}
"""By module: the target of the denial where that is another one."""


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    """Writes a plugin whose hook `f` has the given body; returns its manifest."""

    def write(body: str, permissions: str = "", environment: str = "isolated") -> Path:
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code" / "mod.py").write_text(f"def f():\n{lines}")
        path = tmp_path / "plugin.toml"
        path.write_text(
            'schema = 1\n[plugin]\nname = "p"\nversion = "1"\nproject = "t"\npath = "code"\n'
            f'environment = "{environment}"\n[functions]\nf = "mod:f"\n[permissions]\n{permissions}\n'
            '[limits]\nmemory = "1 GiB"\nthreads = 256\n'
        )
        return path

    return write


def answer(manifest: Path, **options: Any) -> Any:
    with host.PluginHost("t", grants="requested", on_failure="raise", **options) as plugins:
        return plugins.load(manifest).call("f")


def decided(path: Path) -> tuple[Manifest, Effective]:
    manifest = load_manifest(path)
    variables = {"plugin": str(manifest.path), "data": "/data", "tmp": "/tmp", "home": "/home/x"}
    requests = requested(manifest, variables, [])
    return manifest, effective(manifest, requests, None, None, variables, lambda text: text)


def distribution(folder: Path, name: str, files: list[str], requires: tuple[str, ...] = ()) -> None:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    info = folder / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {text}\n" for text in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{needs}")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def resolved(plugin: Callable[..., Path], tmp_path: Path, permissions: str) -> dict[str, native.Native]:
    manifest, rules = decided(plugin("return 1", permissions))
    return native.resolve(manifest, rules, [str(tmp_path / "site")])


def test_a_package_is_its_folders_with_compiled_code_and_those_of_what_it_requires(
    plugin: Callable[..., Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    distribution(
        site, "Big_Num", [f"big/x{SUFFIX}", "big_num.libs/libblas.so.3", "plain/a.py"], ("low>=2", "no; extra=='z'")
    )
    distribution(site, "low", [f"_low{SUFFIX}", "low/__init__.py"], ("big-num", "absent"))
    distribution(site, "no", [f"no/x{SUFFIX}"])
    found = resolved(plugin, tmp_path, 'native = ["big-num"]')["big-num"]
    assert sorted(found.paths) == [str(site / name) for name in (f"_low{SUFFIX}", "big", "big_num.libs")]
    assert found.calls == ()


def test_a_package_may_be_named_as_it_is_imported(plugin: Callable[..., Path], tmp_path: Path) -> None:
    distribution(tmp_path / "site", "pillow", [f"PIL/x{SUFFIX}", "pillow.libs/libjpeg.so"])
    found = resolved(plugin, tmp_path, 'native = ["PIL"]')["PIL"]
    assert sorted(found.paths) == [str(tmp_path / "site" / name) for name in ("PIL", "pillow.libs")]


def test_a_package_without_records_is_its_folder_or_its_file(plugin: Callable[..., Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    for path in (site / "vendored" / f"x{SUFFIX}", site / f"single{SUFFIX}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = resolved(plugin, tmp_path, 'native = ["vendored", "single"]')
    assert found["vendored"].paths == (str(site / "vendored"),)
    assert found["single"].paths == (str(site / f"single{SUFFIX}"),)


def test_a_record_that_climbs_out_of_its_folder_grants_nothing_there(
    plugin: Callable[..., Path], tmp_path: Path
) -> None:
    distribution(tmp_path / "site", "liar", ["liar/x.py"])
    (tmp_path / "site" / "liar-1.dist-info" / "RECORD").write_text(f"../../x{SUFFIX},,\n/usr/x{SUFFIX},,\n")
    assert resolved(plugin, tmp_path, 'native = ["liar"]')["liar"].paths == ()


def test_a_denied_package_does_not_load_for_another_that_needs_it(plugin: Callable[..., Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    distribution(site, "big", [f"big/x{SUFFIX}"], ("low",))
    distribution(site, "low", [f"low/x{SUFFIX}"])
    found = resolved(plugin, tmp_path, 'native = ["big"]\n[permissions.deny]\nnative = ["low"]')
    assert found["big"].paths == (str(site / "big"),)


def test_what_needs_cffi_gets_cffi_unless_ctypes_is_denied(plugin: Callable[..., Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    distribution(site, "crypto", [f"crypto/x{SUFFIX}"], ("cffi",))
    distribution(site, "cffi", [f"_cffi_backend{SUFFIX}", "cffi/a.py"])
    assert resolved(plugin, tmp_path, 'native = ["crypto"]')["crypto"].calls == ("cffi", "_cffi_backend")
    denied = resolved(plugin, tmp_path, 'native = ["crypto"]\n[permissions.deny]\nnative = ["ctypes"]')
    assert denied["crypto"].calls == ()


def test_a_package_that_is_not_there_stops_the_start_unless_it_is_optional(
    plugin: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(PluginStartError, match=r"native = \['absent'\]: no such package"):
        resolved(plugin, tmp_path, 'native = ["absent"]')
    assert resolved(plugin, tmp_path, 'native = [{ target = "absent", optional = true }]') == {}


@pytest.mark.parametrize("write", ["", "/pack", "/pack/data"])
def test_code_that_the_plugin_may_write_is_refused_with_both_lines(
    plugin: Callable[..., Path], tmp_path: Path, write: str
) -> None:
    distribution(tmp_path / "site", "pack", [f"pack/x{SUFFIX}"])
    written = f"{tmp_path}/site{write}"
    with pytest.raises(GrantError) as caught:
        resolved(plugin, tmp_path, f'native = ["pack"]\nfs.write = ["{written}"]')
    assert "native = ['pack']" in str(caught.value)
    assert f"fs.write = ['{written}']" in str(caught.value)


def test_a_deny_on_the_code_settles_the_clash(plugin: Callable[..., Path], tmp_path: Path) -> None:
    distribution(tmp_path / "site", "pack", [f"pack/x{SUFFIX}"])
    rules = f'fs.write = ["{tmp_path}"]\n[permissions.deny]\nfs.write = ["{tmp_path}/site"]'
    assert resolved(plugin, tmp_path, f'native = ["pack"]\n{rules}')["pack"].paths


# --- real workers


def own_extension(folder: Path) -> str:
    """Put a package `pack` with a compiled module of the interpreter's own into `folder`; return the module's name."""
    dynload = Path(sysconfig.get_config_var("DESTSHARED"))
    for name in ("_heapq", "_queue", "_bisect", "_json", "_random"):
        found = next(iter(dynload.glob(f"{name}.*so")), None)
        if found is not None:
            (folder / "pack").mkdir(parents=True)
            (folder / "pack" / "__init__.py").touch()
            shutil.copy(found, folder / "pack" / found.name)
            return f"pack.{name}"
    pytest.skip("this interpreter has no compiled modules as files")


def test_compiled_code_in_the_plugins_own_folder_loads_only_with_its_grant(
    plugin: Callable[..., Path], tmp_path: Path
) -> None:
    module = own_extension(tmp_path / "code")
    with pytest.raises(PermissionDenied) as caught:
        answer(plugin(f"import {module}\nreturn 1"))
    assert (caught.value.permission, caught.value.target) == ("native", "pack")
    assert caught.value.hint == 'native = ["pack"]'
    assert answer(plugin(f"import {module}\nreturn 1", 'native = ["pack"]')) == 1


def test_a_grant_of_one_package_loads_no_other(plugin: Callable[..., Path], tmp_path: Path) -> None:
    module = own_extension(tmp_path / "code")
    shutil.copytree(tmp_path / "code" / "pack", tmp_path / "code" / "packer")
    with pytest.raises(PermissionDenied, match="packer"):
        answer(plugin(f"import {module.replace('pack', 'packer')}", 'native = ["pack"]'))


def test_what_the_plugin_wrote_never_loads(plugin: Callable[..., Path], tmp_path: Path) -> None:
    module = own_extension(tmp_path / "code")
    body = f"""
import shutil, sys
shutil.copytree({str(tmp_path / "code" / "pack")!r}, {str(tmp_path / "out" / "pack")!r})
sys.path.insert(0, {str(tmp_path / "out")!r})
import {module}
"""
    (tmp_path / "out").mkdir()
    with pytest.raises(PermissionDenied, match="native"):
        answer(plugin(body, f'native = ["pack"]\nfs.write = ["{tmp_path}/out"]\nfs.read = ["{tmp_path}/out"]'))


def test_ctypes_calls_native_code_with_its_grant_alone(plugin: Callable[..., Path]) -> None:
    body = "import ctypes\nreturn ctypes.CDLL(None).getpid() > 0"
    with pytest.raises(PermissionDenied, match=r'native = \["ctypes"\]'):
        answer(plugin(body))
    with pytest.raises(PermissionDenied):
        answer(plugin(body, 'native = ["ctypes"]\n[permissions.deny]\nnative = ["ctypes"]'))
    assert answer(plugin(body, 'native = ["ctypes"]')) is True


def test_native_calls_stay_behind_the_kernels_walls(plugin: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    body = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
found = []
for call in (
    lambda: libc.open({str(tmp_path / "secret").encode()!r}, 0),
    lambda: libc.socket(2, 1, 0),
    lambda: libc.fork(),
    lambda: libc.kill(os.getppid(), 0),
    lambda: libc.mmap(0, 4096, 7, 0x22, -1, 0),
):
    ctypes.set_errno(0)
    found.append([call(), ctypes.get_errno()])
return found
"""
    eacces, eperm = [-1, 13], [-1, 1]
    found = answer(plugin(body, 'native = ["ctypes"]'), tier="confined")
    assert found == [eacces, eacces, eperm, eperm, eperm]


def in_tier(manifest: Path, tier: str) -> tuple[Any, set[tuple[str, str]]]:
    """What `f` gives in a worker of the tier, and the denials as (kind, target)."""
    with host.PluginHost("t", grants="requested", on_failure="raise", tier=tier) as plugins:
        try:
            loaded = plugins.load(manifest)
        except host.LockdownUnavailable as missing:
            need(False, str(missing))
        given = loaded.call("f")
        return given, {(record.permission.kind, record.permission.target) for record in loaded.denials()}


@pytest.mark.parametrize("tier", ["walled", "confined"])
@pytest.mark.parametrize("module", sorted(LIBRARIES))
def test_a_library_works_where_executable_anonymous_memory_is_refused(
    plugin: Callable[..., Path], module: str, tier: str
) -> None:
    need_package(module)
    grant, body = LIBRARIES[module]
    assert in_tier(plugin(body, f"native = {grant}", "host"), tier)[0] is True


@pytest.mark.parametrize("tier", ["walled", "confined"])
@pytest.mark.parametrize("module", sorted(LIBRARIES))
def test_a_library_that_is_not_granted_does_not_load_and_the_denial_names_it(
    plugin: Callable[..., Path], module: str, tier: str
) -> None:
    need_package(module)
    body = LIBRARIES[module][1]
    body = f"try:\n{textwrap.indent(body, '    ')}\nexcept ImportError:\n    return 'refused'"
    given, denials = in_tier(plugin(body, environment="host"), tier)
    assert given == "refused"
    assert ("native", DENIED.get(module, module)) in denials
