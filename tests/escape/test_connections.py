"""A plugin reaches no network: listeners that would be delighted hear nothing."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIERS: Final = ["confined", "filtered", "hooked"]

WAYS: Final = {
    "connect": "import socket; socket.create_connection(('127.0.0.1', tcp), 2).send(b'x')",
    "connect_ex": "import socket; assert socket.socket().connect_ex(('127.0.0.1', tcp)) == 0",
    "_socket": "import _socket; _socket.socket(2, 1).connect(('127.0.0.1', tcp))",
    "IPv6": "import socket; socket.create_connection(('::1', tcp), 2)",
    "by name": "import socket; socket.create_connection(('localhost', tcp), 2)",
    "sendto": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', udp))",
    "sendmsg": "import socket; socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('127.0.0.1', udp))",
    "fast open": "import socket; socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', tcp))",
    "unix socket": "import socket; s = socket.socket(socket.AF_UNIX); s.connect(path); s.send(b'x')",
    "abstract unix socket": "import socket; s = socket.socket(socket.AF_UNIX); s.connect(b'\\0' + name.encode())",
    "unix datagrams": "import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', path)",
    "a socket pair aimed anew": "import socket; a, b = socket.socketpair(); a.connect(path)",
    "a datagram pair aimed anew": (
        "import socket; a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b'x', path)"
    ),
    "asyncio": (
        "import asyncio; asyncio.run(asyncio.wait_for(asyncio.open_connection('127.0.0.1', tcp), 2))"
    ),
    "urllib": "import urllib.request as r; r.urlopen(f'http://127.0.0.1:{tcp}/', timeout=2)",
    "http.client": "import http.client as h; h.HTTPConnection('127.0.0.1', tcp, timeout=2).request('GET', '/')",
    "ftplib": "import ftplib; ftplib.FTP().connect('127.0.0.1', tcp, timeout=2)",
    "smtplib": "import smtplib; smtplib.SMTP('127.0.0.1', tcp, timeout=2)",
    "xmlrpc": "import xmlrpc.client as x; x.ServerProxy(f'http://127.0.0.1:{tcp}/').f()",
    "names": "import socket; socket.getaddrinfo('example.com', 80)",
    "numbers": "import socket; socket.getaddrinfo('127.0.0.1', 80)",
    "old names": "import socket; socket.gethostbyname('example.com')",
    "raw": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "packets": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)",
    "vsock": "import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM, 0)",
    "listening": "import socket; socket.create_server(('127.0.0.1', 0))",
    "listening without an address": "import socket; socket.socket().listen()",
    "listening on a path": "import socket; socket.socket(socket.AF_UNIX).bind(path + '.own')",
    "http server": "import http.server as h; h.HTTPServer(('127.0.0.1', 0), None)",
    "the system's log": "import syslog; syslog.syslog('x')",
    "the process manager": (
        "import multiprocessing.connection as c; c.Client(('127.0.0.1', tcp))"
    ),
}  # fmt: skip


class Listeners:
    """Everything that a connection could reach on this machine, listening."""

    def __init__(self, stack: contextlib.ExitStack, folder: Path) -> None:
        def opened(family: int, kind: int, address: Any) -> socket.socket:
            made = stack.enter_context(socket.socket(family, kind))
            made.bind(address)
            if kind == socket.SOCK_STREAM:
                made.listen()
            return made

        self.path = str(folder / "s")
        self.name = f"plughold-{folder.name}"
        tcp = opened(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        udp = opened(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self.tcp, self.udp = tcp.getsockname()[1], udp.getsockname()[1]
        unix = opened(socket.AF_UNIX, socket.SOCK_STREAM, self.path)
        abstract = opened(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + self.name)
        self._selector = stack.enter_context(selectors.DefaultSelector())
        for listener in (tcp, udp, unix, abstract):
            self._selector.register(listener, selectors.EVENT_READ)

    def heard(self, seconds: float = 0) -> bool:
        """Whether anything came: a loopback connection is there before its connect returns."""
        return bool(self._selector.select(seconds))


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[Listeners]:
    """Opened for one test."""
    with contextlib.ExitStack() as stack:
        yield Listeners(stack, tmp_path)


@pytest.mark.parametrize("tier", TIERS)
def test_nothing_is_reached_and_nothing_listens(attacker: Any, listeners: Listeners, tmp_path: Path, tier: str) -> None:
    grants = {"fs.read": ["*"], "fs.write": [tmp_path]}
    worker = attacker(permissions=grants, tier=tier, minimum_tier="hooked", limits={"call_timeout": "20 s"})
    names = {name: getattr(listeners, name) for name in ("tcp", "udp", "path", "name")}
    for way, code in WAYS.items():
        kind, _, number, text = worker.attempt(code, **names)
        assert number in (1, 13) or "refused by the audit hook" in text, (way, kind, text)
        assert not listeners.heard(), way
    assert not (tmp_path / "s.own").exists()


@pytest.mark.parametrize("way", ["connect", "_socket", "sendto", "unix socket", "abstract unix socket", "asyncio"])
def test_control_the_same_code_reaches_the_listeners_from_outside(listeners: Listeners, way: str) -> None:
    names = {name: getattr(listeners, name) for name in ("tcp", "udp", "path", "name")}
    code = "".join(f"{name} = {value!r}; " for name, value in names.items()) + WAYS[way]
    subprocess.run([sys.executable, "-Ic", code], check=True)
    assert listeners.heard(5)


def test_control_socket_pairs_work(attacker: Any) -> None:
    code = "import socket; a, b = socket.socketpair(); a.sendall(b'x'); result = b.recv(1).decode()"
    assert attacker().run(code) == "x"


def test_a_refused_connection_is_a_denial_that_names_the_address(attacker: Any, listeners: Listeners) -> None:
    worker = attacker(tier="hooked", minimum_tier="hooked")
    code = "import socket; socket.create_connection(('192.0.2.1', 443))"
    assert worker.reason(code)[:2] == ("PermissionDenied", "net.connect")
    [record] = worker.plugin.denials()
    assert record.permission.kind == "net.connect"
    assert not listeners.heard()
