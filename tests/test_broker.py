"""The broker against a worker without an audit hook: code that does what native code could."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from walls_driver import LIKE_DOCKER, PATIENCE, Host, Worker, need, read_all

from host.errors import HostError
from host.run import interpreter
from host.run.broker import Broker, BrokerGone
from sandbox_worker.messages import events_of

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIANTS: Final = ["pidfd_getfd", "addfd"]
PROLOGUE: Final = """
import ctypes, errno, fcntl, os, socket, struct, sys, threading
def say(text):
    os.write(4, str(text).encode())
def attempt(work):
    try:
        result = work()
    except OSError as error:
        say(errno.errorcode.get(error.errno, error.errno))
    else:
        say("ok" if result is None else result)
def connect(where, family=socket.AF_INET, timeout=None):
    made = socket.socket(family)
    made.settimeout(timeout)
    made.connect(where)
    return made
"""


class Network:
    """A broker, a spawner, and workers between them. `replace` makes the broker use sockets of its own."""

    def __init__(self, *, replace: bool) -> None:
        self.spawner = Host()
        self.broker = Broker(interpreter.find())
        self.replace = replace

    def start(
        self,
        code: str,
        *,
        connect: tuple[str, ...] = (),
        listen: tuple[str, ...] = (),
        names: bool = False,
        readable: list[list[str]] | None = None,
        writes: tuple[str, ...] = (),
        deny: tuple[str, ...] = (),
    ) -> tuple[Worker, int]:
        """A worker with these rules that runs `code`; and the pipe of what it is refused.

        With `writes`, of which `deny` is no part, the broker answers for metadata and locks too; `readable` are the
        kernel's rules for files.
        """
        unix = any(rule.startswith("unix:") for rule in (*connect, *listen))
        asked = (("connect", connect), ("listen", listen), ("names", names), ("unix", unix))
        brokered = [name for name, wanted in asked if wanted] + (["metadata", "locks"] if writes else [])
        layer = [["net.connect", text, False] for text in connect] + [["net.listen", text, False] for text in listen]
        policy = {
            "layers": [layer],
            "deny": [["fs.write", text, False] for text in deny],
            "writes": [["fs.write", text, False] for text in writes],
        }
        _, channel, refusals = self.broker.serve(policy, replace=self.replace)
        pipes = [os.pipe() for _ in range(4)]
        theirs = (pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1], channel)
        wanted = {
            "argv": [self.spawner.interpreter, "-I", "-S", "-B", "-c", PROLOGUE + code],
            "env": {"LC_CTYPE": "C.UTF-8"},
            "cwd": "/",
            "rules": readable or [],
            "limits": {},
            "named": False,
            "forks": False,
            "tier": "confined" if self.spawner.ready["landlock_abi"] else "filtered",
            "brokered": brokered,
            "broker": self.broker.pid,
        }
        self.spawner.send("spawn", wanted, descriptors=theirs)
        for descriptor in theirs:
            os.close(descriptor)
        kind, pid = self.spawner.receive()
        assert kind == "spawned", pid
        worker = Worker(pid, os.pidfd_open(pid), pipes[0][1], pipes[1][0], pipes[2][0], pipes[3][0])
        self.spawner._workers.append(worker)
        return worker, refusals

    def run(self, code: str, **rules: Any) -> tuple[str, list[tuple[str, str]]]:
        """Run `code` to its end: (what it said, what the broker refused as (kind, target))."""
        worker, refusals = self.start(code, **rules)
        said = read_all(worker.replies).decode()
        log = read_all(worker.log).decode()
        self.spawner.reap(worker)
        assert not log, log
        with contextlib.suppress(BlockingIOError):
            return said, [event[:2] for event in events_of(os.read(refusals, 65536))[0]] + self._close(refusals)
        return said, self._close(refusals)

    @staticmethod
    def _close(descriptor: int) -> list[Any]:
        os.close(descriptor)
        return []

    def close(self) -> None:
        """End both."""
        self.spawner.close()
        self.broker.close()


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    made = Network(replace=request.param == "addfd")
    try:
        variant, _ = made.broker.abilities
        need(variant != "handed", "seccomp notifications")
        need(made.replace or variant == "pidfd_getfd", "pidfd_getfd")
        need(made.spawner.ready["seccomp"], "seccomp")
        yield made
    finally:
        made.close()


class Peer:
    """A listener that says hello to everyone, and counts them."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = self._listener.getsockname()[1]
        self.met = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                met, _ = self._listener.accept()
                self.met += 1
                with met:
                    met.sendall(b"hello")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.mark.parametrize("timeout", [None, 5])
def test_a_granted_address_is_reached(network: Network, peer: Peer, timeout: int | None) -> None:
    code = f"attempt(lambda: connect(('127.0.0.1', {peer.port}), timeout={timeout}).recv(9).decode())"
    assert network.run(code, connect=(f"127.0.0.1:{peer.port}",)) == ("hello", [])


def test_an_ipv4_address_in_ipv6_is_that_address(network: Network, peer: Peer) -> None:
    code = f"attempt(lambda: connect(('::ffff:127.0.0.1', {peer.port}), socket.AF_INET6).recv(9).decode())"
    assert network.run(code, connect=(f"127.0.0.1:{peer.port}",)) == ("hello", [])


@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize(
    "where", ["('127.0.0.2', {port})", "('127.0.0.1', {other})", "('0.0.0.0', {port})", "('10.0.0.1', {port})"]
)
def test_another_address_or_port_is_refused_reported_and_not_reached(
    network: Network, peer: Peer, where: str, timeout: int | None
) -> None:
    other = Peer()
    try:
        where = where.format(port=peer.port, other=other.port)
        said, refused = network.run(
            f"attempt(lambda: connect({where}, timeout={timeout}))", connect=(f"127.0.0.1:{peer.port}",)
        )
    finally:
        other.close()
    host, port = eval(where)
    assert (said, refused) == ("EACCES", [("net.connect", f"{host}:{port}")])
    assert (peer.met, other.met) == (0, 0)


def test_the_error_of_a_connection_is_its_own(network: Network) -> None:
    closed = socket.create_server(("127.0.0.1", 0))
    port = closed.getsockname()[1]
    closed.close()
    code = f"attempt(lambda: connect(('127.0.0.1', {port})))"
    assert network.run(code, connect=("127.0.0.1",)) == ("ECONNREFUSED", [])


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("struct.pack('=H', 0) + bytes(14)", "EACCES"),  # AF_UNSPEC takes a socket's peer away
        ("struct.pack('=H', 1) + b'/run/x' + bytes(20)", "EACCES"),
        ("struct.pack('=H', 2) + bytes(4)", "EACCES"),
        ("bytes(200)", "EINVAL"),
        ("b''", "EACCES"),
    ],
)
def test_what_is_no_internet_address_is_refused(network: Network, address: str, answer: str) -> None:
    code = f"""
libc = ctypes.CDLL(None, use_errno=True)
made, raw = socket.socket(), {address}
def work():
    if libc.connect(made.fileno(), raw, len(raw)):
        raise OSError(ctypes.get_errno(), "")
attempt(work)
"""
    assert network.run(code, connect=("127.0.0.1",))[0] == answer


def test_a_pointer_to_nowhere_is_an_error(network: Network) -> None:
    code = """
libc = ctypes.CDLL(None, use_errno=True)
made = socket.socket()
def work():
    if libc.connect(made.fileno(), ctypes.c_void_p(4096), 16):
        raise OSError(ctypes.get_errno(), "")
attempt(work)
"""
    assert network.run(code, connect=("127.0.0.1",))[0] in ("EFAULT", "EIO")


def test_a_pair_of_sockets_is_connected_nowhere(network: Network, peer: Peer) -> None:
    """Where sockets are replaced it becomes one to the granted address, which the worker may have anyway."""
    code = f"""
one, _ = socket.socketpair()
libc = ctypes.CDLL(None, use_errno=True)
raw = struct.pack("=H", 2) + struct.pack(">H", {peer.port}) + bytes((127, 0, 0, 1)) + bytes(8)
def work():
    if libc.connect(one.fileno(), raw, 16):
        raise OSError(ctypes.get_errno(), "")
attempt(work)
"""
    said, _ = network.run(code, connect=(f"127.0.0.1:{peer.port}",))
    assert said == ("ok" if network.replace else "EACCES")


def test_an_address_that_changes_while_it_is_decided_leads_nowhere_else(network: Network, peer: Peer) -> None:
    """One thread rewrites the port and swaps the descriptor, another connects: the other listener meets no one."""
    other = Peer()
    code = f"""
libc = ctypes.CDLL(None, use_errno=True)
good, bad = (struct.pack(">H", port) for port in ({peer.port}, {other.port}))
raw = bytearray(struct.pack("=H", 2) + good + bytes((127, 0, 0, 1)) + bytes(8))
view = (ctypes.c_char * 16).from_buffer(raw)
stop = False
def flip():
    while not stop:
        raw[2:4] = bad
        raw[2:4] = good
flipper = threading.Thread(target=flip)
flipper.start()
for _ in range(400):
    made = socket.socket()
    libc.connect(made.fileno(), view, 16)
    made.close()
stop = True
flipper.join()
say("done")
"""
    try:
        said, refused = network.run(code, connect=(f"127.0.0.1:{peer.port}",))
    finally:
        other.close()
    assert said == "done"
    assert other.met == 0
    assert {target for _, target in refused} <= {f"127.0.0.1:{other.port}"}


def test_a_worker_holds_no_notification_descriptor_and_can_not_answer_itself(network: Network) -> None:
    code = """
held = []
for number in range(3, 256):
    try:
        os.fstat(number)
        held.append(number)
    except OSError:
        pass
say(held)
"""
    assert network.run(code, connect=("127.0.0.1",))[0] == "[3, 4, 5]"


def test_a_connection_that_hangs_does_not_hold_up_another(network: Network, peer: Peer) -> None:
    """A listener whose queue is full answers nothing: the blocking connect to it waits in the broker."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as stack:
        port = full.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        code = f"""
threading.Thread(target=connect, args=(("127.0.0.1", {port}),), daemon=True).start()
attempt(lambda: connect(("127.0.0.1", {peer.port})).recv(9).decode())
sys.stdout.flush()
os._exit(0)
"""
        assert network.run(code, connect=("127.0.0.1",))[0] == "hello"


def test_without_a_broker_nothing_is_reached(network: Network, peer: Peer) -> None:
    code = f"say('up')\nos.read(3, 1)\nattempt(lambda: connect(('127.0.0.1', {peer.port})))"
    worker, refusals = network.start(code, connect=(f"127.0.0.1:{peer.port}",))
    assert os.read(worker.replies, 2) == b"up"
    os.kill(network.broker.pid, signal.SIGKILL)
    network.broker._process.wait()
    os.write(worker.calls, b"x")
    assert read_all(worker.replies) == b"ENOSYS"
    assert peer.met == 0
    assert not network.broker.alive
    with pytest.raises(BrokerGone):
        network.broker.serve({"layers": [[["net.connect", "*", False]]], "deny": []})
    os.close(refusals)


@pytest.mark.parametrize("timeout", [None, 0])
def test_a_second_connect_is_one_of_the_same_socket(network: Network, peer: Peer, timeout: int | None) -> None:
    """gevent, eventlet and Twisted ask so whether a socket has connected."""
    code = f"""
import select
made = socket.socket()
made.settimeout({timeout})
first = made.connect_ex(('127.0.0.1', {peer.port}))
select.select([], [made], [])
assert first in (0, errno.EINPROGRESS)
second = made.connect_ex(('127.0.0.1', {peer.port}))
assert second in (0, errno.EISCONN), second  # 0 tells once that it has connected
select.select([made], [], [])
say(made.recv(9).decode())
"""
    assert network.run(code, connect=(f"127.0.0.1:{peer.port}",)) == ("hello", [])
    assert peer.met == 1


def test_a_socket_whose_connection_failed_may_try_again(network: Network, peer: Peer) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        code = f"""
made = socket.socket()
first = made.connect_ex(('127.0.0.1', {port}))
second = made.connect_ex(('127.0.0.1', {peer.port}))
say(errno.errorcode[first] + " " + str(second) + " " + made.recv(9).decode())
"""
        assert network.run(code, connect=("127.0.0.1",)) == ("ECONNREFUSED 0 hello", [])


def test_a_bound_socket_that_connects_ends_with_the_workers_descriptor(network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
made = socket.socket()
made.bind(('127.0.0.1', 0))
made.connect({server.getsockname()})
made.close()
say(os.read(3, 1))
"""
        worker, refusals = network.start(code, connect=("127.0.0.1",), listen=("127.0.0.1",))
        met, _ = server.accept()
        with met:
            met.settimeout(PATIENCE)
            assert met.recv(1) == b""  # the worker still lives
        os.write(worker.calls, b"x")
        assert read_all(worker.replies) == b"b'x'"
        os.close(refusals)


# --- listeners


def test_listening_twice_is_listening(network: Network) -> None:
    """asyncio does it with a socket that it is given."""
    code = """
made = socket.create_server(("127.0.0.1", 0))
made.listen(7)
other = connect(made.getsockname())
met, _ = made.accept()
met.sendall(b"x")
say(other.recv(1).decode())
"""
    rules = {"connect": ("127.0.0.1",), "listen": ("127.0.0.1",)}
    assert network.run(code, **rules) == ("x", [])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_granted_address_is_listened_on(network: Network) -> None:
    port = free_port()
    code = f"""
made = socket.socket()
made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
made.bind(("127.0.0.1", {port}))
made.listen()
say("ready")
met, _ = made.accept()
met.sendall(b"from inside")
met.close()
made.close()
again = socket.socket()
again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
again.bind(("127.0.0.1", {port}))
again.listen()
say("again")
"""
    worker, refusals = network.start(code, listen=(f"127.0.0.1:{port}",))
    assert os.read(worker.replies, 99) == b"ready"
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        assert client.recv(99) == b"from inside"
    assert read_all(worker.replies) == b"again"
    os.close(refusals)


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("socket.socket().listen()", "0.0.0.0:0"),
        ("socket.socket().bind(('127.0.0.1', {other}))", "127.0.0.1:{other}"),
        ("socket.socket().bind(('0.0.0.0', {port}))", "0.0.0.0:{port}"),
        ("socket.socket().bind(('127.0.0.2', {port}))", "127.0.0.2:{port}"),
        ("socket.socket().bind(('127.0.0.1', 0))", "127.0.0.1:0"),
        ("socket.socket(socket.AF_INET6).bind(('::', {port}))", "[::]:{port}"),
    ],
)
def test_another_listener_is_refused_and_reported(network: Network, code: str, target: str) -> None:
    ports = {"port": free_port(), "other": free_port()}
    rule = f"127.0.0.1:{ports['port']}"
    said, refused = network.run(f"attempt(lambda: {code.format(**ports)})", listen=(rule,))
    assert (said, refused) == ("EACCES", [("net.listen", target.format(**ports))])


def test_an_ipv6_listener_takes_ipv4_with_a_rule_for_it_alone(network: Network) -> None:
    need(socket.has_dualstack_ipv6(), "IPv6")
    if network.replace:
        pytest.skip("a socket of the broker's own is IPv6 alone")
    port = free_port()
    code = f"""
made = socket.socket(socket.AF_INET6)
made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
attempt(lambda: made.bind(("::", {port})))
"""
    assert network.run(code, listen=(f"[::]:{port}",)) == ("EACCES", [("net.listen", f"0.0.0.0:{port}")])
    assert network.run(code, listen=(f"[::]:{port}", f"0.0.0.0:{port}"))[0] == "ok"


def test_a_port_can_not_be_shared(network: Network) -> None:
    code = "attempt(lambda: socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1))"
    assert network.run(code, listen=("127.0.0.1",))[0] == "ENOPROTOOPT"


def test_a_grant_to_listen_is_none_to_connect(network: Network, peer: Peer) -> None:
    code = f"attempt(lambda: connect(('127.0.0.1', {peer.port})))"
    assert network.run(code, listen=("127.0.0.1",))[0] == "EPERM"
    assert peer.met == 0


# --- names

READ = """
def read(path):
    with open(path) as file:
        return file.read()
"""


def test_a_worker_with_names_reads_a_hosts_file_of_what_it_may_reach(network: Network) -> None:
    code = f"{READ}\nattempt(lambda: read('/etc/hosts'))"
    said, refused = network.run(code, connect=("localhost:80", "no-such-name.invalid"), names=True)
    lines = [line.split() for line in said.splitlines()]
    assert lines
    assert {name for _, name in lines} == {"localhost"}
    assert {address for address, _ in lines} <= {"127.0.0.1", "::1"}
    assert refused == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc/nsswitch.conf", "hosts: files\n"),
        ("/etc/resolv.conf", "ENOENT"),
        ("/etc/gai.conf", "ENOENT"),
        ("/etc//hosts", "EACCES"),
        ("/etc/passwd", "EACCES"),
        ("/proc/self/plughold-resolve/localhost", "ENOENT"),
        ("/proc/self/plughold-resolve/LOCALHOST.", "ENOENT"),
        ("/proc/self/plughold-resolve/other.example", "EACCES"),
        ("/proc/self/plughold-resolve/127.0.0.1", "EACCES"),
        ("/proc/self/plughold-resolve/../../etc/passwd", "EPERM"),
    ],
)
def test_the_files_of_the_resolver_are_the_brokers_and_all_others_are_landlocks(
    network: Network, path: str, said: str
) -> None:
    need(network.spawner.ready["landlock_abi"], "Landlock")
    assert network.run(f"{READ}\nattempt(lambda: read({path!r}))", connect=("localhost",), names=True)[0] == said


def test_the_hosts_file_can_not_be_written_to(network: Network) -> None:
    code = "attempt(lambda: os.write(os.open('/etc/hosts', os.O_RDWR), b'10.0.0.1 localhost'))"
    assert network.run(code, connect=("localhost",), names=True)[0] == "EBADF"


def test_the_c_library_resolves_a_name_by_itself(network: Network, peer: Peer) -> None:
    code = f"attempt(lambda: connect(('localhost', {peer.port})).recv(9).decode())"
    assert network.run(code, connect=("localhost",), names=True) == ("hello", [])


def test_a_name_that_the_worker_did_not_ask_for_opens_no_address(network: Network, peer: Peer) -> None:
    code = f"attempt(lambda: connect(('127.0.0.1', {peer.port})))"
    assert network.run(code, connect=("*.example",), names=True)[0] == "EACCES"
    assert peer.met == 0


# --- the process


def test_a_policy_that_makes_no_sense_serves_no_one_and_is_no_end(network: Network) -> None:
    _, channel, refusals = network.broker.serve({"layers": [], "deny": [], "writes": []})
    with socket.socket(fileno=channel) as worker:
        worker.settimeout(20)
        assert worker.recv(1) == b""  # its lockdown fails: nobody takes its listener
    os.close(refusals)
    assert network.broker.abilities


def test_what_is_narrowed_is_refused_at_once_and_what_is_left_goes_on(network: Network, peer: Peer) -> None:
    allow = {"layers": [[["net.connect", "*", False]]], "deny": [], "writes": []}
    number, channel, refusals = network.broker.serve(allow)
    try:
        network.broker.narrow(number, {**allow, "layers": [[]]})
        with pytest.raises(HostError, match="can't narrow"):
            network.broker.narrow(number, {"layers": [], "deny": [], "writes": []})
    finally:
        os.close(channel)
        os.close(refusals)
    network.broker.narrow(number, allow)  # whose worker is gone: nothing to do
    assert network.broker.alive


def test_under_the_refusals_of_a_container_engine_sockets_are_replaced() -> None:
    import subprocess
    import sys

    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n{LIKE_DOCKER}\n"
        "from sandbox_worker.broker.server import find_variant; print(find_variant()[0])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() in ("addfd", "handed")
    need(found.stdout.strip() == "addfd", "seccomp notifications")


def test_an_address_of_localhost_is_localhost_unasked(network: Network, peer: Peer) -> None:
    """libcurl knows the two addresses of localhost, and looks nothing up."""
    rules = (f"localhost:{peer.port}",)
    for where, said in (("127.0.0.1", "hello"), ("127.0.0.2", "EACCES")):
        code = f"attempt(lambda: connect(({where!r}, {peer.port})).recv(9).decode())"
        assert network.run(code, connect=rules, names=True)[0] == said
