"""The broker's process: takes announcements of workers from its host, and gives each one a service.

    host                                         broker
    ["abilities"]                                ["abilities", {variant, missing}]
    ["serve", number, {layers, deny, writes,
                       replace, handed}] + 2 descriptors
    ["narrow", number, {layers, deny, writes}]   ["narrowed", number] or ["error", text]

The descriptors are a unix socket and a pipe for records of what was refused (`messages.event_record`). Over the socket
the worker, before it is one, sends the listener of its filter; with `handed` it sends each of its calls (`handed`), and
the socket is one of packets. `number` is the host's name for the worker. `layers`, `deny` and `writes` are as
`policy.policy_of` takes them; where they make no sense, that is said on stderr and the descriptors are closed.
`replace` asks for sockets of the broker's own, which `variant` "addfd" makes of every request. `variant` is
"pidfd_getfd", "addfd", or "handed" where there are no notifications; `missing` says why. "narrow" takes the place of
the rules that the worker of that number was announced with; of one that is gone it changes nothing.

The end of the stream, a frame that makes no sense and the host's death end the broker; what workers then ask of it
fails.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref

from sandbox_worker.broker.names import Names
from sandbox_worker.broker.policy import Policy, policy_of
from sandbox_worker.broker.service import Service
from sandbox_worker.walls import linux
from sandbox_worker.walls.control import Control, HangUp
from sandbox_worker.walls.machine import try_notifications
from sandbox_worker.walls.settle import settle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

DUPLICATES: Final = "pidfd_getfd"
REPLACEMENTS: Final = "addfd"
HANDED: Final = "handed"
_PYTHON_ALONE: Final = "; Python code hands its connections over, and C libraries reach nothing"
_PYTHON_HELD: Final = "; Python code hands its connections over, and nothing holds C libraries"

_WHY_NOT: Final = {
    errno.EBUSY: "an outer sandbox answers seccomp notifications itself, and a process has one such sandbox",
    errno.EINVAL: "this kernel has no seccomp notifications (they need Linux 5.9 or later; gVisor has none)",
    errno.ENOSYS: "this kernel has no seccomp filters",
    errno.EPERM: "an outer sandbox refuses seccomp notifications",
}


def main(control_fd: int, host_pid: int) -> NoReturn:
    """Serve the host `host_pid`, the parent of this process, on the socket `control_fd`. Ends with the process."""
    status = 1
    os.umask(0o077)  # of the sockets that are made for workers, whose own umask it is
    try:
        _serve(settle(control_fd, host_pid))
    except HangUp:
        status = 0
    except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _serve(control: Control) -> NoReturn:
    variant, missing = find_variant()  # forks, so before any thread
    names = Names()
    policies: weakref.WeakValueDictionary[int, Policy] = weakref.WeakValueDictionary()  # each lives as its service does
    while True:
        message, descriptors = control.receive()
        match message:
            case ["abilities"] if not descriptors:
                control.send("abilities", {"variant": variant, "missing": missing})
            case ["serve", int() as number, dict() as wanted] if len(descriptors) == 2:
                channel, events = descriptors
                os.set_blocking(events, False)
                policy = _announce(wanted, channel, events, names, variant)
                if policy is not None:
                    policies[number] = policy
            case ["narrow", int() as which, dict() as wanted] if not descriptors:
                _narrow(control, which, policies.get(which), wanted)
            case _:
                raise HangUp(f"a frame of kind {message[0]!r} with {len(descriptors)} descriptors")


def _announce(wanted: dict[str, Any], channel: int, events: int, names: Names, variant: str) -> Policy | None:
    try:
        handed = bool(wanted["handed"])
        replace = bool(wanted["replace"]) or (variant == REPLACEMENTS and not handed)  # handed, the socket is at hand
        policy = policy_of(wanted)
        service = Service(channel, events, policy, names, replace=replace, handed=handed)
    except (ValueError, TypeError, KeyError) as error:
        os.close(channel)
        os.close(events)
        sys.stderr.write(f"plughold: a worker that can't be served: {type(error).__name__}: {error}\n")
        return None
    service.start()
    return policy


def _narrow(control: Control, number: int, policy: Policy | None, wanted: dict[str, Any]) -> None:
    try:
        narrower = policy_of(wanted)
    except (ValueError, TypeError, KeyError) as error:
        control.send("error", f"{type(error).__name__}: {error}")
        return
    if policy is not None:
        policy.become(narrower)
    control.send("narrowed", number)


def find_variant() -> tuple[str, list[str]]:
    """Try what this machine allows: (variant, what is missing for a better one, in whole sentences)."""
    error = try_notifications()
    if error:
        why = _WHY_NOT.get(error, f"seccomp notifications do not work: {os.strerror(error)}")
        return HANDED, [why + (_PYTHON_HELD if error == errno.ENOSYS else _PYTHON_ALONE)]
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(linux.syscall("pidfd_getfd", pidfd, pidfd, 0))
    except OSError as refusal:
        return REPLACEMENTS, [
            f"pidfd_getfd is refused here ({refusal.strerror}): a connection is made on a new socket, and options "
            "that were set before it are lost"
        ]
    finally:
        os.close(pidfd)
    return DUPLICATES, []
