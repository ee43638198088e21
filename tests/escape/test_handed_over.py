"""Network grants where the kernel can't ask the broker: Python code reaches what is granted, and nothing more.

In tier `hooked` no kernel layer is beneath, and the audit hook refuses what goes past the broker.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from network_driver import CLIENTS, UNIX_CLIENTS, Server, UnixServer, at, require
from network_driver import UNIX_SERVER as SERVE
from until import until

import host
from host.run.spawner import Spawner

if TYPE_CHECKING:
    from collections.abc import Iterator

WALLED: Final = ["confined", "walled"]
TIERS: Final = [*WALLED, "hooked"]
LIBC: Final = """
import ctypes, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
where = struct.pack("=HH4s8x", 2, socket.htons(port), bytes((127, 0, 0, 1)))
number = libc.socket(2, 1, 0)
result = []
for call in (libc.connect, libc.bind, libc.listen):
    result.append(call(number, where, len(where)) and ctypes.get_errno())
result.append(libc.sendto(number, b"x", 1, 0x20000000, where, len(where)) and ctypes.get_errno())
"""


@pytest.fixture(autouse=True)
def handed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every spawner of this test answers as on a machine without notifications."""
    original = Spawner.__init__

    def begin(self: Spawner, interpreter: Any, **options: Any) -> None:
        original(self, interpreter, **options)
        self.abilities["notifications"] = False

    monkeypatch.setattr(Spawner, "__init__", begin)


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """One that is granted, one that is not."""
    both = Server(), Server()
    yield both
    for server in both:
        server.close()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reaches_a_granted_server_and_no_other(
    attacker: Any, servers: tuple[Server, Server], client: str, name: str, tier: str
) -> None:
    permissions = {"net.connect": [f"{name}:{servers[0].port}"]}
    worker = at(attacker, tier, permissions=permissions, **require(client))
    assert worker.run(CLIENTS[client], name=name, port=servers[0].port) == "hello"
    assert worker.is_stopped(CLIENTS[client], name=name, port=servers[1].port)
    assert (servers[0].met, servers[1].met) == (1, 0)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("client", UNIX_CLIENTS)
def test_a_client_reaches_a_granted_unix_socket_and_no_other(attacker: Any, client: str, tier: str) -> None:
    with tempfile.TemporaryDirectory(prefix="plughold-", dir="/tmp") as folder:
        granted, other = (UnixServer(f"{os.path.realpath(folder)}/{name}") for name in ("granted", "other"))
        try:
            worker = at(attacker, tier, permissions={"net.connect": [f"unix:{granted.path}"]})
            assert worker.run(UNIX_CLIENTS[client], path=granted.path) == "hello"
            assert worker.is_stopped(UNIX_CLIENTS[client], path=other.path)
            assert (granted.met, other.met) == (1, 0)
        finally:
            granted.close()
            other.close()


@pytest.mark.parametrize("tier", WALLED)
def test_native_code_reaches_nothing(attacker: Any, servers: tuple[Server, Server], tier: str) -> None:
    permissions = {
        "net.connect": [f"127.0.0.1:{servers[0].port}"],
        "net.listen": [f"127.0.0.1:{servers[0].port}"],
        "native": ["ctypes"],
    }
    worker = at(attacker, tier, permissions=permissions)
    assert worker.run(LIBC, port=servers[0].port) == [1, 1, 1, 1]
    assert servers[0].met == 0


@pytest.mark.parametrize("tier", TIERS)
def test_what_the_broker_refuses_is_its_own_word(attacker: Any, servers: tuple[Server, Server], tier: str) -> None:
    worker = at(attacker, tier, permissions={"net.connect": [f"*.example:{servers[1].port}"]})
    code = "import socket; socket.socket().connect(('127.0.0.1', port))"
    assert worker.reason(code, port=servers[1].port) == ("PermissionError", "", 13)
    [record] = worker.plugin.denials()
    assert (record.layer, record.origin) == ("broker", "host")
    assert record.permission.target == f"127.0.0.1:{servers[1].port}"
    assert servers[1].met == 0


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("way", ["socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyname_ex"])
def test_a_name_that_is_not_granted_is_not_looked_up(attacker: Any, way: str, tier: str) -> None:
    worker = at(attacker, tier, permissions={"net.connect": ["localhost:80"]})
    rest = ", 80" if way.endswith("info") else ""
    assert worker.is_denied(f"import socket; {way}('elsewhere.example'{rest})")
    assert "127.0.0.1" in str(worker.run(f"import socket; result = repr({way}('localhost'{rest}))"))


@pytest.mark.parametrize("tier", TIERS)
def test_a_timeout_and_an_error_are_those_of_a_connection(attacker: Any, tier: str) -> None:
    with socket.socket() as full, socket.socket() as closed:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        closed.bind(("127.0.0.1", 0))
        waiting = [socket.create_connection(full.getsockname()) for _ in range(1)]
        worker = at(attacker, tier, permissions={"net.connect": ["127.0.0.1"]})
        code = """
import socket
client = socket.socket()
client.settimeout(timeout / 100)
client.connect(('127.0.0.1', port))
"""
        port = full.getsockname()[1]
        assert worker.reason(code, port=port, timeout=20)[0] == "TimeoutError"
        for timeout in (0, 500):
            kind = worker.reason(code, port=closed.getsockname()[1], timeout=timeout)[0]
            assert kind == ("ConnectionRefusedError" if timeout else "BlockingIOError")
        code = "import socket; result = socket.socket().connect_ex(('127.0.0.1', port))"
        assert worker.run(code, port=closed.getsockname()[1]) == 111
        for client in waiting:
            client.close()


@pytest.mark.parametrize("tier", TIERS)
def test_asyncio_serves_where_it_is_granted(plugin_from: Any, must_work: Any, tier: str) -> None:
    with tempfile.TemporaryDirectory(prefix="plughold-", dir="/tmp") as data:
        permissions = {"net.listen": ["unix:${data}/s"], "fs.write": ["${data}"]}
        try:
            options = {"tier": tier, "minimum_tier": tier, "limits": {"call_timeout": "20 s"}}
            plugin = plugin_from(SERVE, data=data, permissions=permissions, **options)
        except host.LockdownUnavailable as e:
            must_work(False, str(e))
        path = os.path.realpath(f"{data}/{plugin.__name__}/s")
        answers = []

        def meet() -> None:
            while not answers:
                with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
                    client.settimeout(30)
                    client.connect(path)
                    client.sendall(b"hello")
                    answers.append(client.recv(9))

        thread = threading.Thread(target=meet)
        thread.start()
        try:
            assert plugin.call("serve", path=path) == path
        finally:
            thread.join()
        assert answers == [b"HELLO"]


@pytest.mark.parametrize("tier", TIERS)
def test_a_tcp_server_listens_on_its_port_alone(attacker: Any, tier: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    worker = at(attacker, tier, permissions={"net.listen": [f"127.0.0.1:{port}"]})
    code = "import socket\nkept = socket.create_server(('127.0.0.1', port))\nresult = kept.getsockname()[1]"
    assert worker.run(code, port=port) == port
    bind = "import socket; socket.socket().bind(('127.0.0.1', port))"
    assert worker.is_denied(bind, port=port + 1 if port < 65535 else port - 1)
    assert worker.is_stopped("import socket; socket.socket().listen()")


HOSTILE: Final = {
    "nothing": "send(b'')",
    "noise": "send(b'\\xff' * 600, 1)",
    "no way back": "send(b'c' + address)",
    "no socket": "send(b'c' + address, theirs.fileno())",
    "a file": "send(b'c' + address, theirs.fileno(), os.open('/dev/null', 0))",
    "the events": "send(b'c' + address, theirs.fileno(), 5)",
    "a pair": "send(b'c' + address, theirs.fileno(), theirs.fileno())",
    "the channel": "send(b'c' + address, 6, 6)",
    "a short address": "send(b'c' + address[:5], theirs.fileno(), made.fileno())",
    "no address": "send(b'c' + bytes(16), theirs.fileno(), made.fileno())",
    "an abstract socket": "send(b'c\\x01\\x00\\x00name', theirs.fileno(), made.fileno())",
    "many descriptors": "send(b'c' + address, *[theirs.fileno()] * 30)",
    "an unbound listener": "send(b'l' + bytes(4), theirs.fileno(), made.fileno())",
    "a name that is none": "send(b'n' + b'\\xff' * 400, theirs.fileno())",
    "another name": "send(b'nelsewhere.example', theirs.fileno())",
}


PAST: Final = {
    "connect": "_socket.socket(2, 1, 0).connect(where)",
    "connect_ex": "_socket.socket(2, 1, 0).connect_ex(where)",
    "the method of the base": "_socket.socket.connect(socket.socket(), where)",
    "a socket of a descriptor": "_socket.socket(fileno=socket.socket().detach()).connect(where)",
    "a name": "_socket.socket.connect(socket.socket(), ('localhost', port))",
    "bind": "_socket.socket.bind(socket.socket(), where)",
    "a unix socket": "_socket.socket.connect(socket.socket(socket.AF_UNIX), path)",
    "fast open": "socket.socket().sendto(b'x', 0x20000000, where)",
    "an address for sendmsg": "socket.socket().sendmsg([b'x'], [], 0x20000000, where)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "MPTCP": "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "unix datagrams": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', path)",
    "a reverse look-up": "socket.gethostbyaddr('127.0.0.1')",
}
"""Ways that are no call handed over, to what is granted."""


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("everything", [False, True])
def test_what_goes_past_the_broker_reaches_not_even_what_is_granted(
    attacker: Any, servers: tuple[Server, Server], tier: str, everything: bool
) -> None:
    """By an address rule, and by a name's, under which the hook's text alone would let any address pass."""
    with tempfile.TemporaryDirectory(prefix="plughold-", dir="/tmp") as folder:
        unix = UnixServer(f"{os.path.realpath(folder)}/s")
        where: list[Any] = [f"127.0.0.1:{servers[0].port}", f"localhost:{servers[0].port}"]
        permissions = {"net.connect": [*where, f"unix:{unix.path}"], "net.listen": where}
        if everything:
            permissions = {"net.connect": [{"target": "*", "private": True}]}
        try:
            worker = at(attacker, tier, permissions=permissions)
            for way, code in PAST.items():
                prologue = "import _socket, socket; where = ('127.0.0.1', port); result = "
                outcome = worker.reason(prologue + code, port=servers[0].port, path=unix.path)
                assert outcome[0] in ("PermissionDenied", "PermissionError", "gaierror"), (way, outcome)
            assert (servers[0].met, unix.met) == (0, 0)
            assert worker.run(CLIENTS["http.client"], name="localhost", port=servers[0].port) == "hello"
        finally:
            unix.close()


def test_a_refusal_past_the_broker_says_which_way_leads_there(attacker: Any, servers: tuple[Server, Server]) -> None:
    worker = at(attacker, "hooked", permissions={"net.connect": [f"127.0.0.1:{servers[0].port}"]})
    past = "import _socket; _socket.socket(2, 1, 0).connect(('127.0.0.1', port))"
    assert "the methods of socket.socket hand a call over" in worker.attempt(past, port=servers[0].port)[3]
    assert not worker.is_stopped("import socket; socket.socket().connect(('127.0.0.1', port))", port=servers[0].port)


@pytest.mark.parametrize("tier", TIERS)
def test_what_is_dropped_is_refused_at_once_and_by_the_broker_from_the_next_call_on(
    attacker: Any, servers: tuple[Server, Server], tier: str
) -> None:
    first, second = (server.port for server in servers)
    worker = at(attacker, tier, permissions={"net.connect": [f"127.0.0.1:{first}", f"127.0.0.1:{second}"]})
    drop = f"from sandbox_worker.plugin_api import permissions; permissions.drop('net.connect', '127.0.0.1:{first}')"
    connect = "import socket; socket.create_connection(('127.0.0.1', {}))"
    assert worker.reason(f"{drop}\n{connect.format(first)}") == ("PermissionDenied", "net.connect", 13)
    packet = """
import socket, struct
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
made = socket.socket()
address = struct.pack("=HH4s8x", 2, socket.htons(port), bytes((127, 0, 0, 1)))
rights = struct.pack("=ii", theirs.fileno(), made.fileno())
socket.socket(fileno=6).sendmsg([b"c" + address], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
result = int.from_bytes(ours.recv(99), "little")
"""
    assert not worker.is_stopped(connect.format(second))
    assert worker.run(packet, port=first) == 13
    assert servers[0].met == 0


@pytest.mark.parametrize("tier", WALLED)
def test_a_plugin_may_run_commands_beside_it(attacker: Any, servers: tuple[Server, Server], tier: str) -> None:
    """The way to the keeper and the way to the broker are two, and neither keeps the other open."""
    program = os.path.realpath("/bin/echo")
    worker = at(attacker, tier, permissions={"net.connect": [f"127.0.0.1:{servers[0].port}"], "run": [program]})
    code = "import subprocess\nresult = subprocess.run([program, 'hi'], capture_output=True, text=True).stdout"
    assert worker.run(code, program=program) == "hi\n"
    assert worker.run(CLIENTS["http.client"], name="127.0.0.1", port=servers[0].port) == "hello"
    broker = worker.plugin._owner._workers._broker
    worker.plugin.close()
    until(lambda: len(os.listdir(f"/proc/{broker.pid}/task")) == 1)


def descriptors_of(pid: int) -> int:
    """How many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("tier", ["confined", "hooked"])
@pytest.mark.parametrize("packet", HOSTILE)
def test_a_plugin_that_speaks_to_the_broker_itself_gets_no_further(
    attacker: Any, servers: tuple[Server, Server], packet: str, tier: str
) -> None:
    """Whatever it sends, it harms no other worker of the same broker, and leaves no descriptor there."""
    worker = at(attacker, tier, permissions={"net.connect": [f"127.0.0.1:{servers[0].port}"]})
    owner = worker.plugin._owner
    code = f"""
import os, socket, struct
channel = socket.socket(fileno=os.dup(6))
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
made = socket.socket()
address = struct.pack("=HH4s8x", 2, socket.htons(port), bytes((127, 0, 0, 1)))
def send(packet, *descriptors):
    rights = b"".join(struct.pack("=i", each) for each in descriptors)
    channel.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [])
{HOSTILE[packet]}
theirs.close()
ours.settimeout(30)
result = list(ours.recv(99))
"""
    broker = owner._workers._broker
    assert worker.run(CLIENTS["http.client"], name="127.0.0.1", port=servers[0].port) == "hello"  # it serves by now
    held = min(descriptors_of(broker.pid) for _ in range(500))  # it may still be closing those of that call
    answer = worker.attempt(code, port=servers[1].port)
    assert answer in ([1, 0, 0, 0], [13, 0, 0, 0], [22, 0, 0, 0], [88, 0, 0, 0], []) or answer[0] in (
        "TimeoutError", "ConnectionResetError", "BrokenPipeError",
    )  # fmt: skip
    assert servers[1].met == 0
    assert broker.alive
    worker.plugin.restart()
    assert worker.run(CLIENTS["http.client"], name="127.0.0.1", port=servers[0].port) == "hello"
    until(lambda: descriptors_of(broker.pid) <= held)


def test_under_another_sandbox_that_takes_the_notifications_this_way_is_found() -> None:
    import subprocess

    from walls_driver import CHECKOUT

    code = "from sandbox_worker.broker.server import find_variant; print(*find_variant())"
    command = [sys.executable, "-m", "tests.under_supervisor", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=200)
    assert not done.returncode, done.stderr
    assert done.stdout.startswith("handed ")
    assert "outer sandbox" in done.stdout


BARE: Final = """
import errno, sys
from sandbox_worker.walls import bpf, linux
linux.prctl(38, 1)
linux.install_filter(
    bpf.compile_filter({"seccomp": bpf.fail_with(errno.ENOSYS)}, bpf.ALLOW, linux.ARCHITECTURE).patch({})
)
import host
with host.PluginHost("tests", grants="requested", minimum_tier="hooked") as plugins:
    plugin = plugins.load(sys.argv[1])
    print(plugins.tier, plugin.call("reach", port=int(sys.argv[2])))
"""


def test_a_machine_without_filters_has_networks_too(plugin_from: Any, servers: tuple[Server, Server]) -> None:
    import subprocess

    from walls_driver import CHECKOUT

    source = """
        import socket
        @hookimpl
        def reach(port):
            with socket.create_connection(("127.0.0.1", port), 30) as client:
                client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                return client.makefile().read()[-5:]
        """
    manifest = plugin_from.manifest(source, permissions={"net.connect": [f"127.0.0.1:{servers[0].port}"]})
    command = [sys.executable, "-c", BARE, str(manifest), str(servers[0].port)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout == "hooked hello\n", done.stderr
