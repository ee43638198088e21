"""The audit hook's part for the network: where a plugin wanted to go, and whether a rule leads there.

As in `audit_hook`, what the hook runs has no globals: its values are defaults, bound by `arguments`.
"""

from __future__ import annotations

from sandbox_worker._paths import normalise
from sandbox_worker.errors import UNHANDED, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _subject(host, inet_pton, os_error, int):
    """The text that patterns match (see `_network`), and whether it is an address: nothing is looked up."""
    try:
        packed = inet_pton(2, host)
    except os_error:
        try:
            packed = inet_pton(10, host)
        except os_error:
            name = host.lower()
            return "name:" + ".".join((name[:-1] if name[-1:] == "." else name).split(".")[::-1]), False
        if packed[:12] != b"\0\0\0\0\0\0\0\0\0\0\xff\xff":
            return f"6:{int.from_bytes(packed, 'big'):0128b}", True
    return f"4:{int.from_bytes(packed[-4:], 'big'):032b}", True


def _net_verdict(host, port, allow, deny, subject):
    """1 allowed, 0 not, -1 by a deny rule; `port` None matches all ports.

    An address may be what an allowed name led to: which ones are, the broker knows and this hook does not. So where a
    rule without an address allows the port, an address is left to the broker.
    """
    text, is_address = subject(host)
    for stem, exact, ports in deny:
        if (text == stem if exact else text[: stem.__len__()] == stem) and (
            ports is None or (port is not None and True in [low <= port <= high for low, high in ports])
        ):
            return -1
    for stem, exact, ports in allow:
        if ports is None or port is None or True in [low <= port <= high for low, high in ports]:
            if (text == stem if exact else text[: stem.__len__()] == stem) or host == "":
                return 1
            if is_address and stem[:2] != "4:" and stem[:2] != "6:" and stem[:5] != "unix:":
                return 1
    return 0


def _unix_verdict(path, allow, deny, normalise):
    """The same for the path of a unix socket: a rule of its own allows it, any denies it."""
    text = "unix:" + normalise(path)
    for stem, exact, _ in deny:
        if text == stem if exact else text[: stem.__len__()] == stem:
            return -1
    return 1 if text in [stem for stem, exact, _ in allow if exact] else 0


def judge_network(
    event, args,
    network, handed, verdict, unix_verdict, refuse, denied, absent, deny_rule, unhanded, str, bytes, int, tuple, type,
):  # fmt: skip
    """To where a rule leads, as far as text tells; without a rule say where the plugin wanted to go.

    `network` is empty, or four tables: the connect rules, allow and deny, and the listen rules. Where calls are
    `handed` over, one that is not is refused whatever a rule says: no kernel asks the broker about it, and text alone
    decides too little.
    """
    if event == "socket.__new__":
        if args[1] == 1 or args[1] == -1:  # AF_UNIX for a socketpair, or a descriptor that exists already
            return
        if network and args[1] in (2, 10) and args[2] & 15 == 1 and args[3] in (0, 6):  # TCP
            return
        refuse("net.connect", "a socket of family " + str(args[1]), absent, denied)
    kind = "net.listen" if event == "socket.bind" else "net.connect"
    where = args[1] if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind") else args
    if where is None:
        return
    passed = not handed or event[7:10] == "get" or args[2:] != ()
    target, host, port = "an address", None, None
    if type(where) is tuple and where:
        host, port = where[0], where[1] if where[1:] else None
        if type(host) is bytes:
            host = str(host, "utf-8", "backslashreplace")
        if type(port) is str and port.isdecimal():
            port = int(port)
        if type(host) is str:
            target = ("[" + host + "]" if ":" in host else host) + (":" + str(port) if type(port) is int else "")
            if type(port) is str:
                target = target + ":" + port
    elif type(where) is str or type(where) is bytes:
        path = where if type(where) is str else str(where, "utf-8", "backslashreplace")
        target = "unix:" + path
        if network and path[:1] == "/" and event in ("socket.connect", "socket.bind"):
            allow, deny = network[2:] if kind == "net.listen" else network[:2]
            answer = unix_verdict(path, allow, deny)
            if answer == 1 and passed:
                return
            refuse(kind, target, deny_rule if answer < 0 else unhanded if answer else absent, denied)
    if network and event in (
        "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname"
    ):  # fmt: skip
        lookup = event[7:10] == "get"
        if lookup and host is None:  # this machine's own addresses
            return
        if type(host) is str and (lookup or type(port) is int):
            allow, deny = network[2:] if kind == "net.listen" else network[:2]
            answer = verdict(host, port if type(port) is int else None, allow, deny)
            if answer == 1 and passed:
                return
            refuse(kind, target, deny_rule if answer < 0 else unhanded if answer else absent, denied)
    refuse(kind, target, absent, denied)


def arguments(
    bind: Callable[..., Any], network: Any, refuse: Any, absent: str, deny_rule: str | None, *, handed: bool = False
) -> tuple[Any, ...]:
    """What to `bind` for a hook that judges by these tables: the function and its values.

    `network` is empty or the tables of `judge_network`, whose rows are (stem, exact, ranges of ports or None); `handed`
    as there.
    """
    verdict: Any = ()
    unix_verdict: Any = ()
    if network:
        import _socket  # a third of a millisecond that only workers with a network spend

        verdict = bind(_net_verdict, bind(_subject, _socket.inet_pton, OSError, int))
        unix_verdict = bind(_unix_verdict, bind(normalise))
    return (
        judge_network, network, handed, verdict, unix_verdict, refuse, PermissionDenied, absent, deny_rule, UNHANDED,
        str, bytes, int, tuple, type,
    )  # fmt: skip
