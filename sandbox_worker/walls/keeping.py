"""How a spawner starts the keeper of a worker's commands: a child of its own, in which nothing of it is left."""

from __future__ import annotations

import os

from . import landlock, linux, namespaces, view
from .box import Box, limits_of, writable_of
from .command_policy import Policy
from .keeper import Keeper, keep
from .machine import CONFINED, WALLED, may_fork
from .programs import leads_through, place

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Final, NoReturn

    from .bpf import Program
    from .machine import Machine

    Pairs = Sequence[tuple[str, str]]

_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_STATUS: Final = 5  # bytes of a pid or an errno, and which of them it is


class Order:
    """What a keeper is started with: the frame of its worker, and what the spawner made of it.

    `foreign` are descriptors that it must not have; `release` closes the spawner's own.
    """

    __slots__ = ("base", "base_view", "environment", "foreign", "links", "log", "named", "release", "rlimits", "rules",
                 "tier", "user_namespace", "wanted")  # fmt: skip

    def __init__(
        self,
        *,
        tier: str,
        named: bool,
        wanted: dict[str, Any],
        rules: Pairs,
        links: Pairs,
        rlimits: dict[int, int],
        environment: Iterable[bytes],
        base: landlock.Rules | None,
        base_view: Pairs,
        user_namespace: int | None,
        log: int,
        foreign: Sequence[int],
        release: Callable[[], None],
    ) -> None:
        self.tier = tier
        self.named = named
        self.wanted = wanted
        self.rules = rules
        self.links = links
        self.rlimits = rlimits
        self.environment = environment
        self.base = base
        self.base_view = base_view
        self.user_namespace = user_namespace
        self.log = log
        self.foreign = foreign
        self.release = release


def start(order: Order, machine: Machine, channel: socket.socket, worker: int) -> int:
    """Fork the keeper of the worker with the pid `worker`; its pid. `channel` is its end of their socket.

    Raises OSError where this machine has no process namespaces, ValueError for a malformed order.
    """
    linux.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that a keeper in a namespace of its own is a child of this process
    forks = may_fork(order.tier, machine.landlock_abi)
    policy, limits = policy_of(order.wanted, writable_of(order.rules)), limits_of(order.wanted)
    program = machine.command_filter_of(order.tier, forks=forks)
    pidfds = os.pidfd_open(worker), os.pidfd_open(os.getpid())
    spawner = os.getpid()

    def become() -> NoReturn:
        try:
            keep(_keeper(order, machine, channel, policy, _Parts(program, limits, spawner, forks), pidfds))
        finally:
            os._exit(1)

    try:
        if order.tier == WALLED and order.user_namespace is not None:
            return _first_of_namespace(order.user_namespace, become)
        pid = os.fork()
        if not pid:
            become()
        return pid
    finally:
        for descriptor in pidfds:
            os.close(descriptor)


def policy_of(wanted: dict[str, Any], writable: Sequence[str] = ()) -> Policy:
    """The policy of a frame: ``layers`` of [path, items or None], and ``deny``, paths.

    A rule that leads through what the worker may write, `writable`, stays as it is spelled: by a link there the plugin
    would choose what it grants after the next start.
    """
    layers = [
        tuple((str(path), None if items is None else tuple(map(str, items))) for path, items in layer)
        for layer in wanted["layers"]
    ]
    paths = [str(path) for path in wanted["deny"]]
    denied = {
        form for path in paths for form in (path, *((place(path), os.path.realpath(path)) if path != "*" else ()))
    }
    return Policy(layers, denied, lambda path: path if leads_through(path, writable) else place(path))


class _Parts:
    __slots__ = ("forks", "limits", "program", "spawner")

    def __init__(self, program: Program, limits: Any, spawner: int, forks: bool) -> None:
        self.program = program
        self.limits = limits
        self.spawner = spawner
        self.forks = forks


def _keeper(
    order: Order, machine: Machine, channel: socket.socket, policy: Policy, parts: _Parts, pidfds: tuple[int, int]
) -> Keeper:
    """In the keeper: let go of the spawner, and take in what the commands will need."""
    order.release()
    for descriptor in order.foreign:
        os.close(descriptor)
    os.setsid()
    linux.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    linux.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what daemonises becomes its child
    own = None
    if order.base is not None:
        opened, _ = landlock.open_rules([rule for rule in order.rules if view.HIDDEN not in rule[1:]])
        own = landlock.Rules(opened, machine.landlock_abi)  # they stay open: as the worker's, they are of its start
    if parts.forks and order.tier == CONFINED:
        landlock.keep_signals()
    box = Box(
        program=parts.program,
        base=order.base,
        own=own,
        abi=machine.landlock_abi,
        named=order.named,
        base_view=order.base_view if order.tier == WALLED else None,
        rules=order.rules,
        links=order.links,
        rlimits=order.rlimits,
        limits=parts.limits,
        environment=order.environment,
        forks=parts.forks,
        spawner=parts.spawner,
    )
    if box.forks:
        box.require_walls()
    return Keeper(box, policy, channel, *pidfds, order.log)


def _first_of_namespace(user_namespace: int, become: Callable[[], NoReturn]) -> int:
    """Fork a child that is the first process of a process namespace; it outlives the child in between."""
    read, write = os.pipe()
    middle = os.fork()
    if not middle:
        try:
            os.close(read)
            namespaces.own_processes(user_namespace)
            pid = os.fork()
            if not pid:
                os.close(write)
                become()
            os.write(write, b"p" + pid.to_bytes(4, "big"))
        except OSError as error:
            os.write(write, b"e" + (error.errno or 5).to_bytes(4, "big"))
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(middle, 0)
    said = os.read(read, _STATUS)
    os.close(read)
    if said[:1] != b"p":
        number = int.from_bytes(said[1:], "big") or 5
        raise OSError(number, f"a process namespace for commands is refused: {os.strerror(number)}")
    return int.from_bytes(said[1:], "big")
