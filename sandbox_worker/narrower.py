"""A further audit hook, for what a plugin gives up while it runs: CPython has no call that takes a hook away again.

That makes dropping one-way by nature. The first hook's rules are constants and stay; this one stands behind it, refuses
what was dropped and knows nothing else, so nothing that reaches it can widen a grant. It is made of the first one's
code. Since the kernel's rules stay as they are until the next start, paths are resolved here, link by link, and calls
that name a file relative to a descriptor are refused once a file permission was dropped.
"""

from __future__ import annotations

import posix

from sandbox_worker import audit_hook, audit_network
from sandbox_worker.errors import DROPPED, INTERPRETER, ImportDenied, InterpreterDenied, PermissionDenied
from sandbox_worker.messages import TARGET_LIMIT, event_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

CONFIRM: Final = "plughold.drop"
"""An event whose argument, a function, each hook made here calls: so that who adds one knows that it is in."""
SOCKETS: Final = frozenset(event for event in audit_hook.JUDGED if event.startswith("socket."))


def kept(path: str, dropped: tuple[str, ...], implied: tuple[str, ...]) -> int:
    """Return 1 unless `path`, resolved, lies in a dropped prefix; what every worker may read stays."""
    inside = path + "/"
    return 1 if inside.startswith(implied) or not inside.startswith(dropped) else -1


def _confirm(event: str, args: Any, confirm: str) -> None:
    if event == confirm:
        args[0](1)


def build(
    read: tuple[str, ...],
    write: tuple[str, ...],
    implied: tuple[str, ...],
    libraries: tuple[str, ...],
    calls: tuple[str, ...],
    network: tuple[Any, ...] | None,
    event_fd: int,
) -> Callable[[str, tuple[object, ...]], None]:
    """The hook that refuses paths in the prefixes `read` and `write`, resolved and ending in "/".

    `implied` are prefixes that stay readable in any case; `libraries` and `calls` as in `audit_hook.build`;
    `network` are the tables of `audit_network` that are left, None where nothing of it was dropped.
    """
    own: list[Callable[..., Any]] = []

    def bind(function: Any, *defaults: object) -> Callable[..., Any]:
        own.append(audit_hook.detached(function, *defaults))
        return own[-1]

    files = not (read or write)  # nothing of the files was dropped: then they are not looked at more closely
    namespaces = frozenset() if "ctypes" in calls else frozenset({"ctypes"})
    refuse = bind(audit_hook._refuse, event_fd, posix.write, bind(event_record, TARGET_LIMIT, len), None, OSError)
    locate = bind(
        audit_hook._locate_really, posix.lstat, posix.readlink, posix.getcwd, PermissionDenied, FileNotFoundError, len
    )
    judge_path = bind(
        audit_hook._judge_path, locate, bind(kept), refuse, PermissionDenied, (read, implied), (write, ("/dev/null/",)),
        DROPPED, DROPPED, "" if files else "/proc/self/fd/", posix.readlink, str, bytes, int, type,
    )  # fmt: skip
    judge_open = bind(
        audit_hook._judge_open, judge_path, refuse, PermissionDenied, DROPPED, files, str, bytes, int, type, bool
    )
    judge_import = bind(
        audit_hook._judge_import, refuse, ImportDenied, audit_hook.FOREIGN_CALLS.difference(calls), frozenset(),
        libraries, DROPPED, str, type,
    )  # fmt: skip
    judged = frozenset({CONFIRM}) if network is None else SOCKETS | {CONFIRM}
    tables = network if network and any(network) else ()
    judge_network = bind(*audit_network.arguments(bind, tables, refuse, DROPPED, DROPPED))
    return audit_hook.detached(
        audit_hook._hook, audit_hook.HARMLESS, judged, namespaces, judge_open, judge_path, judge_import,
        judge_network, bind(_confirm, CONFIRM), refuse, PermissionDenied, InterpreterDenied, INTERPRETER, DROPPED,
        files, tuple(own), bool, str, int, type,
    )  # fmt: skip
