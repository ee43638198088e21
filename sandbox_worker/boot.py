"""The start of a worker, inside walls that stand already: prove them, add the audit hook, say READY, load the plugin.

The spawner put up the kernel's walls before this interpreter was executed (`walls.lockdown`); what is left here is to
show that they hold, from where the plugin will stand. Any step that fails ends the process with its own exit status:
half a lockdown is an abort.
"""

from __future__ import annotations

import _thread
import posix
import sys

from sandbox_worker import _library, audit_hook, facts, importer, messages, serve, wire
from sandbox_worker._loading import after_loading
from sandbox_worker._msgpack import MODULES, KeptModules
from sandbox_worker.channel import EVENTS, Channel
from sandbox_worker.errors import PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

EXIT_NO_SETTINGS: Final = 80
EXIT_PROBE: Final = 81
EXIT_HOOK: Final = 82

_EPERM, _ENOENT, _EBADF, _EACCES = 1, 2, 9, 13  # errno(3)
_LANDLOCKED: Final = ("walled", "confined")
_MORE_THREADS_STACK: Final = 2 << 20
"""Stack of the threads that a plugin starts, in bytes: it counts against the memory limit. Its first one has 8 MiB."""


def main() -> NoReturn:
    """Run this worker to its end. The host's settings are the first frame on the call pipe."""
    channel = Channel()
    try:
        kind, settings = channel.receive()
        if kind != messages.INIT or settings["wire"] != wire.VERSION:
            posix._exit(EXIT_NO_SETTINGS)
        _take_environment(settings.pop("environment", ()))
        _freeze(settings)
    except (TypeError, ValueError, KeyError):
        posix._exit(EXIT_NO_SETTINGS)
    proofs = _probe_kernel(settings)
    proofs += _install_hook(settings)
    channel.send(
        [messages.READY, [wire.VERSION, posix.getpid(), settings["tier"], sorted(sys.modules), proofs]],
    )
    parked = _thread.allocate_lock()
    parked.acquire()
    server = serve.Server(channel, settings)
    sys.modules["sandbox_worker"].server = server  # type: ignore[attr-defined]  # for plugin_api
    _thread.start_new_thread(_run, (server, _thread.get_ident(), settings["read"]))
    _thread.stack_size(_MORE_THREADS_STACK)
    del channel, settings, server
    parked.acquire()  # for ever: the process ends by os._exit in the plugin's thread, or is killed
    posix._exit(serve.EXIT_BROKEN)


def _run(server: serve.Server, main_thread: int, read: tuple[tuple[str, ...], ...]) -> None:
    """The plugin's thread."""
    _library.install(main_thread, read)
    server.run()


def _take_environment(variables: list[tuple[bytes, bytes]]) -> None:
    """That of a worker that was forked; one that was executed has its own. `os` is made from it when it is loaded."""
    for name, value in variables:
        posix.environ[name] = value
        posix.putenv(name, value)
    if variables:
        import time  # built in, and loaded already: with a time zone of nobody's

        time.tzset()


def _freeze(settings: dict[str, Any]) -> None:
    """Lists that crossed become the tuples that str.startswith and the hook take."""
    for kind in ("read", "write"):
        settings[kind] = tuple(tuple(prefixes) for prefixes in settings[kind])
    for name in ("libraries", "trusted", "sys", "implied"):
        settings[name] = tuple(settings[name])
    granted = settings["native"].values()
    settings["standard"] = settings["libraries"]
    settings["libraries"] = (*settings["standard"], *(path for paths, _ in granted for path in paths))
    settings["calls"] = tuple(module for _, modules in granted for module in modules)
    network = settings.get("network", {})
    tables = [table for kind in ("net.connect", "net.listen") for table in network.get(kind, ())]
    settings["network"] = tuple(map(_frozen, tables))


def _frozen(rows: list[Any]) -> tuple[Any, ...]:
    """Rows of [stem, exact, ranges of ports or None]."""
    return tuple(
        (str(stem), bool(exact), ports if ports is None else tuple((int(low), int(high)) for low, high in ports))
        for stem, exact, ports in rows
    )


def _probe_kernel(settings: dict[str, Any]) -> list[str]:
    """One operation per kernel layer that must be refused; runs before the hook, so that the kernel answers."""
    if settings["tier"] == "hooked":
        return []
    proofs = []
    if settings["tier"] == "walled":
        _must_fail(_ENOENT, posix.lstat, settings["outside"])
        proofs.append("namespaces")
    if settings["tier"] in _LANDLOCKED:
        _must_fail(_EACCES, posix.open, *settings["refused"])
        proofs.append("landlock")
    # Without the filter, setting another process's priority to what it is would succeed for the same user.
    parent = posix.getppid()
    _must_fail(_EPERM, posix.setpriority, posix.PRIO_PROCESS, parent, posix.getpriority(posix.PRIO_PROCESS, parent))
    proofs.append("seccomp")
    # The kernel answers EACCES for a folder; EPERM is the filter, whose one execve is spent.
    _must_fail(_EPERM, posix.execv, "/", ["/"])
    proofs.append("exec")
    # with a grant of `run` the way to the keeper of its commands, and where calls are handed over that to the broker
    first = EVENTS + 1 + bool(settings["run"]) + bool(settings.get("handed"))
    for descriptor in range(first, first + 10):
        _must_fail(_EBADF, posix.fstat, descriptor)
    proofs.append("descriptors")
    return proofs


def _must_fail(errno: int, operation: Any, *arguments: object) -> None:
    try:
        operation(*arguments)
    except OSError as e:
        if e.errno == errno:
            return
    posix._exit(EXIT_PROBE)


def _install_hook(settings: dict[str, Any]) -> list[str]:
    """Set up importing, install the audit hook, and prove it with an open that must be refused."""
    trusted = settings["trusted"]
    importer.install(settings["path"], trusted, settings["packages"])
    if MODULES:
        sys.meta_path.insert(0, KeptModules(MODULES))
    facts.install(settings["sys"], settings["pages"], tuple(map(tuple, settings["interfaces"])))
    after_loading("logging", _attach_logging)
    kernel = settings["tier"] in _LANDLOCKED
    if not kernel:
        _use_full_paths()
    if settings["run"]:
        from sandbox_worker import commands

        commands.install()
    else:
        _stub_process_starter()
    network = settings["network"]
    if settings.get("handed"):
        from sandbox_worker import _handed

        _handed.install(EVENTS + 1 + bool(settings["run"]))
    elif network and any(not stem.startswith(("4:", "6:", "unix:")) for stem, _, _ in network[0]):
        from sandbox_worker import _resolve

        _resolve.install()
        settings["implied"] += (f"/proc/{posix.getpid()}/{messages.RESOLVE_PREFIX[len('/proc/self/') :]}",)
    gate = _thread.allocate_lock()
    sys.modules["sandbox_worker"].given = settings, gate  # type: ignore[attr-defined]  # for plugin_api
    hook = audit_hook.build(settings, kernel=kernel, event_fd=EVENTS, pid=posix.getpid(), adding=gate.locked)
    sys.addaudithook(hook)
    del hook
    try:
        posix.open(settings["probe"], posix.O_RDONLY)
    except PermissionDenied:
        return ["audit_hook"]
    except OSError:
        pass
    posix._exit(EXIT_HOOK)


def _attach_logging(module: object) -> None:
    from sandbox_worker import logs

    logs.attach(module, EVENTS)


def _use_full_paths() -> None:
    """shutil.rmtree walks by descriptors, which the open event does not show; without Landlock that must be refused."""
    import shutil

    shutil._use_fd_functions = False  # type: ignore[attr-defined]


def _stub_process_starter() -> None:
    """subprocess and asyncio import `_posixsubprocess`, whose fork_exec raises no event before 3.14: refuse it here."""
    stub = type(sys)("_posixsubprocess")

    def fork_exec(*_arguments: object) -> NoReturn:
        raise PermissionDenied("run", "a child process")

    stub.fork_exec = fork_exec  # type: ignore[attr-defined]
    sys.modules["_posixsubprocess"] = stub
