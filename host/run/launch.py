"""How a worker is started: behind walls by the spawner, or, on tier `hooked` alone, as a plain child of the host."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any, Final, Protocol

from host.model.plan import FILES_BROKERED, HANDED
from host.run.interpreter import BYTECODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from host.run.interpreter import Interpreter
    from host.run.spawner import Spawner


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """What a worker is started with: `settings` is its INIT map, `rules` are its own beside the base's, `links` those
    by which their paths are spelled (both as the spawner takes them), `limits` are rlimits.

    `brokered` names what the broker answers for it (`walls.profile.BROKERED`), by the rules of `policy`; both are empty
    without a grant of such. `unjudged` is for a machine where there can be no broker. `run` says what its
    commands may be (`plan.command_policy`), empty without a run grant. With `forks`
    it is a copy of the fork server, and its environment comes in `settings` too.
    """

    tier: str
    settings: dict[str, Any]
    rules: tuple[tuple[str, str], ...]
    limits: dict[str, int]
    environment: dict[str, str]
    folder: str
    brokered: tuple[str, ...] = ()
    policy: dict[str, Any] = dataclasses.field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()
    unjudged: bool = False
    run: dict[str, Any] = dataclasses.field(default_factory=dict)
    forks: bool = False

    def forked(self) -> Launch:
        """The same for a copy of the fork server."""
        environment = [(os.fsencode(name), os.fsencode(value)) for name, value in self.environment.items()]
        return dataclasses.replace(self, forks=True, settings={**self.settings, "environment": environment})

    @property
    def handed(self) -> bool:
        """Whether the worker's Python code hands its calls over to the broker."""
        return HANDED in self.brokered

    def without_notifications(self) -> Launch:
        """The same for a machine where nothing can ask the broker: calls of the network are handed over, the rest is
        left to the filter."""
        network = tuple(name for name in self.brokered if name not in FILES_BROKERED)
        unjudged = len(network) < len(self.brokered)
        if not network:
            return dataclasses.replace(self, brokered=(), policy={}, unjudged=unjudged)
        settings = {**self.settings, HANDED: True}
        return dataclasses.replace(self, brokered=(*network, HANDED), settings=settings, unjudged=unjudged)


class Watches(Protocol):
    """What a worker needs of the watcher."""

    asleep: bool

    def wake(self) -> None:
        """Look at the deadlines now."""


class Process(Protocol):
    """A started worker process as its launcher sees it."""

    pid: int

    def reap(self) -> int:
        """The wait status of the process, which is dead or about to be killed."""


_SERVES: Final = "import sandbox_worker.fork_server; sandbox_worker.fork_server.main()"

_OWN: Final = """
from _frozen_importlib_external import SourcelessFileLoader, spec_from_file_location
class Own:
    def find_spec(name, *_):
        package, _, module = name.rpartition('.')
        if package == 'sandbox_worker' and module in {modules}:
            loader = SourcelessFileLoader(name, {folder!r} + '/__pycache__/' + module + {end!r})
            return spec_from_file_location(name, {folder!r} + '/' + module + '.py', loader=loader)
sys.meta_path.insert(0, Own)
"""
"""A finder for bytecode that is known to be up to date. Else each import looks at both folders and the source again."""


def command(interpreter: Interpreter, prelude: str = "", *, serves: bool = False) -> list[str]:
    """The worker's command line, or that of the fork server (`serves`), each copy of which goes on as a worker.

    It names our own folders and nothing of the plugin or the host.
    """
    folders = dict(interpreter.packages)
    # The package is put together by hand: finding it would need to list the folder that it lies in, often
    # site-packages.
    folder, modules = folders["sandbox_worker"], interpreter.compiled
    code = (
        f"{prelude}import sys; package = sys.modules['sandbox_worker'] = type(sys)('sandbox_worker'); "
        f"package.__path__ = [{folder!r}]; package.MSGPACK = {folders['msgpack']!r}",
        _OWN.format(folder=folder, modules=modules, end=BYTECODE) if modules else "",
        "from sandbox_worker.boot import main",
        _SERVES if serves else "",
        "main()",
    )
    return [interpreter.executable, "-I", "-S", "-B", "-u", "-c", "\n".join(code)]


def _prelude(descriptors: Sequence[int], limits: dict[str, int]) -> str:
    """What the spawner does for other tiers: descriptors, from 3 on, and rlimits, in the worker's own interpreter.

    A preexec_fn would run Python in a forked copy of a host with threads, which may deadlock (subprocess's manual).
    """
    count = len(descriptors)
    spare = max(descriptors) + 1  # copied out of the way first, so that none is overwritten before its turn
    return (
        f"import posix, resource; [posix.dup2(d, {spare} + i) for i, d in enumerate({list(descriptors)!r})]; "
        f"[posix.dup2({spare} + i, 3 + i) for i in range({count})]; posix.closerange(3 + {count}, {spare} + {count}); "
        f"[resource.setrlimit(getattr(resource, 'RLIMIT_' + n.upper()), (v, v)) for n, v in {limits!r}.items()]; "
    )


class Walled:
    """A worker behind the spawner's walls."""

    def __init__(
        self, spawner: Spawner, interpreter: Interpreter, launch: Launch, ends: Sequence[int], broker: int
    ) -> None:
        plan = {
            "argv": [] if launch.forks else command(interpreter),
            "env": {} if launch.forks and not launch.run else launch.environment,  # its commands have it too
            "forks": launch.forks,
            "cwd": launch.folder,
            "rules": [list(rule) for rule in launch.rules],
            "links": [list(link) for link in launch.links],
            "limits": launch.limits,
            "tier": launch.tier,
            "named": "hostname" in launch.settings["sys"],
            "brokered": list(launch.brokered),
            "broker": broker,
            "unjudged": launch.unjudged,
            "run": launch.run,
        }
        self._spawner = spawner
        self.pid = spawner.spawn(plan, ends)

    def reap(self) -> int:
        """The wait status, from the spawner."""
        return self._spawner.reap(self.pid)


class Bare:
    """A worker without kernel walls: tier `hooked`. No spawner, no ctypes; rlimits and a built environment remain.

    `ends` are its ends of the four pipes and, where it hands calls over, of the way to the broker.
    """

    def __init__(self, interpreter: Interpreter, launch: Launch, ends: Sequence[int]) -> None:
        import subprocess

        calls, replies, events, log, *broker = ends
        kept = (calls, replies, events, *broker)
        self._process = subprocess.Popen(
            command(interpreter, _prelude(kept, launch.limits)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=kept,
            env=launch.environment,
            cwd=launch.folder,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def reap(self) -> int:
        """The wait status, as waitpid(2) gives it."""
        code = self._process.wait()
        return -code if code < 0 else code << 8
