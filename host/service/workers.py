"""The workers of one plugin host: how each is planned, started, watched and cleaned up after."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import secrets
import socket
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final

from host.errors import HostError, LockdownUnavailable, PluginStartError
from host.model import plan, view
from host.model.links import PlantedLink, resolve
from host.model.manifest import expand
from host.model.rules import parse_rule
from host.run import interpreter as interpreters
from host.run import native as natives
from host.run.broker import Broker
from host.run.brokerage import Brokerage
from host.run.covers import Covers
from host.run.interpreter import FILES
from host.run.launch import Launch
from host.run.quota import Quota, QuotaWatcher
from host.run.spawner import Spawner
from host.run.tiers import PROOFS, choose
from host.run.watcher import Watch, Watcher
from host.run.worker import Worker
from sandbox_worker import wire
from sandbox_worker.permissions import UNIX, Rule, coverage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from host.model.grants import Effective
    from host.model.manifest import Limits, Manifest

_NO_TMP: Final = "/tmp/plughold-tmp-of-a-worker"  # noqa: S108 - nothing is made or looked for there
"""What `${tmp}` stands for where there is no worker: a folder of its own, for /tmp itself is not granted."""
_PROBES: Final = ("/proc/self/stat", "/", "/sys", "/dev/zero")
"""Readable by anyone and outside what a plugin is granted: opening one must fail in a worker."""
_OUTSIDE: Final = ("/proc/self", "/sys/kernel", "/dev/zero", "/dev/full")
"""There on every machine, and never by a rule for a folder above: in a file system of its own a worker finds none."""


class Workers:
    """Starts and ends workers. Thread-safe; `close` is idempotent."""

    def __init__(self, minimum_tier: str, tier: str | None, data: Path, *, forks: bool = False) -> None:
        """Raises ValueError and LockdownUnavailable as `tiers.choose`; the latter where `forks` can't be done, too."""
        self._lock = threading.Lock()
        self._interpreter = interpreters.find()
        self._forks = forks
        self._data = data
        self._temporary: dict[Worker, str] = {}
        self._spawner: Spawner | None = None
        self._broker: Broker | None = None
        self._watcher = Watcher()
        self._quotas = QuotaWatcher()
        self._kept: dict[str, Quota] = {}
        try:
            abilities = None if tier == "hooked" else self._live_spawner().abilities
            self.tier: Final = choose(abilities, minimum_tier, tier)
            if abilities is not None and abilities["no_fork"] and self.tier != "hooked":
                raise _no_fork(self.tier, abilities["no_fork"])
        except BaseException:
            self.close()
            raise
        if self.tier == "hooked" and self._spawner is not None:
            self._spawner.close()

    def variables(self, manifest: Manifest, tmp: str = _NO_TMP) -> dict[str, str]:
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
        on_failed: Callable[[Worker], None],
        born: list[Worker],
    ) -> Worker:
        """A worker that is locked down, proven, and has loaded the plugin; `decide` takes the variables' values.

        `on_failed` gets a worker that was started and ended all the same. The one that is given is in `born` already,
        for who is interrupted (Ctrl-C) before he has it. Raises PluginStartError, LockdownUnavailable (a run grant in
        tier `hooked`), and what `decide` raises.
        """
        tmp = tempfile.mkdtemp(prefix="plughold-") if _uses(manifest, "${tmp}") else None
        try:
            self._make_data(manifest)
            variables = self.variables(manifest, os.path.realpath(tmp) if tmp else _NO_TMP)
            effective = decide(variables)
            covers = Covers(view.denied(effective) if self.tier == "walled" else ())
            launch = self._plan(manifest, effective, variables)
            if self._forks and self.tier != "hooked":
                launch = launch.forked()
            quota = self._quota(manifest.name, launch, tmp)
            worker, launch = self._launch(launch, effective.limits, born)
            if tmp is not None:
                self._temporary[worker] = tmp
            self._watcher.add(Watch(worker, lambda: on_denials(worker), lambda: on_end(worker), covers))
            self._quotas.add(worker, quota, (os.path.realpath(tmp),) if tmp is not None else ())
            worker.handshake(launch.settings, PROOFS[self.tier])
        except BaseException:
            while born:
                on_denials(born[-1])
                self.stop(born[-1])
                on_failed(born.pop())
            _remove(tmp)
            raise
        return worker

    def _quota(self, name: str, launch: Launch, tmp: str | None) -> Quota:
        """The plugin's quota over all its workers; a new one where it may write elsewhere now."""
        private = os.path.realpath(tmp) if tmp is not None else None
        paths = tuple(path for path, access in launch.rules if "w" in access and path != private)
        with self._lock:
            known = self._kept.get(name)
        quota = known if known is not None and known.granted == paths else Quota(paths)
        with self._lock:
            self._kept[name] = quota
        return quota

    def _launch(self, launch: Launch, limits: Limits, born: list[Worker]) -> tuple[Worker, Launch]:
        """The worker, and what it was started with.

        Raises PluginStartError; LockdownUnavailable where a command could not be held.
        """
        if launch.run and self.tier == "hooked":
            text = "a command stays in its worker's walls by the kernel alone, and tier hooked has none of it"
            raise LockdownUnavailable(f"run: {text}", tier="filtered", missing=("seccomp filters",))
        try:
            spawner = None if self.tier == "hooked" else self._live_spawner()
            if launch.brokered and (spawner is None or not spawner.abilities["notifications"]):
                launch = launch.without_notifications()
            brokerage = self._brokerage(launch)
            return Worker(launch, limits, self._interpreter, spawner, self._watcher, brokerage, born), launch
        except (OSError, HostError) as e:  # no descriptors or processes left, a spawner that died just now
            raise PluginStartError(f"has no worker: {e}") from e

    def _brokerage(self, launch: Launch) -> Brokerage | None:
        if not launch.brokered:
            return None
        return Brokerage(
            self._live_broker,
            launch.policy,
            replace=self.tier == "walled",
            at_once=not plan.FILES_BROKERED.issuperset(launch.brokered),
            handed=launch.handed,
        )

    def stop(self, worker: Worker) -> None:
        """End a worker, reap it, give back its descriptors and its temporary folder. Idempotent."""
        self._watcher.remove(worker)
        self._quotas.remove(worker)
        worker.close()
        _remove(self._temporary.pop(worker, None))

    def close(self) -> None:
        """End the watcher, the spawner and the broker; workers that are left die with the spawner."""
        self._watcher.close()
        self._quotas.close()
        for helper in (self._spawner, self._broker):
            if helper is not None:
                helper.close()

    def abandon(self, workers: Iterable[Worker]) -> None:
        """In a forked child: close the descriptors; every process is the parent's."""
        for worker in workers:
            worker.abandon()
        self._watcher.abandon()
        self._quotas.abandon()
        for helper in (self._spawner, self._broker):
            if helper is not None:
                helper.abandon()

    def _live_spawner(self) -> Spawner:
        with self._lock:
            if self._spawner is None or not self._spawner.alive:
                if self._spawner is not None:
                    self._spawner.close()
                self._spawner = Spawner(self._interpreter, forks=self._forks)
            return self._spawner

    def _live_broker(self) -> Broker:
        with self._lock:
            if self._broker is None or not self._broker.alive:
                if self._broker is not None:
                    self._broker.close()
                self._broker = Broker(self._interpreter)
            return self._broker

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

    def _plan(self, manifest: Manifest, effective: Effective, variables: dict[str, str]) -> Launch:
        files = dataclasses.replace(FILES, readlink=functools.cache(FILES.readlink))  # each name is looked at once
        spelled = {kind: _spelled(manifest, effective, kind, variables, files) for kind in plan.FILE_KINDS}
        writable = {name for name in ("data", "tmp") if _may_write(manifest, effective, name, variables, spelled)}
        mine = [os.path.realpath(variables[name]) for name in sorted(writable)]
        sys_names = plan.sys_names(effective)
        facts = [path for name in sys_names for path in plan.SYS_FILES.get(name, ()) if os.path.exists(path)]
        places = plan.Places(
            path=(str(manifest.path), *(interpreters.site_packages() if manifest.environment == "host" else ())),
            readable=(*self._interpreter.readable, *facts, *mine),
            devices=(*self._interpreter.devices, *facts),
            hidden=self._interpreter.hidden,
        )
        tables = {kind: plan.hook_table(kind, effective, rules, places) for kind, rules in spelled.items()}
        brokered = plan.brokered(effective, self.tier)
        sockets = [r for kind in plan.NET_KINDS for r in _spelled(manifest, effective, kind, variables, files)]
        run = plan.command_policy(effective)
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
            probe=_probe(manifest, tables["fs.read"]),
            **self._kernel_probes(manifest, tables),
            result_size=effective.limits.result_size,
            network=plan.network_tables(effective, sockets) if plan.network(effective) else {},
            run=bool(run),
        )
        known = {rule.text for kind in plan.FILE_KINDS for rule in effective.allow.get(kind, ())}
        texts = [rule.text for rules in spelled.values() for rule in rules if rule.text not in known]  # may have links
        return Launch(
            tier=self.tier,
            settings=settings,
            rules=(*self._rules(effective, (*places.path, *facts, *mine), files), *self._loadable(native)),
            limits=plan.resource_limits(effective.limits),
            environment=plan.environment(effective, os.environ, variables["tmp"] if "tmp" in writable else None),
            folder=str(manifest.path),
            brokered=brokered,
            policy=plan.broker_policy(effective) if brokered else {},
            links=tuple(view.links_to((*texts, *mine, *places.path), files)) if self.tier == "walled" else (),
            run=run,
        )

    def _kernel_probes(self, manifest: Manifest, tables: dict[str, plan.Table]) -> dict[str, Any]:
        """What the kernel must refuse to this worker: `refused` to open (path, flags), `outside` to find."""
        if self.tier != "walled":
            return {"refused": [_probe(manifest, tables["fs.read"]), os.O_RDONLY]}
        # Of what is left to see, /dev/urandom is what nobody needs to write; else the root, which no rule names.
        writes = plan.allows(tables["fs.write"], "/dev/urandom")
        allowed = [path for path in _OUTSIDE if any(plan.allows(table, path) for table in tables.values())]
        outside = next((path for path in _OUTSIDE if path not in allowed and os.path.lexists(path)), None)
        if outside is None or (writes and plan.allows(tables["fs.read"], "/")):
            text = f"plugin {manifest.name} may reach everything: nothing is left to prove its walls with"
            raise PluginStartError(text, plugin=manifest.name)
        return {"refused": ["/", os.O_RDONLY] if writes else ["/dev/urandom", os.O_WRONLY], "outside": outside}

    def _rules(
        self, effective: Effective, readable: tuple[str, ...], files: view.FileSystem
    ) -> tuple[tuple[str, str], ...]:
        if self.tier == "walled":
            return tuple(view.walled_rules(effective, readable, files))
        return tuple(plan.kernel_rules(effective, readable, files.children))

    def _loadable(self, native: dict[str, natives.Native]) -> list[tuple[str, str]]:
        """Where granted compiled code lies: in a worker's own file system all else is mounted noexec."""
        found = [path for package in native.values() for path in package.paths]
        return [(path, "rx") for path in found] if self.tier == "walled" else []

    def _trusted(self, manifest: Manifest) -> list[str]:
        """Folders whose bytecode may be read: the interpreter's own and the three packages; the application's too."""
        own = [*self._interpreter.libraries, *(folder for _, folder in self._interpreter.packages)]
        return [
            f"{folder}/" for folder in (*own, *(interpreters.site_packages() if manifest.environment == "host" else ()))
        ]


def _no_fork(tier: str, why: str) -> LockdownUnavailable:
    text = f'start="fork" is not to be had here: {why}; start="exec" is'
    return LockdownUnavailable(text, tier=tier, missing=("ptrace(2) of own children, which a fork server needs",))


def _probe(manifest: Manifest, table: plan.Table) -> str:
    for path in _PROBES:
        if not plan.allows(table, path):
            return path
    text = f"plugin {manifest.name} may read everything: then there is nothing left to prove its walls with"
    raise PluginStartError(text, plugin=manifest.name)


def _uses(manifest: Manifest, variable: str) -> bool:
    return any(entry.target.removeprefix(UNIX).startswith(variable) for entry in manifest.permissions)


def _granted(manifest: Manifest, effective: Effective, kind: str) -> list[str]:
    """The requests of `kind` as written, without the optional ones that were not granted."""
    targets = [entry.target for entry in manifest.permissions if entry.kind == kind]
    return [target for target in targets if (kind, target) not in effective.withheld]


def _may_write(
    manifest: Manifest, effective: Effective, name: str, variables: dict[str, str], spelled: dict[str, list[Rule]]
) -> bool:
    """Whether the whole folder behind a variable is granted for writing, and was not given up."""
    if f"${{{name}}}" not in _granted(manifest, effective, "fs.write"):
        return False
    folder = parse_rule("fs.write", variables[name])
    return any(rule.text == folder.text for rule in spelled["fs.write"])


def _spelled(
    manifest: Manifest, effective: Effective, kind: str, variables: dict[str, str], files: view.FileSystem
) -> list[Rule]:
    """The rules as the manifest spells them, of those that are still allowed once their links are resolved."""
    allowed = {rule.text: rule for rule in effective.allow.get(kind, ())}  # resolved, so free of links
    covered = coverage(allowed.values())
    found = []
    for text in (expand(target, variables) for target in _granted(manifest, effective, kind)):
        rule = allowed.get(text) or parse_rule(kind, text)
        if text in allowed or covered(_resolved(rule, files)):
            found.append(rule)
    return found


def _resolved(rule: Rule, files: view.FileSystem) -> Rule:
    prefix = UNIX if rule.pattern.stem.startswith(UNIX) else ""
    if rule.text == "*" or (rule.kind in plan.NET_KINDS and not prefix):
        return rule
    text = rule.text.removeprefix(prefix)
    try:
        path = resolve(text, (), files.readlink)
    except PlantedLink as e:  # more links than the kernel follows, made since the rule was decided on
        raise PluginStartError(f"{rule.text} leads nowhere any more") from e
    return rule if path == text else parse_rule(rule.kind, prefix + path)


def _remove(folder: str | None) -> None:
    """Remove a temporary folder, whatever modes, names and depth the plugin left in it.

    What lies deeper is moved up first: a path may be longer than the kernel takes (path_resolution(7)), and a tree
    deeper than Python recurses.
    """
    todo = [folder] if folder is not None else []
    with contextlib.suppress(OSError):
        while todo:
            os.chmod(todo[-1], 0o700)
            with os.scandir(todo[-1]) as found:
                entries = list(found)
            if not entries:
                os.rmdir(todo.pop())
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)  # moving it writes its `..`, rename(2)
                    todo.append(os.path.join(todo[0], secrets.token_hex(16)))
                    os.rename(entry.path, todo[-1])
                else:
                    os.unlink(entry.path)
