"""Own namespaces for a worker of tier `walled`: a file system in which only what is granted exists, no network at all,
no shared memory of others, a neutral host name. Needs no privilege, only a kernel that lets users have namespaces.

The user namespace is made once per spawner, by a child that maps its own user and group into it; each worker joins
it and makes the other namespaces for itself. Joining needs no capability of the one that owns it
(user_namespaces(7)), so that a spawner which is root can give up all its capabilities before.

Whether this works can't be read anywhere: Ubuntu hands out a user namespace and refuses what is done in it, Docker's
filter refuses unshare(2), other machines count down to a limit of none. So it is tried (`why_not`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

from . import building, linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final, NoReturn

    from .view import View

HOST_NAME: Final = b"localhost"
"""What a worker without the grant takes this machine's name to be."""

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUTS: Final = 0x04000000
_CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000
_CLONE_NEWNET: Final = 0x40000000
OWN: Final = _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET
"""Those that each worker has for itself."""

_DONE: Final = b"done"
_ADVICE: Final = {
    errno.EPERM: "a container's seccomp profile, AppArmor (kernel.apparmor_restrict_unprivileged_userns) or "
    "kernel.unprivileged_userns_clone refuses user namespaces",
    errno.EACCES: "AppArmor (kernel.apparmor_restrict_unprivileged_userns) or SELinux refuses it",
    errno.ENOSPC: "user.max_user_namespaces, or another limit beside it, is used up",
    errno.ENOSYS: "the kernel, or a container's seccomp profile, does not know it",
    errno.EINVAL: "the kernel was built without one of the namespaces, or its root can't be exchanged (initramfs)",
}


class UserNamespace:
    """The user namespace of a spawner's workers: `descriptor` of it, or None and the reason in `why_not`."""

    __slots__ = ("descriptor", "why_not")

    def __init__(self) -> None:
        """Make it. To be called before capabilities are dropped: root may map itself only with CAP_SETFCAP."""
        self.descriptor: int | None = None
        self.why_not = ""
        if linux.ARCHITECTURE is None:
            self.why_not = "no table of system calls for this machine"
            return
        try:
            self.descriptor = _made_by_a_child()
        except OSError as error:
            self.why_not = _told(error)

    def attempt(self, view: View) -> None:
        """Build `view` in a child, to the end; `why_not` tells what failed, and then there is no `descriptor`."""
        if self.descriptor is None:
            return
        joined = self.descriptor
        try:
            with _child(lambda: enter(joined, view)):
                pass
        except OSError as error:
            os.close(joined)
            self.descriptor, self.why_not = None, _told(error)


def enter(user_namespace: int | None, view: View, *, named: bool = False) -> None:
    """Move this process, which has one thread, into namespaces of its own and make `view` its file system.

    `named` keeps the machine's name; else it is HOST_NAME there.

    Afterwards it has all capabilities in them, none outside, and its folder is the root. OSError as
    `building.move_into`. `user_namespace` is None for a process that is in it already.
    """
    move(user_namespace, named=named)
    building.move_into(view)


def move(user_namespace: int | None, *, named: bool) -> None:
    """The same, but for the view: the file system is the old one still."""
    if user_namespace is not None:
        linux.syscall("setns", user_namespace, CLONE_NEWUSER)
    linux.syscall("unshare", OWN)
    if not named:
        name = ctypes.create_string_buffer(HOST_NAME)
        linux.syscall("sethostname", ctypes.addressof(name), len(HOST_NAME))


def own_processes(user_namespace: int) -> None:
    """Let the next child of this process be the first of a process namespace: the others in it die with that one."""
    linux.syscall("setns", user_namespace, CLONE_NEWUSER)
    linux.syscall("unshare", _CLONE_NEWPID)


@contextlib.contextmanager
def prepared(user_namespace: int, view: View, *, named: bool) -> Iterator[int]:
    """A child in such namespaces, which another process may join by its pidfd: that is what this gives."""
    with _child(lambda: enter(user_namespace, view, named=named)) as pid:
        handle = os.pidfd_open(pid)
        try:
            yield handle
        finally:
            os.close(handle)


def _made_by_a_child() -> int:
    with _child(_make_user_namespace) as pid:
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _make_user_namespace() -> None:
    """Its user and group stay who they are in it: one number each, which needs no privilege (user_namespaces(7))."""
    user, group = os.geteuid(), os.getegid()
    linux.syscall("unshare", CLONE_NEWUSER)
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        path = f"/proc/self/{name}"
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, content.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def _child(work: Callable[[], None]) -> Iterator[int]:
    """Run `work` in a child that then waits; gives its pid. Raises the OSError that `work` raised."""
    answer, answer_end = os.pipe()
    wait_end, wait = os.pipe()
    pid = os.fork()
    if not pid:
        _work_and_wait(work, answer_end, wait_end, (answer, wait))
    os.close(answer_end)
    os.close(wait_end)
    try:
        said = os.read(answer, 4096)
        if said != _DONE:
            number, _, what = said.partition(b" ")
            raise OSError(int(number or errno.EIO), os.strerror(int(number or errno.EIO)), os.fsdecode(what))
        yield pid
    finally:
        os.close(answer)
        os.close(wait)
        os.waitpid(pid, 0)


def _work_and_wait(work: Callable[[], None], answer: int, wait: int, others: tuple[int, int]) -> NoReturn:
    """In the child: answer _DONE, or "errno what"; end when the parent hangs up."""
    try:
        for descriptor in others:
            os.close(descriptor)
        work()
        os.write(answer, _DONE)
        os.read(wait, 1)
    except OSError as error:
        os.write(answer, b"%d %s" % (error.errno or errno.EIO, os.fsencode(str(error.filename or "")[:1000])))
    finally:
        os._exit(0)


def _told(error: OSError) -> str:
    advice = _ADVICE.get(error.errno or 0, "")
    return f"own namespaces are refused: {error.filename}: {error.strerror}" + (f" ({advice})" if advice else "")
