"""Facts about the interpreter that workers run, and what every worker may read: found once per host process."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import importlib.util
import os
import site
import sys
import sysconfig
from pathlib import Path
from struct import pack
from typing import TYPE_CHECKING

from host.model.view import HIDDEN, FileSystem, links_to

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("pluggy", "msgpack", "sandbox_worker")
"""What every worker may import beside the standard library and its own folder."""

BYTECODE = f".{sys.implementation.cache_tag}.pyc"
"""The end of the name of a file of bytecode in `__pycache__`, as a worker's interpreter writes and reads it."""

# Time zones, locales and OpenSSL's configuration (contract of the product: docs/tiers.md lists them).
_DATA = (
    "/usr/share/zoneinfo",
    "/etc/localtime",
    "/usr/lib/locale",
    "/usr/share/locale",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/usr/local/ssl/openssl.cnf",
    "/etc/ld.so.cache",
)
_LIBRARY_BASES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_DEVICES = ("/dev/null", "/dev/urandom")
_OTHERS_PACKAGES = ("site-packages", "dist-packages")


def _children(folder: str) -> list[str] | None:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:
        return None


def _readlink(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


FILES = FileSystem(_children, os.path.lexists, _readlink)
"""The file system that workers are planned for."""


@dataclasses.dataclass(frozen=True, slots=True)
class Interpreter:
    """What a worker's interpreter needs.

    `executable` is the real binary, no venv's link; `kernel_rules` are Landlock rules (path, access) for every worker;
    `view` is what they come to where a worker sees a file system of its own (`sandbox_worker.walls.view`), `links` the
    symbolic links (path, target) by which things in it are spelled;
    `readable` and `devices` are paths as the audit hook sees them; `libraries` the folders whose compiled modules may
    load; `hidden` folders of other people's packages inside the standard library; `packages` maps a package's name to
    its folder; `compiled` are the modules of ours whose bytecode is up to date.
    """

    executable: str
    kernel_rules: tuple[tuple[str, str], ...]
    view: tuple[tuple[str, str], ...]
    links: tuple[tuple[str, str], ...]
    readable: tuple[str, ...]
    devices: tuple[str, ...]
    libraries: tuple[str, ...]
    hidden: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]
    compiled: tuple[str, ...]

    @property
    def root(self) -> str:
        """The folder that holds `sandbox_worker`."""
        return os.path.dirname(dict(self.packages)["sandbox_worker"])


@functools.cache
def find() -> Interpreter:
    """The interpreter that runs this process, for its workers."""
    stdlib = os.path.dirname(os.path.realpath(os.__file__))
    dynload = os.path.realpath(sysconfig.get_config_var("DESTSHARED") or os.path.join(stdlib, "lib-dynload"))
    packages = tuple((name, _folder(name)) for name in PACKAGES)
    hidden = tuple(os.path.join(stdlib, name) for name in _OTHERS_PACKAGES)
    shared = _shared_libraries()
    data = tuple(dict.fromkeys(os.path.realpath(path) for path in _DATA if os.path.exists(path)))
    readable = (stdlib, dynload, *(folder for _, folder in packages), *shared, *data, *_DATA)
    rules = [*_library_rules(stdlib), ("/dev/null", "rw"), ("/dev/urandom", "r")]
    rules += [(path, "r") for path in (dynload, *shared, *data, *(folder for _, folder in packages))]
    code = {stdlib, dynload, dict(packages)["msgpack"], *_library_folders(), *map(os.path.realpath, _library_files())}
    spelled = (*_DATA, *_LIBRARY_BASES, os.__file__, *_library_files())
    return Interpreter(
        executable=os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
        kernel_rules=tuple(dict.fromkeys(rules)),
        view=(
            *((path, "r") for path in dict.fromkeys((*data, *(folder for _, folder in packages), *_DEVICES))),
            *((path, "x") for path in sorted(code)),
            *((path, HIDDEN) for path in (*filter(os.path.isdir, hidden), *_other_pythons()) if path not in code),
        ),
        links=tuple(links_to((path for path in spelled if os.path.exists(path)), FILES)),
        readable=tuple(dict.fromkeys(readable)),
        devices=_DEVICES,
        libraries=tuple(dict.fromkeys((dynload, stdlib, dict(packages)["msgpack"]))),
        hidden=hidden,
        packages=packages,
        compiled=tuple(_compiled(dict(packages)["sandbox_worker"])),
    )


def site_packages() -> tuple[str, ...]:
    """The application's own import path beyond the standard library: what `environment = "host"` means.

    The folders are those that site computed here, `.pth` paths included; a worker never runs `.pth` code.
    """
    found = []
    for folder in [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]:
        if os.path.isdir(folder):
            found += [folder, *_pth_folders(folder)]
    return tuple(dict.fromkeys(map(os.path.realpath, found)))


def _pth_folders(folder: str) -> list[str]:
    """The folders that the `.pth` files in `folder` add to sys.path (see site); their code is left alone."""
    found = []
    for file in sorted(glob.glob(os.path.join(glob.escape(folder), "*.pth"))):
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
        paths = (line.strip() for line in lines if not line.startswith(("#", "import ", "import\t")))
        found += [path for line in paths if line and os.path.isdir(path := os.path.join(folder, line))]
    return found


def _compiled(folder: str) -> Iterator[str]:
    """Bring our own bytecode up to date where it can be written: a worker can't, and compiling is half its start.

    Gives the modules of which it is: their workers need not look for it again, nor at the source.
    """
    import compileall

    with contextlib.suppress(OSError):
        compileall.compile_dir(folder, quiet=2, maxlevels=0, optimize=0)
    for name in sorted(file.removesuffix(".py") for file in os.listdir(folder) if file.endswith(".py")):
        with contextlib.suppress(OSError), open(f"{folder}/__pycache__/{name}{BYTECODE}", "rb") as file:
            source = os.stat(f"{folder}/{name}.py")
            if file.read(16) == _header(int(source.st_mtime), source.st_size):
                yield name


def _header(mtime: int, size: int) -> bytes:
    """What bytecode begins with that belongs to a source of this age and size: PEP 552, "Specification"."""
    return importlib.util.MAGIC_NUMBER + pack("<III", 0, mtime & 0xFFFFFFFF, size & 0xFFFFFFFF)


def _folder(name: str) -> str:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed", name=name)
    return os.path.realpath(next(iter(spec.submodule_search_locations)))


def _library_rules(stdlib: str) -> list[tuple[str, str]]:
    """Rules for the standard library without other people's packages in it.

    Landlock only adds: where it holds a site-packages, all else in it is granted by name, and its folder for listing,
    without which nothing in it can be imported.
    """
    children = os.listdir(stdlib)
    if not any(name in children for name in _OTHERS_PACKAGES):
        return [(stdlib, "r")]
    kept = sorted(child for child in children if child not in _OTHERS_PACKAGES)
    return [(stdlib, "l"), *((os.path.join(stdlib, child), "r") for child in kept)]


def _library_folders() -> list[str]:
    """Where the loader finds what the interpreter links to: the multiarch folders, or else all of lib."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    found = [path for base in ("/lib", "/usr/lib") if multiarch and os.path.isdir(path := f"{base}/{multiarch}")]
    return list(dict.fromkeys(map(os.path.realpath, found or filter(os.path.isdir, _LIBRARY_BASES))))


def _library_files() -> list[str]:
    """Single libraries that may lie elsewhere, and the loader, as programs spell them."""
    found = glob.glob(f"{sysconfig.get_config_var('LIBDIR') or '/usr/lib'}/libpython*.so*")
    return [path for path in (*found, *glob.glob("/lib64/ld-*"), *glob.glob("/lib/ld-*")) if os.path.exists(path)]


def _other_pythons() -> list[str]:
    """What of the library folders is not granted: the folders of Pythons, their packages included."""
    bases = set(map(os.path.realpath, _LIBRARY_BASES)).intersection(_library_folders())
    return [path for base in sorted(bases) for path in glob.glob(f"{base}/python*")]


def _shared_libraries() -> tuple[str, ...]:
    """The library folders, without their Pythons where they have any, and the single files."""
    pythons = set(_other_pythons())
    found = []
    for folder in _library_folders():
        inside = [os.path.join(folder, name) for name in os.listdir(folder)] if pythons else []
        found += [path for path in inside if path not in pythons] or [folder]
    return tuple(dict.fromkeys(os.path.realpath(path) for path in (*found, *_library_files())))
