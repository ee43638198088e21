"""The workers of one plugin host: how each is planned, started, watched and cleaned up after."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final

from host.errors import HostError, PluginStartError
from host.model import plan
from host.model.manifest import expand
from host.run import interpreter as interpreters
from host.run import native as natives
from host.run.launch import Launch
from host.run.spawner import Spawner
from host.run.tiers import PROOFS, choose
from host.run.watcher import Disk, Watch, Watcher
from host.run.worker import Worker
from sandbox_worker import wire
from sandbox_worker.permissions import Rule, covers, parse_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from host.model.grants import Effective
    from host.model.manifest import Manifest

_PROBES: Final = ("/proc/self/stat", "/")
"""Readable by anyone and outside what a plugin is granted: opening one must fail in a worker."""


class Workers:
    """Starts and ends workers. Thread-safe; `close` is idempotent."""

    def __init__(self, minimum_tier: str, tier: str | None, data: Path) -> None:
        """Raises ValueError and LockdownUnavailable as `tiers.choose`."""
        self._lock = threading.Lock()
        self._interpreter = interpreters.find()
        self._data = data
        self._temporary: dict[Worker, str] = {}
        self._spawner: Spawner | None = None
        self._watcher = Watcher()
        try:
            abilities = None if tier == "hooked" else self._live_spawner().abilities
            self.tier: Final = choose(abilities, minimum_tier, tier)
        except BaseException:
            self.close()
            raise
        if self.tier == "hooked" and self._spawner is not None:
            self._spawner.close()

    def variables(self, manifest: Manifest, tmp: str = "/tmp") -> dict[str, str]:  # noqa: S108 - a placeholder
        """What the manifest's variables stand for."""
        return {
            "plugin": str(manifest.path),
            "data": str(self._data / manifest.name),
            "tmp": tmp,
            "home": os.path.expanduser("~"),
        }

    def start(
        self,
        manifest: Manifest,
        decide: Callable[[dict[str, str]], Effective],
        on_denials: Callable[[Worker], None],
        on_end: Callable[[Worker], None],
    ) -> Worker:
        """A worker that is locked down, proven, and has loaded the plugin; `decide` takes the variables' values.

        Raises PluginStartError and what `decide` raises.
        """
        tmp = tempfile.mkdtemp(prefix="plughold-") if _uses(manifest, "${tmp}") else None
        try:
            self._make_data(manifest)
            variables = self.variables(manifest, os.path.realpath(tmp) if tmp else "/tmp")  # noqa: S108 - a placeholder
            effective = decide(variables)
            launch = self._plan(manifest, effective, variables, tmp)
            spawner = None if self.tier == "hooked" else self._live_spawner()
            worker = Worker(launch, effective.limits, self._interpreter, spawner, self._watcher)
        except BaseException:
            _remove(tmp)
            raise
        if tmp is not None:
            self._temporary[worker] = tmp
        writable = Disk(tuple(path for path, access in launch.rules if "w" in access))
        self._watcher.add(Watch(worker, lambda: on_denials(worker), lambda: on_end(worker), writable))
        try:
            worker.handshake(launch.settings, PROOFS[self.tier])
        except BaseException:
            on_denials(worker)
            self.stop(worker)
            raise
        return worker

    def stop(self, worker: Worker) -> None:
        """End a worker, reap it, give back its descriptors and its temporary folder. Idempotent."""
        self._watcher.remove(worker)
        worker.close()
        _remove(self._temporary.pop(worker, None))

    def close(self) -> None:
        """End the watcher and the spawner; workers that are left die with it."""
        self._watcher.close()
        if self._spawner is not None:
            self._spawner.close()

    def abandon(self, workers: Iterable[Worker]) -> None:
        """In a forked child: close the descriptors; every process is the parent's."""
        for worker in workers:
            worker.abandon()
        self._watcher.abandon()
        if self._spawner is not None:
            self._spawner.abandon()

    def _live_spawner(self) -> Spawner:
        with self._lock:
            if self._spawner is None or not self._spawner.alive:
                if self._spawner is not None:
                    self._spawner.close()
                self._spawner = Spawner(self._interpreter)
            return self._spawner

    def _make_data(self, manifest: Manifest) -> None:
        if not _uses(manifest, "${data}"):
            return
        folder = self._data / manifest.name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            writable = os.access(folder, os.W_OK | os.X_OK)
        except OSError as e:
            raise self._no_data(manifest, f"{e.strerror}: {folder}") from e
        if not writable:
            raise self._no_data(manifest, f"{folder} is not writable")

    @staticmethod
    def _no_data(manifest: Manifest, why: str) -> PluginStartError:
        text = f"plugin {manifest.name} has no data folder ({why}); choose one with PluginHost(data=FOLDER)"
        return PluginStartError(text, plugin=manifest.name)

    # --- what a worker is started with

    def _plan(self, manifest: Manifest, effective: Effective, variables: dict[str, str], tmp: str | None) -> Launch:
        writable = [name for name in ("data", "tmp") if _uses_for_writing(manifest, f"${{{name}}}")]
        mine = [os.path.realpath(variables[name]) for name in writable]
        sys_names = plan.sys_names(effective)
        facts = [path for name in sys_names for path in plan.SYS_FILES.get(name, ()) if os.path.exists(path)]
        places = plan.Places(
            path=(str(manifest.path), *(interpreters.site_packages() if manifest.environment == "host" else ())),
            readable=(*self._interpreter.readable, *facts, *mine),
            devices=(*self._interpreter.devices, *facts),
            hidden=self._interpreter.hidden,
        )
        tables = {
            kind: plan.hook_table(kind, effective, _spelled(manifest, effective, kind, variables), places)
            for kind in plan.FILE_KINDS
        }
        readable = (*places.path, *facts, *mine)
        native = natives.resolve(manifest, effective, places.path)
        settings = plan.settings(
            tables,
            places,
            wire=wire.VERSION,
            tier=self.tier,
            project=manifest.project,
            entry=manifest.entry,
            functions=dict(manifest.functions),
            packages=dict(self._interpreter.packages),
            libraries=[folder + "/" for folder in self._interpreter.libraries],
            native={name: [[path + "/" for path in found.paths], list(found.calls)] for name, found in native.items()},
            implied=plan.implied(places, facts),
            facts={name: list(plan.SYS_FILES.get(name, ())) for name in sys_names},
            allow=plan.texts(effective.allow),
            deny=plan.texts(effective.deny),
            name=manifest.name,
            version=manifest.version,
            data=variables["data"] if "data" in writable else None,
            sys=sys_names,
            pages=effective.limits.memory // os.sysconf("SC_PAGE_SIZE"),
            interfaces=[list(pair) for pair in socket.if_nameindex()] if "networkInterfaces" in sys_names else [],
            trusted=self._trusted(manifest),
            probe=next(path for path in _PROBES if not plan.allows(tables["fs.read"], path)),
            result_size=effective.limits.result_size,
        )
        return Launch(
            tier=self.tier,
            settings=settings,
            rules=tuple(plan.kernel_rules(effective, readable, _children)),
            limits=plan.resource_limits(effective.limits),
            environment=plan.environment(effective, os.environ, tmp if tmp and os.path.realpath(tmp) in mine else None),
            folder=str(manifest.path),
        )

    def _trusted(self, manifest: Manifest) -> list[str]:
        """Folders whose bytecode may be read: the interpreter's own and the three packages; the application's too."""
        own = [*self._interpreter.libraries, *(folder for _, folder in self._interpreter.packages)]
        return [
            f"{folder}/" for folder in (*own, *(interpreters.site_packages() if manifest.environment == "host" else ()))
        ]


def _uses(manifest: Manifest, variable: str) -> bool:
    return any(entry.target.startswith(variable) for entry in manifest.permissions)


def _uses_for_writing(manifest: Manifest, variable: str) -> bool:
    return any(entry.kind == "fs.write" and entry.target == variable for entry in manifest.permissions)


def _spelled(manifest: Manifest, effective: Effective, kind: str, variables: dict[str, str]) -> list[Rule]:
    """The rules as the manifest spells them, of those that are still allowed once their links are resolved."""
    rules = [parse_rule(kind, expand(e.target, variables)) for e in manifest.permissions if e.kind == kind]
    return [rule for rule in rules if any(covers(outer, _resolved(rule)) for outer in effective.allow.get(kind, ()))]


def _resolved(rule: Rule) -> Rule:
    return rule if rule.text == "*" else parse_rule(rule.kind, os.path.realpath(rule.text))


def _children(folder: str) -> list[str] | None:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:
        return None


def _remove(folder: str | None) -> None:
    """Remove a temporary folder whatever modes the plugin left in it."""
    if folder is None:
        return

    def make_writable(function: Callable[..., Any], path: str, _error: object) -> None:
        with contextlib.suppress(OSError):
            for name in (os.path.dirname(path), path):
                if not stat.S_ISLNK(os.lstat(name).st_mode):
                    os.chmod(name, 0o700)
            function(path)

    with contextlib.suppress(HostError):
        shutil.rmtree(folder, onerror=make_writable)
