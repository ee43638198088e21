"""Changing files' modes, owners and times for one worker, and locking files.

A filter sees neither what a path leads to nor how a descriptor was opened, and Landlock guards neither metadata nor
locks. Here the file is opened first, without the right to read or write it, and asked where it is; that place is
judged, and the change is made to this very file. A name that leads elsewhere meanwhile leads nowhere with us.

A file has as many places as it has hard links, and the one by which the worker came is judged. It can't have made one
itself that crosses the border of a grant (Landlock's right to refer): one that does is the application's doing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from struct import Struct

from sandbox_worker.broker import policy as rules
from sandbox_worker.broker.sockets import refused
from sandbox_worker.walls import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn, TypeAlias

    from sandbox_worker.broker.notify import Call, Listener, Process

    Slow: TypeAlias = Callable[[], None]
    Change: TypeAlias = Callable[[int], None]

WRITE: Final = "fs.write"

_AT_FDCWD: Final = -100
_AT_SYMLINK_NOFOLLOW: Final = 0x100
# The links of proc(5) that lead past names: by those of another process even into another mount namespace, where the
# same text is the place of another file.
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_PLACE: Final = os.O_PATH | os.O_CLOEXEC
_FOLLOWED: Final = linux.open_how(_PLACE, _RESOLVE_NO_MAGICLINKS)
_NOT_FOLLOWED: Final = linux.open_how(_PLACE | os.O_NOFOLLOW, _RESOLVE_NO_MAGICLINKS)
_OWN_DESCRIPTORS: Final = (b"/proc/self/fd/", b"/proc/thread-self/fd/", b"/dev/fd/")
_DELETED: Final = " (deleted)"
_SETUID_SETGID: Final = 0o6000
_UNCHANGED: Final = 0xFFFF_FFFF

_PAIR: Final = Struct("=qqqq")  # two of struct timespec, or of struct timeval
_SECONDS: Final = Struct("=qq")  # struct utimbuf

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


class _Shape:
    """Where a call has its arguments: `folder` and `path` lead to the file, at `value` is what to change."""

    __slots__ = ("change", "flags", "folder", "follows", "path", "value")

    def __init__(
        self,
        change: str,
        value: int,
        *,
        folder: int | None = None,
        path: int | None = None,
        flags: int | None = None,
        follows: bool = True,
    ) -> None:
        self.change = change
        self.value = value
        self.folder = folder
        self.path = path
        self.flags = flags
        self.follows = follows


_SHAPES: Final = {
    "chmod": _Shape("mode", 1, path=0),
    "fchmod": _Shape("mode", 1, folder=0),
    "fchmodat": _Shape("mode", 2, folder=0, path=1),
    "fchmodat2": _Shape("mode", 2, folder=0, path=1, flags=3),
    "chown": _Shape("owner", 1, path=0),
    "lchown": _Shape("owner", 1, path=0, follows=False),
    "fchown": _Shape("owner", 1, folder=0),
    "fchownat": _Shape("owner", 2, folder=0, path=1, flags=4),
    "utime": _Shape("seconds", 1, path=0),
    "utimes": _Shape("microseconds", 1, path=0),
    "futimesat": _Shape("microseconds", 2, folder=0, path=1),
    "utimensat": _Shape("nanoseconds", 2, folder=0, path=1, flags=3),
}
_TIMES: Final = ("microseconds", "nanoseconds")


class Files:
    """Answers the calls of one worker that change or lock files; `refuse` reports and raises (`Calls`)."""

    def __init__(
        self,
        listener: Listener,
        process: Process,
        policy: rules.Policy,
        refuse: Callable[[str, object, str], NoReturn],
    ) -> None:
        self._listener = listener
        self._process = process
        self._policy = policy
        self._refuse = refuse

    def handlers(self) -> dict[str, Callable[[Call], Slow | None]]:
        """What answers each call, by its name."""
        return {**{name: self._changing(shape) for name, shape in _SHAPES.items()}, "flock": self._lock}

    # --- metadata

    def _changing(self, shape: _Shape) -> Callable[[Call], None]:
        return lambda call: self._change(shape, call)

    def _change(self, shape: _Shape, call: Call) -> None:
        change = self._wanted(shape, call)
        place = self._open(shape, call)
        try:
            self._require(place)
            if stat.S_IFMT(os.fstat(place).st_mode) in (stat.S_IFCHR, stat.S_IFBLK):
                raise _error(errno.EPERM)  # as in tier `walled`, where a device is mounted read-only
            if self._listener.waits(call):  # so it was the worker's own descriptor and folder that led there
                change(place)
        finally:
            os.close(place)
        self._listener.answer(call, 0)

    def _wanted(self, shape: _Shape, call: Call) -> Change:
        """What to do to the file; all that is in the worker's memory for it is read here, once."""
        value = call.integer(shape.value)
        if shape.change == "mode":
            if value & _SETUID_SETGID:
                raise _error(errno.EPERM)
            return lambda place: _set_mode(place, value & 0o7777)
        if shape.change == "owner":
            return lambda place: _set_owner(place, value, call.integer(shape.value + 1))
        times = self._times(shape.change, call.arguments[shape.value])
        return lambda place: linux.set_times(place, times)

    def _times(self, unit: str, address: int) -> bytes | None:
        """Two struct timespec, None for now."""
        if not address:
            return None
        if unit == "seconds":
            accessed, modified = _SECONDS.unpack(self._process.read(address, _SECONDS.size))
            return _PAIR.pack(accessed, 0, modified, 0)
        raw = self._process.read(address, _PAIR.size)
        if unit == "nanoseconds":  # UTIME_NOW and UTIME_OMIT among them: for the kernel to judge
            return raw
        accessed, of_accessed, modified, of_modified = _PAIR.unpack(raw)
        if not (0 <= of_accessed < 1_000_000 and 0 <= of_modified < 1_000_000):
            raise _error(errno.EINVAL)
        return _PAIR.pack(accessed, of_accessed * 1000, modified, of_modified * 1000)

    # --- which file

    def _open(self, shape: _Shape, call: Call) -> int:
        """An O_PATH descriptor of the file that the call means."""
        flags = call.integer(shape.flags) if shape.flags is not None else 0 if shape.follows else _AT_SYMLINK_NOFOLLOW
        if flags & ~(_AT_SYMLINK_NOFOLLOW | linux.AT_EMPTY_PATH):
            raise _error(errno.EINVAL)
        folder = _signed(call.integer(shape.folder)) if shape.folder is not None else _AT_FDCWD
        if shape.path is None or (not call.arguments[shape.path] and shape.change in _TIMES and folder != _AT_FDCWD):
            return self._own(call, folder)  # utimensat(2): a null path means the descriptor itself
        path = self._process.text(call.arguments[shape.path])
        if not path and flags & linux.AT_EMPTY_PATH:
            return self._own(call, folder)
        follow = not flags & _AT_SYMLINK_NOFOLLOW
        number = _own_descriptor(path, self._process.pid)
        if number is not None and follow:
            return self._own(call, number)
        how = _FOLLOWED if follow else _NOT_FOLLOWED
        if path.startswith(b"/"):
            return linux.openat2(_AT_FDCWD, path, how)
        base = self._own(call, folder)
        try:
            return linux.openat2(base, path, how)
        finally:
            os.close(base)

    def _own(self, call: Call, number: int) -> int:
        """An O_PATH descriptor of what is behind the worker's descriptor, or of its working folder."""
        if number == _AT_FDCWD:
            return os.open(f"/proc/{call.pid}/cwd", _PLACE)
        try:
            return os.open(f"/proc/{call.pid}/fd/{number}", _PLACE)
        except FileNotFoundError:
            raise _error(errno.EBADF) from None

    def _require(self, descriptor: int) -> None:
        """That writing is granted where the file is."""
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        if not place.startswith("/"):  # a pipe or a socket
            raise refused()
        # A file that was removed keeps its place, with a word behind it that a file may also be called by.
        verdicts = {self._policy.judge_write(path) for path in (place, place.removesuffix(_DELETED))}
        if verdicts != {rules.ALLOWED}:
            verdict = rules.DENY_RULE if rules.DENY_RULE in verdicts else rules.NO_RULE
            self._refuse(WRITE, place.removesuffix(_DELETED), verdict)

    # --- locks

    def _lock(self, call: Call) -> Slow | None:
        """A lock is of the open file, so our duplicate takes it for the worker.

        ENOSYS refuses it: what programs know of file systems without locks, and go on without, or say so. EACCES would
        mean that another holds the lock (fcntl(2)), and be waited for.
        """
        operation = call.integer(1)
        try:
            taken = self._process.descriptor(call.integer(0))
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS):
                raise
            self._judge_lock(call)
            return None
        try:
            self._require_lockable(taken)
            fcntl.flock(taken, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if not operation & fcntl.LOCK_NB:
                return lambda: self._wait_for_lock(call, taken, operation)
            os.close(taken)
            raise
        except BaseException:
            os.close(taken)
            raise
        os.close(taken)
        self._listener.answer(call, 0)
        return None

    def _wait_for_lock(self, call: Call, taken: int, operation: int) -> None:
        """Try until the lock or the worker is gone: a thread that waits in the kernel could not see the latter."""
        pause = _FIRST_PAUSE
        try:
            while self._listener.waits(call):
                try:
                    fcntl.flock(taken, operation | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
                else:
                    self._listener.answer(call, 0)
                    return
        finally:
            os.close(taken)

    def _judge_lock(self, call: Call) -> None:
        """Where pidfd_getfd is refused, as in containers: the kernel goes on with the call, for what the number means
        then. A plugin that swaps it in between wins a lock that it should not have, and nothing else."""
        place = self._own(call, _signed(call.integer(0)))
        try:
            self._require_lockable(place)
        finally:
            os.close(place)
        self._listener.let_pass(call)

    def _require_lockable(self, descriptor: int) -> None:
        try:
            self._require(descriptor)
        except PermissionError:
            raise _error(errno.ENOSYS) from None


def _set_mode(place: int, mode: int) -> None:
    if stat.S_ISLNK(os.fstat(place).st_mode):
        raise _error(errno.EOPNOTSUPP)
    os.chmod(f"/proc/self/fd/{place}", mode)  # fchmodat2(2), which takes a descriptor, is of Linux 6.6


def _set_owner(place: int, user: int, group: int) -> None:
    """To oneself alone: an ordinary user has no more to give (chown(2)), and in tier `walled` no one else exists."""
    if user not in (_UNCHANGED, os.geteuid()) or group not in (_UNCHANGED, os.getegid()):
        raise _error(errno.EPERM)
    os.chown(f"/proc/self/fd/{place}", _signed(user), _signed(group))


def _own_descriptor(path: bytes, pid: int) -> int | None:
    """The number in a path that means a descriptor of the process itself (proc_pid_fd(5))."""
    for prefix in (*_OWN_DESCRIPTORS, b"/proc/%d/fd/" % pid):
        number = path.removeprefix(prefix)
        if number != path and number.isdigit():
            return int(number)
    return None


def _signed(value: int) -> int:
    """An int argument as the kernel takes it."""
    return value - (1 << 32) if value & (1 << 31) else value


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
