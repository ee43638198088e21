"""Run a command where another sandbox answers seccomp notifications: ``python -m tests.under_supervisor COMMAND …``.

A process may have one supervised filter alone (seccomp(2), EBUSY): so what the command starts can have none. The filter
here lets every call pass; what it takes away is the notifications.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from sandbox_worker.walls import linux
from sandbox_worker.walls.bpf import ALLOW, compile_filter

_PR_SET_NO_NEW_PRIVS: Final = 38


def install() -> int:
    """Put this process, and all that it becomes, under the filter; it holds as long as the descriptor is open."""
    if linux.ARCHITECTURE is None:
        raise SystemExit("under_supervisor: no table of system calls for this machine")
    linux.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return linux.install_supervised_filter(compile_filter({}, ALLOW, linux.ARCHITECTURE).patch({}))


def main(command: list[str]) -> int:
    """Run the command to its end: its exit status."""
    if not command:
        raise SystemExit("usage: python -m tests.under_supervisor COMMAND [ARGUMENT …]")
    install()
    pid = os.fork()
    if not pid:
        os.execvp(command[0], command)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
