"""Facts about this machine and installation, for `doctor`: asked of the kernel by the spawner, proven by a worker."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.metadata
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from host.cli import native
from host.errors import HostError, PermissionDenied
from host.run import interpreter as interpreters
from host.run import tiers
from host.run.broker import Broker
from host.run.spawner import Spawner
from host.service.plugin_host import PluginHost
from sandbox_worker.permissions import IMPLIED_ENV

if TYPE_CHECKING:
    from collections.abc import Mapping

    from host.service.plugin import SandboxedPlugin

LANDLOCK: Final[tuple[tuple[int, str, str], ...]] = (
    (1, "5.13", "files"),
    (2, "5.19", "moves between folders"),
    (3, "6.2", "truncation"),
    (4, "6.7", "TCP ports"),
    (5, "6.10", "device ioctls"),
    (6, "6.12", "signals and abstract sockets"),
    (7, "6.15", "a kernel log of refusals"),
)
"""(ABI, the Linux that brought it, what it adds): Documentation/userspace-api/landlock.rst."""

_SECCOMP: Final = "no network but through the broker, no processes, signals to others, namespaces, anonymous code"
_NAMESPACES: Final = "a file system of its own: what is not granted is not there; no network; a neutral host name"
_COMMANDS: Final = "run: what commands start and leave behind is counted, and ended with the worker"
_NO_FORKS: Final = "namespaces, or Landlock of Linux 6.12: without, a command that forks is refused it"
_MANIFEST: Final = """\
schema = 1
[plugin]
name = "doctor"
version = "1"
project = "doctor"
[functions]
dedent = "textwrap:dedent"
open_source = "tokenize:open"
"""
_PROJECT: Final = "doctor"
FORBIDDEN: Final = "/etc/passwd"  # any file that the worker is not given
_NAMES: Final = ("host", "sandbox_worker")
_DISTRIBUTIONS: Final = ("plughold", "pluggy", "msgpack", "psutil", "click", "rich")


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One wall: `state` is ``proven`` (by a worker's probe), ``present`` or ``missing``, `next` how to get it."""

    name: str
    state: str
    holds: str
    next: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Proof:
    """What a real worker showed: times in seconds, the layers that it probed, how it tried to open a file that it
    must not and who refused."""

    tier: str
    start_s: float | None = None
    call_s: float | None = None
    probed: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    error: str = ""


def abilities() -> dict[str, Any]:
    """What the spawner finds on this machine (`sandbox_worker.walls.machine`); nothing where it can't run at all.

    ``network`` is what the broker finds: its variant, "" where it can't run, and what is missing for a better one.
    """
    try:
        spawner = Spawner(interpreters.find())
    except HostError as error:
        nothing = {"landlock_abi": 0, "seccomp": False, "namespaces": False, "machine": platform.machine()}
        return nothing | {"arch_supported": True, "missing": [str(error)]}
    spawner.close()
    return spawner.abilities | {"network": _network()}


def _network() -> dict[str, Any]:
    try:
        broker = Broker(interpreters.find())
        with contextlib.closing(broker):
            variant, missing = broker.abilities
    except HostError as error:
        return {"variant": "", "missing": [str(error)]}
    return {"variant": variant, "missing": list(missing)}


def prove(tier: str) -> Proof:
    """Start workers at `tier`: a call that works, one that the audit hook refuses, one that the kernel does."""
    with tempfile.TemporaryDirectory(prefix="plughold-") as folder:
        manifest = Path(folder, "plughold.toml")
        manifest.write_text(_MANIFEST, encoding="utf-8")
        try:
            with PluginHost(_PROJECT, grants="requested", minimum_tier=tier, tier=tier) as plugins:
                started = time.perf_counter()
                plugin = plugins.load(manifest)
                start = time.perf_counter() - started
                plugin.call("dedent", text="the first call takes longer")
                started = time.perf_counter()
                plugin.call("dedent", text="  works")
                call = time.perf_counter() - started
                refused = [_refused(plugin, "open_source", "filename", "Python's open()")]
                if tiers.TIERS.index(tier) >= tiers.TIERS.index("confined"):
                    reader = plugins.load(native.write(folder, _PROJECT))
                    refused.append(_refused(reader, native.HOOK, "path", "OpenSSL's own code"))
        except (HostError, _NotRefusedError) as error:
            return Proof(tier, error=str(error))
    return Proof(tier, round(start, 6), round(call, 6), tuple(sorted(tiers.PROOFS[tier])), tuple(refused))


class _NotRefusedError(Exception):
    """A worker could do what it must not; the text says what."""


def _refused(plugin: SandboxedPlugin, hook: str, parameter: str, way: str) -> str:
    """Who refused to let `hook` open a file that is not granted. Raises _NotRefusedError."""
    try:
        plugin.call(hook, **{parameter: FORBIDDEN})
    except PermissionDenied as error:
        return f"{way}, by {error.layer}"
    except (PermissionError, FileNotFoundError) as error:
        return f"{way}, by the kernel ({errno.errorcode.get(error.errno or 0, 'no errno')})"
    raise _NotRefusedError(f"a worker could open {FORBIDDEN} by {way}")


def layers(found: Mapping[str, Any], proof: Proof) -> list[Layer]:
    """Every wall, the kernel's first, from the spawner's abilities and a worker's proof."""

    failed = f"a worker that starts: {proof.error}"
    walls = failed if proof.error else "seccomp"

    def why(word: str) -> str:
        return next((text for text in tiers.missing(found) if word in text.lower()), walls)

    abi = found["landlock_abi"]
    behind = proof.tier != "hooked" and not proof.error  # the steps before exec: one that fails ends the worker

    def layer(name: str, present: bool, holds: str, missing: str) -> Layer:
        if present:
            return Layer(name, "proven" if name in proof.probed else "present", holds)
        return Layer(name, "missing", holds, missing)

    walls_of_all = [
        layer("architecture", found["arch_supported"], f"system calls of {found['machine']}", why("system call table")),
        layer("namespaces", found["namespaces"], _NAMESPACES, _why_no_namespaces(found)),
        layer("landlock", abi > 0, _landlock(abi), why("landlock:")),
        layer("seccomp", found["seccomp"], _SECCOMP, why("seccomp filters")),
        layer("no_new_privs", behind, "no capabilities, and no program that gives rights back", walls),
        layer("exec", behind, "one execve, of the interpreter, and it is spent", walls),
        layer("descriptors", behind, "none but the worker's own six", walls),
        layer("audit_hook", not proof.error, "Python's own operations, each with the rule that decides", failed),
    ]
    if "forks" in found:
        walls_of_all.append(layer("keeper", found["forks"], _COMMANDS, _NO_FORKS))
    return walls_of_all + ([_broker(found["network"])] if "network" in found else [])


def _broker(network: Mapping[str, Any]) -> Layer:
    """What holds network grants, metadata and locks; a plugin without a grant for such needs none of it."""
    variant, lacks = network["variant"], "; ".join(network["missing"])
    files = "chmod, utime and flock, inside write grants"
    if variant == "handed":
        files = "chmod and utime in confined and filtered report success and do nothing, and flock is not held"
    holds = f"net.connect and net.listen, by address, name and port; {files}"
    if variant:
        return Layer("broker", "present", f"{holds} ({variant}{f': {lacks}' if lacks else ''})")
    return Layer("broker", "missing", holds, lacks)


def _why_no_namespaces(found: Mapping[str, Any]) -> str:
    """What was refused when the spawner tried, or what the tier needs besides."""
    tried = [text for text in found["missing"] if "namespaces" in text]
    return "; ".join(tried or tiers.missing(found, "walled"))


def _landlock(abi: int) -> str:
    if not abi:
        return "files, for native code too"
    has = ", ".join(adds for number, _, adds in LANDLOCK if number <= abi)
    lacks = ", ".join(f"{adds} (Linux {linux})" for number, linux, adds in LANDLOCK if number > abi)
    return f"ABI {abi}: {has}{f'; not in this kernel: {lacks}' if lacks else ''}"


def implied() -> dict[str, list[str]]:
    """What every worker may without asking, by kind; `import` are packages beside the standard library."""
    found = interpreters.find()
    return {
        "fs.read": [*found.readable, *found.devices],
        "fs.write": [os.devnull],
        "env": list(IMPLIED_ENV),
        "import": list(interpreters.PACKAGES),
    }


def names() -> dict[str, dict[str, Any]]:
    """For each import name of this product: where it comes from, and which distributions claim it.

    Two distributions with one import name overwrite each other's files; `ok` is False then.
    """
    claims = importlib.metadata.packages_distributions()
    folders = dict(interpreters.find().packages) | {"host": str(Path(__file__).parent.parent)}
    return {name: _claimed(folders[name], sorted({*claims.get(name, ())})) for name in _NAMES}


def _claimed(folder: str, owners: list[str]) -> dict[str, Any]:
    return {"path": folder, "claimed_by": owners, "ok": {*owners} <= {"plughold"}}


def versions() -> dict[str, str]:
    """Of the kernel, the interpreter and the distributions; `not installed` where one is not."""
    return {
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "interpreter": interpreters.find().executable,
    } | {name: version(name) for name in _DISTRIBUTIONS}


def version(distribution: str) -> str:
    """The version of an installed distribution, or ``not installed``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
