"""A plugin with a network grant reaches what the grant says with any client, and nothing else by any way."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from network_driver import CLIENTS, Server, require

import host

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """One that is granted, one that is not."""
    both = Server(), Server()
    yield both
    for server in both:
        server.close()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reaches_a_granted_server(
    attacker: Any, servers: tuple[Server, Server], client: str, name: str
) -> None:
    worker = attacker(permissions={"net.connect": [f"{name}:{servers[0].port}"]}, **require(client))
    assert worker.run(CLIENTS[client], name=name, port=servers[0].port) == "hello"
    assert servers[0].met == 1
    assert [record for record in worker.plugin.denials() if record.permission.kind == "net.connect"] == []


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "elsewhere.example"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reaches_no_other_server_and_says_so_at_once(
    attacker: Any, servers: tuple[Server, Server], client: str, name: str
) -> None:
    worker = attacker(
        permissions={"net.connect": [f"127.0.0.1:{servers[0].port}", f"localhost:{servers[0].port}"]},
        limits={"call_timeout": "10 s"},
        **require(client),
    )
    assert worker.is_stopped(CLIENTS[client], name=name, port=servers[1].port)
    assert (servers[0].met, servers[1].met) == (0, 0)
    targets = {record.permission.target for record in worker.plugin.denials()}
    assert f"{name}:{servers[1].port}" in targets


def test_what_the_broker_refuses_is_its_own_word_in_every_place(
    attacker: Any, servers: tuple[Server, Server], tmp_path: Any
) -> None:
    """A name rule for the port lets the hook pass an address on: the broker knows that no name led there."""
    log = tmp_path / "audit.jsonl"
    worker = attacker(permissions={"net.connect": [f"*.example:{servers[1].port}"]}, audit=log)
    code = "import socket; socket.socket().connect(('127.0.0.1', port))"
    assert worker.reason(code, port=servers[1].port) == ("PermissionError", "", 13)
    [record] = worker.plugin.denials()
    assert (record.layer, record.origin, record.decision) == ("broker", "host", "deny")
    assert (record.permission.kind, record.permission.target) == ("net.connect", f"127.0.0.1:{servers[1].port}")
    assert '"layer":"broker"' in log.read_text()
    assert servers[1].met == 0


def test_an_uncaught_refusal_of_the_broker_is_a_denial(plugin_from: Any, servers: tuple[Server, Server]) -> None:
    plugin = plugin_from(
        """
        import socket
        @hookimpl
        def reach(port):
            socket.create_connection(("127.0.0.1", port))
        """,
        permissions={"net.connect": [f"*.example:{servers[1].port}"]},
    )
    with pytest.raises(host.PermissionDenied) as refused:
        plugin.call("reach", port=servers[1].port)
    error = refused.value
    target = f"127.0.0.1:{servers[1].port}"
    assert (error.permission, error.target, error.layer) == ("net.connect", target, "broker")
    assert error.hint == f'net.connect = ["{target}"]'


@pytest.mark.parametrize(
    ("grant", "reached"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.0/8"], True),
        (["*"], False),
        ([{"target": "*", "private": True}], True),
    ],
)
def test_a_grant_of_everything_opens_no_private_address_that_is_asked_for(
    attacker: Any, servers: tuple[Server, Server], grant: list[Any], reached: bool
) -> None:
    worker = attacker(
        permissions={"net.connect": [f"127.0.0.1:{servers[0].port}"]}, grants=host.Grant({"net.connect": grant})
    )
    outcome = worker.attempt(CLIENTS["socket.create_connection"], name="127.0.0.1", port=servers[0].port)
    assert (outcome == "hello", servers[0].met) == (reached, int(reached))


def test_a_deny_rule_wins_by_address(attacker: Any, servers: tuple[Server, Server]) -> None:
    worker = attacker(
        permissions={"net.connect": [f"localhost:{servers[0].port}"]}, deny={"net.connect": ["127.0.0.0/8", "[::1]"]}
    )
    assert worker.is_stopped(CLIENTS["socket.create_connection"], name="localhost", port=servers[0].port)
    assert servers[0].met == 0


NO_WAY: Final = {
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "MPTCP": "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",
    "unix": "socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "fast open": "socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', port))",
    "an address for sendmsg": "socket.socket().sendmsg([b'x'], [], 0x20000000, ('127.0.0.1', port))",
    "binding": "socket.socket().bind(('127.0.0.1', 0))",
    "listening": "socket.socket().listen()",
    "a name in a tuple": "socket.socket().connect(('elsewhere.example', port))",
    "looking a name up": "socket.getaddrinfo('elsewhere.example', port)",
    "looking a name up by its old name": "socket.gethostbyname('elsewhere.example')",
    "looking an address up": "socket.gethostbyaddr('127.0.0.1')",
    "a subclass": "socket.socket().connect(type('T', (tuple,), {})(('127.0.0.1', port)))",
    "another spelling of an address": "socket.socket().connect(('127.1', port))",
}


@pytest.mark.parametrize("way", NO_WAY)
def test_a_grant_of_one_server_opens_no_other_way(attacker: Any, servers: tuple[Server, Server], way: str) -> None:
    worker = attacker(permissions={"net.connect": [f"127.0.0.1:{servers[0].port}", "*.cdn.example:443"]})
    assert worker.is_stopped(f"import socket; {NO_WAY[way]}", port=servers[1].port)
    assert servers[1].met == 0


def test_a_broker_that_died_is_replaced_with_its_workers(attacker: Any, servers: tuple[Server, Server]) -> None:
    worker = attacker(permissions={"net.connect": [f"127.0.0.1:{servers[0].port}"]})
    broker = worker.plugin._owner._workers._broker
    os.kill(broker.pid, 9)
    broker._process.wait()
    assert worker.run(CLIENTS["http.client"], name="127.0.0.1", port=servers[0].port) == "hello"
    assert worker.plugin.restarts == 1


def test_a_server_listens_where_it_is_granted(plugin_from: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plugin = plugin_from(
        """
        import asyncio
        @hookimpl
        def serve(port):
            async def main():
                async def met(reader, writer):
                    writer.write(b"hello")
                    await writer.drain()
                    writer.close()
                    done.set()
                done = asyncio.Event()
                server = await asyncio.start_server(met, "127.0.0.1", port)
                await done.wait()
                server.close()
            asyncio.run(main())
            return "served"
        """,
        permissions={"net.listen": [f"127.0.0.1:{port}"]},
        limits={"call_timeout": "20 s"},
    )
    said = []
    caller = threading.Thread(target=lambda: said.append(plugin.call("serve", port=port)))
    caller.start()
    data = b""
    while not data and caller.is_alive():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            data = client.recv(99)
    caller.join()
    assert (data, said) == (b"hello", ["served"])


AROUND: Final = """
import ctypes, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
where = struct.pack("=HH4s8x", 2, socket.htons(port), bytes((127, 0, 0, 1)))
number = libc.socket(2, 1, 0)
result = libc.connect(number, where, len(where)) and ctypes.get_errno()
libc.close(number)
"""
"""A connection that raises no audit event: 0, or the errno."""


@pytest.mark.parametrize("target", [None, "127.0.0.1:{}"])
def test_what_is_dropped_is_refused_by_the_hook_at_once_and_by_the_broker_from_the_next_call_on(
    attacker: Any, servers: tuple[Server, Server], target: str | None
) -> None:
    first, second = (server.port for server in servers)
    worker = attacker(permissions={"net.connect": [f"127.0.0.1:{first}", f"127.0.0.1:{second}"], "native": ["ctypes"]})
    assert worker.run(AROUND, port=first) == 0
    drop = "from sandbox_worker.plugin_api import permissions; permissions.drop('net.connect'{})"
    given = f", {target.format(first)!r}" if target else ""
    outcome = worker.reason(f"{drop.format(given)}\nimport socket; socket.create_connection(('127.0.0.1', {first}))")
    assert outcome == ("PermissionDenied", "net.connect", 13)
    assert worker.run(AROUND, port=first) == errno.EACCES
    left = [f"127.0.0.1:{second}"] if target else []
    assert list(worker.plugin.permissions.get("net.connect", ())) == left
    assert worker.run(AROUND, port=second) == (0 if target else errno.EACCES)
    assert {record.reason for record in worker.plugin.denials()} == {"dropped"}
    worker.plugin.restart()
    assert worker.is_stopped(f"import socket; socket.create_connection(('127.0.0.1', {first}))")


def test_without_a_grant_there_is_no_broker(attacker: Any) -> None:
    assert attacker().plugin._owner._workers._broker is None
