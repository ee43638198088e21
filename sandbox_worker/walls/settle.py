"""How a helper process of the host, spawner or broker, begins: cut loose, watched, without privileges."""

from __future__ import annotations

import fcntl
import os
import resource
import signal

from . import linux, lockdown
from .control import Control, HangUp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def settle(control_fd: int, host_pid: int, while_privileged: Callable[[], None] | None = None) -> Control:
    """Cut what ties this process to whatever started the host, and give up the privileges that no worker may have.

    `while_privileged` is called before that.

    Signals go back to their defaults, which the workers inherit. The terminal's Ctrl-C does not come here: the new
    session has no terminal.
    """
    control_fd = _keep_only(control_fd)
    host = os.pidfd_open(host_pid)
    if os.getppid() != host_pid:
        raise HangUp("the host died before its death could be watched")
    lockdown.require_one_thread()  # fork copies one thread, and the locks of all
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.chdir("/")
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)  # an ignored SIGCHLD, say, would reap the workers before us
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a descriptor per base rule
    if while_privileged is not None:
        while_privileged()
    lockdown.renounce()
    return Control(control_fd, host)


def _keep_only(control_fd: int) -> int:
    """Close all but 0 to 2 and the control socket, which moves above the numbers that a worker's descriptors have.

    Those numbers are held by /dev/null, so that no descriptor of this process is ever in the way of a child's dup2.
    """
    moved = fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, lockdown.FIRST_FOREIGN)
    linux.close_range(3, moved - 1)
    linux.close_range(moved + 1, lockdown.LAST_DESCRIPTOR)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    while null < lockdown.FIRST_FOREIGN:
        null = os.open("/dev/null", os.O_RDONLY)
    os.close(null)
    return moved
