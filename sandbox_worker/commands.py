"""How a plugin with a `run` grant starts commands: what `subprocess` and `os` call is asked of the keeper instead.

The keeper (`walls.keeper`) decides and starts them; nothing here does, so whatever a plugin makes of this module opens
nothing. A command's pid, as the plugin sees it, is the keeper's number for it, above all real pids: os.waitpid, os.kill
and os.killpg know it, the kernel does not.
"""

from __future__ import annotations

import _thread
import posix
import sys

from sandbox_worker import wire
from sandbox_worker.audit_hook import COMMAND_REFUSED
from sandbox_worker.errors import PermissionDenied
from sandbox_worker.walls.steps import STEPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

KEEPER: Final = 6
"""The descriptor that leads there."""
FIRST_NUMBER: Final = 1 << 22
_MAX_MESSAGE: Final = 128 << 10
_REPLY: Final = 1024
_PRIVATE: Final = 0o077
_EPERM, _E2BIG, _ECHILD, _EMFILE = 1, 7, 10, 24  # errno(3)
_KILLED: Final = 9
_CWD: Final = len(STEPS)
_SOL_SOCKET: Final = 1
_SCM_RIGHTS: Final = 1
_SHELL: Final = b"/bin/sh"

_lock = _thread.allocate_lock()
_channel: list[Any] = []
_running: dict[int, int] = {}  # number: the pipe that brings its wait status


def install() -> None:
    """Take the places of functions that start processes and wait for them, before the plugin is there."""
    _replace("waitpid", _waitpid(posix.waitpid))
    _replace("kill", _signal(posix.kill, group=False))
    _replace("killpg", _signal(posix.killpg, group=True))
    _replace("posix_spawn", posix_spawn)
    _replace("posix_spawnp", posix_spawnp)
    _replace("system", system)
    stub = type(sys)("_posixsubprocess")
    stub.fork_exec = fork_exec  # type: ignore[attr-defined]
    sys.modules["_posixsubprocess"] = stub


def _replace(name: str, function: Callable[..., object]) -> None:
    function.__name__ = function.__qualname__ = name
    for module in ("posix", "os"):
        if module in sys.modules:
            setattr(sys.modules[module], name, function)


# --- what subprocess and os call


def fork_exec(args: Sequence[Path], executable_list: Sequence[bytes], *rest: Any) -> int:
    """As in `_posixsubprocess`: subprocess.Popen calls it with these arguments."""
    close_fds, fds_to_keep, folder, variables, *descriptors = rest[:12]
    p2cread, _, _, c2pwrite, _, errwrite, _, errpipe_write = descriptors
    _restore_signals, _new_session, _group, gid, extra_groups, uid, umask, preexec_fn = rest[12:20]
    if preexec_fn is not None:
        raise ValueError("preexec_fn can't be called: a command is no child of this process")
    if close_fds and set(fds_to_keep) - {errpipe_write}:
        raise ValueError("pass_fds is not possible: a command gets stdin, stdout and stderr")
    if (gid, extra_groups, uid) != (None, None, None):
        raise OSError(_EPERM, "a command can't run as another user")
    given = [own if pipe == -1 else pipe for own, pipe in enumerate((p2cread, c2pwrite, errwrite))]
    return _start(executable_list, args, variables, folder, given, umask if umask >= 0 else _PRIVATE)


def posix_spawn(
    path: Path, argv: Sequence[Path], env: Any, *, file_actions: Iterable[Any] = (), **_options: object
) -> int:
    """As os.posix_spawn; of `file_actions` counts what becomes of descriptors 0 to 2."""
    return _spawned([_bytes(path)], argv, env, file_actions)


def posix_spawnp(
    path: Path, argv: Sequence[Path], env: Any, *, file_actions: Iterable[Any] = (), **_options: object
) -> int:
    """As os.posix_spawnp: the path is looked for along PATH."""
    import os

    name = _bytes(path)
    folders = [] if b"/" in name else os.get_exec_path(env)
    found = [os.path.join(_bytes(folder), name) for folder in folders] or [name]
    return _spawned(found, argv, env, file_actions)


def system(command: Path) -> int:
    """As os.system: the wait status of /bin/sh -c."""
    number = _start([_SHELL], [b"sh", b"-c", _bytes(command)], None, None, [0, 1, 2], _PRIVATE)
    return int(_collect(number, 0)[1])


def give_up(path: str) -> None:
    """Have the keeper refuse this program from now on, or all with ``"*"``."""
    _ask(["drop", path])


def _spawned(paths: list[bytes], argv: Sequence[Path], env: Any, file_actions: Iterable[Any]) -> int:
    variables = None if env is None else [_bytes(name) + b"=" + _bytes(value) for name, value in env.items()]
    given: dict[int, int] = {0: 0, 1: 1, 2: 2}
    opened: list[int] = []
    try:
        for action, descriptor, *rest in file_actions or ():
            if action == posix.POSIX_SPAWN_CLOSE:
                given.pop(descriptor, None)
            elif action == posix.POSIX_SPAWN_DUP2:
                given[rest[0]] = given.get(descriptor, descriptor)
            elif action == posix.POSIX_SPAWN_OPEN:
                given[descriptor] = posix.open(*rest)
                opened.append(given[descriptor])
            # Else it closes all from a number on (CPython 3.13), which a command's descriptors end before.
        for descriptor in range(3):
            given.setdefault(descriptor, 0)  # a program expects all three to be there
        return _start(paths, argv, variables, None, [given[number] for number in range(3)], _PRIVATE)
    finally:
        for descriptor in opened:
            posix.close(descriptor)


def _waitpid(ask: Callable[[int, int], tuple[int, int]]) -> Callable[[int, int], tuple[int, int]]:
    def waitpid(pid: int, options: int, /) -> tuple[int, int]:
        """As os.waitpid, for commands too."""
        return _collect(pid, options) if _is_number(pid) else ask(pid, options)

    return waitpid


def _signal(ask: Callable[[int, int], None], *, group: bool) -> Callable[[int, int], None]:
    def signal(pid: int, number: int, /) -> None:
        """As os.kill or os.killpg, for commands too."""
        if not _is_number(pid):
            ask(pid, number)
        elif (reply := _ask(["signal", pid, int(number), group])[0])[0] != "done":
            raise OSError(reply[1], posix.strerror(reply[1]))

    return signal


# --- what is asked of the keeper


def _start(
    paths: Sequence[bytes],
    argv: Sequence[Path],
    variables: Sequence[bytes] | None,
    folder: Path | None,
    given: list[int],
    umask: int,
) -> int:
    """The number of a command that runs. PermissionDenied, FileNotFoundError and what else execve(2) may say."""
    import os

    if folder is not None:
        sys.audit("os.chdir", folder)  # judged like the call
    if variables is None:
        variables = [name + b"=" + value for name, value in os.environb.items()]
    where = os.path.join(os.getcwdb(), _bytes(folder) if folder is not None else b"")
    wanted, arguments = list(map(_bytes, paths)), list(map(_bytes, argv))
    message = ["start", wanted, arguments, list(map(_bytes, variables)), where, umask]
    reply, descriptor = _ask(message, given)
    if reply[0] == "started" and descriptor < 0:  # no number was left for what came with it
        _ask(["signal", reply[1], _KILLED, False])
        raise OSError(_EMFILE, posix.strerror(_EMFILE))
    if reply[0] == "started":
        _running[reply[1]] = descriptor
        return int(reply[1])
    if reply[0] == "refused":
        refused = _shown([os.path.join(where, path) for path in wanted])
        sys.audit(COMMAND_REFUSED, refused, reply[1])
        raise PermissionDenied("run", refused, reply[1])
    _, number, step = reply
    if step not in (0, _CWD, STEPS.index("exec")):
        raise OSError(number, f"the command could not be locked down: step {STEPS[step]!r} failed")
    raise OSError(number, posix.strerror(number), os.fsdecode(where if step == _CWD else arguments[0]))


def _shown(paths: list[bytes]) -> str:
    """The program that was meant: of those along PATH the one that is there, as far as this process can tell."""
    import os

    there = [path for path in paths if os.path.lexists(path)]
    usual = [path for path in paths if path.startswith(b"/usr/bin/")]
    return os.fsdecode((there or usual or paths)[0])


def _ask(message: list[object], given: Sequence[int] = ()) -> tuple[list[Any], int]:
    """The keeper's reply, and the descriptor that came with it, or -1."""
    import _socket

    body = wire.Encoder().encode(message)[4:]
    if len(body) > _MAX_MESSAGE:
        raise OSError(_E2BIG, f"{posix.strerror(_E2BIG)}: more than {_MAX_MESSAGE >> 10} KiB with the environment")
    rights = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in given)
    with _lock:
        if not _channel:
            _channel.append(_socket.socket(fileno=KEEPER))
        try:
            _channel[0].sendmsg([body], [(_SOL_SOCKET, _SCM_RIGHTS, rights)] if rights else [])
            data, ancillary, _, _ = _channel[0].recvmsg(_REPLY, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        except (BrokenPipeError, ConnectionResetError):
            data, ancillary = b"", []
    if not data:
        raise BrokenPipeError("the keeper of this worker's commands has ended")
    reply: Any = wire.decode(data)
    return reply, int.from_bytes(ancillary[0][2], sys.byteorder) if ancillary else -1


def _collect(number: int, options: int) -> tuple[int, int]:
    """As waitpid(2), for one command."""
    import select

    pipe = _running.get(number)
    if pipe is None:
        raise ChildProcessError(_ECHILD, posix.strerror(_ECHILD))
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if not poll.poll(0 if options & posix.WNOHANG else None):
        return 0, 0
    with _lock:
        if _running.pop(number, None) is None:  # another thread was faster
            raise ChildProcessError(_ECHILD, posix.strerror(_ECHILD))
        status = posix.read(pipe, 4)
        posix.close(pipe)
    # Without a status the keeper has ended, and with it the command.
    return number, int.from_bytes(status, "big") if len(status) == 4 else _KILLED


def _is_number(pid: object) -> bool:
    return isinstance(pid, int) and pid > FIRST_NUMBER


def _bytes(path: Path) -> bytes:
    import os

    return bytes(os.fsencode(path))
