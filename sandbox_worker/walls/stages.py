"""The namespaces of the next worker, begun before anybody knows which plugin it will be.

Half of what a view costs is the same for every worker: the namespaces themselves, and the mounts of the base. So while
the spawner is idle a child of it makes these and waits; told what one worker is granted, it mounts that too and moves
into the view, and the worker joins it. What was mounted elsewhere since it began would be missing in it: then, and for
a view that changes more than it adds, another child makes all of it anew.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

import msgpack

from . import building, linux, lockdown, namespaces
from .tracing import end, has_ended
from .view import covers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final, NoReturn

    from .view import View

_MOUNTS: Final = "/proc/self/mountinfo"
_LENGTH: Final = 4  # bytes
_FIRST: Final = 3  # behind the standard streams
_READY: Final = b"0 "


class Stages:
    """Makes namespaces in `user_namespace`, a descriptor, with `base` for the view of every worker; one is begun at
    most. For one thread."""

    __slots__ = ("_base", "_changes", "_mounts", "_next", "_used", "user_namespace")

    def __init__(self, user_namespace: int, base: View) -> None:
        self.user_namespace = user_namespace
        self._base = base
        self._next: _Stage | None = None
        self._used: list[_Stage] = []
        self._mounts = os.open(_MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._mounts, select.POLLPRI)

    def prepare(self) -> None:
        """Begin the next one, and let go of those that were used. OSError when there can be no more processes."""
        self._let_go_of_used()
        if self._next is None or self._mounts_have_changed() or has_ended(self._next.pid):
            self._drop()
            self._mounts_have_changed()  # until now: what is asked next is whether they have since
            self._next = _Stage(self.user_namespace, self._base)

    @contextlib.contextmanager
    def prepared(self, view: View, *, named: bool) -> Iterator[int]:
        """A child in such namespaces, which another process may join by its pidfd: that is what this gives.

        OSError as `namespaces.prepared`.
        """
        stage = None if named else self._finished(view)
        if stage is None:
            with namespaces.prepared(self.user_namespace, view, named=named) as handle:
                yield handle
            return
        handle = os.pidfd_open(stage.pid)
        try:
            yield handle
        finally:
            os.close(handle)

    def let_go(self) -> None:
        """End what waits and what was used; there may be more."""
        self._drop()
        self._let_go_of_used()

    def close(self) -> None:
        """The same, for good."""
        self.let_go()
        os.close(self._mounts)

    def abandon(self) -> None:
        """Let go of it in a child of this process."""
        for stage in (*self._used, *((self._next,) if self._next is not None else ())):
            stage.channel.close()
        os.close(self._mounts)

    def _finished(self, view: View) -> _Stage | None:
        """The one that was begun, in `view` now; None where it can't be."""
        stage, more = self._next, view.beyond(self._base)
        if stage is None or more is None or any(_is_staged(path) for path, _ in more):
            return None
        if self._mounts_have_changed():
            self._drop()
            return None
        self._next = None
        self._used.append(stage)
        with contextlib.suppress(OSError):  # whatever it was, the next one will meet it too, or do better
            stage.finish(more, view.links)
            return stage
        return None

    def _let_go_of_used(self) -> None:
        for stage in self._used:
            stage.close()
        self._used.clear()

    def _drop(self) -> None:
        if self._next is not None:
            self._next.close()
            self._next = None

    def _mounts_have_changed(self) -> bool:
        return bool(self._changes.poll(0))


def _is_staged(path: str) -> bool:
    """Whether it lies in or around the folder that something is mounted over."""
    return covers(building.STAGE, path) or covers(path, building.STAGE)


class _Stage:
    """One child of this process, which ends when it is hung up on."""

    __slots__ = ("channel", "pid")

    def __init__(self, user_namespace: int, base: View) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.pid = os.fork()
            if not self.pid:
                _work(user_namespace, base, theirs.fileno())

    def finish(self, more: list[tuple[str, str]], links: tuple[tuple[str, str], ...]) -> None:
        """Have it add these mounts and links and move into the view. Raises the OSError that it met."""
        order = msgpack.packb((more, links), unicode_errors="surrogateescape")
        self.channel.sendall(len(order).to_bytes(_LENGTH, "little") + order)
        said = self.channel.recv(4096)
        if said != _READY:
            number, _, what = said.partition(b" ")
            code = int(number or errno.ECHILD)
            raise OSError(code, os.strerror(code), os.fsdecode(what))

    def close(self) -> None:
        """End it."""
        self.channel.close()
        end(self.pid)


def _work(user_namespace: int, base: View, channel: int) -> NoReturn:
    """In the child: begin, be told what else there is, finish, and wait for the parent to hang up."""
    try:
        namespaces.move(user_namespace, named=False)
        # Nothing of the spawner is needed any more, and nothing of it should stay open by this process.
        linux.close_range(_FIRST, channel - 1)
        linux.close_range(channel + 1, lockdown.LAST_DESCRIPTOR)
        builder = building.Builder()
        builder.begin(base)
        if order := _read(channel, int.from_bytes(_read(channel, _LENGTH), "little")):
            builder.finish(base.extended(*msgpack.unpackb(order, unicode_errors="surrogateescape")))
            os.write(channel, _READY)
            os.read(channel, 1)
    except OSError as error:
        os.write(channel, b"%d %s" % (error.errno or errno.EIO, os.fsencode(str(error.filename or "")[:1000])))
    finally:
        os._exit(0)


def _read(channel: int, size: int) -> bytes:
    """So many bytes; fewer when the parent has hung up."""
    data = b""
    while len(data) < size and (more := os.read(channel, size - len(data))):
        data += more
    return data
