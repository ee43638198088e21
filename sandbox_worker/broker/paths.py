"""Unix sockets by path: what a worker's text leads to is found once, judged by where that lies, and acted upon itself.

A connection goes to the socket that was found, by its descriptor. A new socket is made by the path of the folder that
was judged, free of links: Landlock knows no folder without those beneath it, so a link of the worker's that is swapped
meanwhile could lead to one of them. That it lands in no other is Landlock's to see to, on a thread that may make
sockets there and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import threading

from sandbox_worker.walls import landlock, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from typing import Final

_MAKE_SOCKET: Final = 1 << 9  # LANDLOCK_ACCESS_FS_MAKE_SOCK
_NO_NEW_PRIVS: Final = 38  # PR_SET_NO_NEW_PRIVS
_AT_FDCWD: Final = -100
# The root of another process may be another mount namespace's, where the same text is the place of another socket.
_RESOLVE_NO_MAGICLINKS: Final = 0x02


@contextlib.contextmanager
def found(path: bytes, judge: Callable[[str], None]) -> Iterator[str]:
    """A path of the socket at `path` that no one can lead elsewhere, once `judge` has not raised for where it lies.

    OSError where nothing can be reached: whether something is there, only who may reach it learns.
    """
    descriptor = _open(path, judge)
    try:
        own = f"/proc/self/fd/{descriptor}"
        judge(os.readlink(own))
        yield own
    finally:
        os.close(descriptor)


def bind(taken: socket.socket, path: bytes, judge: Callable[[str], None]) -> None:
    """Bind to `path` in the folder that was judged, or raise OSError. A file that is there is never replaced."""
    above, _, name = path.rpartition(b"/")
    if name in (b"", b".", b".."):
        judge(os.fsdecode(path))
    folder = _open(above or b"/", lambda real: judge(_joined(real, name)), os.O_DIRECTORY)
    try:
        where = _joined(os.readlink(f"/proc/self/fd/{folder}"), name)
        judge(where)
        _bind_within(taken, os.fsencode(where), folder)
    finally:
        os.close(folder)


def bound_to(taken: socket.socket) -> str | None:
    """The path that a unix socket is bound to, its folder resolved; None without one, and for an abstract name."""
    name = os.fsencode(taken.getsockname())
    if not name.startswith(b"/"):
        return None
    above, _, last = name.rpartition(b"/")
    return _joined(os.path.realpath(os.fsdecode(above or b"/")), last)


def _open(path: bytes, judge: Callable[[str], None], flags: int = 0) -> int:
    try:
        return linux.openat2(_AT_FDCWD, path, linux.open_how(os.O_PATH | os.O_CLOEXEC | flags, _RESOLVE_NO_MAGICLINKS))
    except OSError:
        judge(os.path.realpath(os.fsdecode(path)))
        raise


def _joined(folder: str, name: bytes) -> str:
    return f"{folder.rstrip('/')}/{os.fsdecode(name)}"


def _bind_within(taken: socket.socket, path: bytes, folder: int) -> None:
    """Without Landlock, where files are held by no kernel, a plain bind."""
    abi, _ = landlock.version()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            if abi:
                linux.prctl(_NO_NEW_PRIVS, 1)  # of this thread, as what follows
                ruleset = landlock.make_ruleset(abi, landlock.Rules([(folder, _MAKE_SOCKET)], abi))
                try:
                    landlock.restrict_self(ruleset)
                finally:
                    os.close(ruleset)
            taken.bind(path)
        except BaseException as error:  # noqa: BLE001 - raised below, on the thread that answers
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
