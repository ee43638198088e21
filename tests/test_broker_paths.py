"""Unix sockets by path, against a worker without an audit hook: code that does what native code could."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from network_driver import UnixServer as Server
from test_broker import VARIANTS, Network
from until import until
from walls_driver import need

from sandbox_worker.broker import paths
from sandbox_worker.walls import landlock

if TYPE_CHECKING:
    from collections.abc import Iterator

ATTACH: Final = """
def unix(path, timeout=None):
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(timeout)
    made.connect(path)
    return made
def serve(path):
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen()
    return made
"""


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


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short, resolved path: a unix socket's has 107 bytes at most."""
    made = os.path.realpath(tempfile.mkdtemp(prefix="plughold-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def servers(folder: str) -> Iterator[tuple[Server, Server]]:
    """One that is granted, one that is not."""
    both = Server(f"{folder}/granted"), Server(f"{folder}/other")
    yield both
    for server in both:
        server.close()


@pytest.mark.parametrize("timeout", [None, 5])
def test_a_granted_socket_is_reached(network: Network, servers: tuple[Server, Server], timeout: int | None) -> None:
    path = servers[0].path
    code = f"{ATTACH}\nattempt(lambda: unix({path!r}, {timeout}).recv(9).decode())"
    assert network.run(code, connect=(f"unix:{path}",)) == ("hello", [])


def test_a_link_leads_to_what_is_granted_and_nowhere_else(
    network: Network, servers: tuple[Server, Server], folder: str
) -> None:
    granted, other = servers
    for name, server in (("good", granted), ("bad", other)):
        os.symlink(server.path, f"{folder}/{name}")
    code = f"{ATTACH}\nattempt(lambda: unix({folder + '/good'!r}).recv(9).decode())"
    assert network.run(code, connect=(f"unix:{granted.path}",)) == ("hello", [])
    code = f"{ATTACH}\nattempt(lambda: unix({folder + '/bad'!r}))"
    refused = [("net.connect", f"unix:{other.path}")]
    assert network.run(code, connect=(f"unix:{granted.path}", f"unix:{folder}/bad")) == ("EACCES", refused)
    assert other.met == 0


@pytest.mark.parametrize("root", ["/proc/{pid}/root", "/proc/{pid}/cwd"])
def test_no_other_process_leads_to_a_socket(network: Network, servers: tuple[Server, Server], root: str) -> None:
    """Its root may lie in another mount namespace, where what has the granted path is another socket."""
    path = root.format(pid=network.broker.pid) + servers[0].path
    code = f"{ATTACH}\nattempt(lambda: unix({path!r}))"
    assert network.run(code, connect=(f"unix:{servers[0].path}",))[0] == "ELOOP"
    code = f"{ATTACH}\nattempt(lambda: serve({path + '-made'!r}))"
    assert network.run(code, listen=(f"unix:{servers[0].path}-made",))[0] == "ELOOP"
    assert (servers[0].met, os.path.exists(servers[0].path + "-made")) == (0, False)


@pytest.mark.parametrize("rule", ["unix:{folder}/other", "*", "unix:{folder}", "0.0.0.0/0"])
def test_another_rule_reaches_no_socket(
    network: Network, servers: tuple[Server, Server], folder: str, rule: str
) -> None:
    code = f"{ATTACH}\nattempt(lambda: unix({servers[0].path!r}))"
    rules = (rule.format(folder=folder), f"unix:{folder}/third")
    assert network.run(code, connect=rules) == ("EACCES", [("net.connect", f"unix:{servers[0].path}")])
    assert servers[0].met == 0


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/shadow", "/etc/nothing", "/nothing/there", "/proc/self/fd/0"])
def test_what_lies_elsewhere_is_refused_whether_it_is_there_or_not(network: Network, folder: str, path: str) -> None:
    code = f"{ATTACH}\nattempt(lambda: unix({path!r}))"
    assert network.run(code, connect=(f"unix:{folder}/x",))[0] == "EACCES"


@pytest.mark.parametrize(("make", "answer"), [("", "ENOENT"), ("file", "ECONNREFUSED"), ("bound", "ECONNREFUSED")])
def test_the_error_of_a_granted_path_is_its_own(network: Network, folder: str, make: str, answer: str) -> None:
    path = f"{folder}/x"
    if make == "file":
        Path(path).touch()
    elif make:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
    code = f"{ATTACH}\nattempt(lambda: unix({path!r}))"
    assert network.run(code, connect=(f"unix:{path}",)) == (answer, [])


@pytest.mark.parametrize(
    "address",
    [
        "struct.pack('=H', 1)",  # unnamed: bind would make up an abstract name
        "struct.pack('=H', 1) + b'\\0abstract'",
        "struct.pack('=H', 1) + b'relative'",
        "struct.pack('=H', 1) + b'\\0'",
    ],
)
@pytest.mark.parametrize("call", ["connect", "bind"])
def test_a_socket_without_an_absolute_path_is_refused(network: Network, folder: str, address: str, call: str) -> None:
    code = f"""
libc = ctypes.CDLL(None, use_errno=True)
made, raw = socket.socket(socket.AF_UNIX), {address}
def work():
    if libc.{call}(made.fileno(), raw, len(raw)):
        raise OSError(ctypes.get_errno(), "")
attempt(work)
"""
    rule = (f"unix:{folder}/x",)
    assert network.run(code, connect=rule, listen=rule) == ("EACCES", [])


def test_an_abstract_socket_is_not_reached(network: Network, folder: str) -> None:
    name = f"plughold-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        code = f"{ATTACH}\nattempt(lambda: unix({chr(0) + name!r}))"
        assert network.run(code, connect=("*", f"unix:{folder}/x", f"unix:/{name}")) == ("EACCES", [])


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        ("AF_UNIX", "SOCK_DGRAM", 0),
        ("AF_UNIX", "SOCK_SEQPACKET", 0),
        ("AF_UNIX", "SOCK_RAW", 0),
        ("AF_INET", "SOCK_DGRAM", 0),
        ("AF_INET", "SOCK_RAW", 1),
        ("AF_INET6", "SOCK_DGRAM", 0),
        ("AF_INET", "SOCK_STREAM", 262),  # MPTCP
        ("AF_INET", "SOCK_STREAM", 132),  # SCTP
        ("AF_NETLINK", "SOCK_RAW", 0),
        ("AF_VSOCK", "SOCK_STREAM", 0),
        ("AF_PACKET", "SOCK_RAW", 0),
        ("AF_ALG", "SOCK_SEQPACKET", 0),
    ],
)
def test_no_other_socket_opens_whatever_is_granted(
    network: Network, folder: str, family: str, kind: str, protocol: int
) -> None:
    code = f"attempt(lambda: socket.socket(socket.{family}, socket.{kind}, {protocol}).close())"
    said, _ = network.run(code, connect=("*", f"unix:{folder}/x"), listen=("*", f"unix:{folder}/y"), names=True)
    assert said == "EACCES"


@pytest.mark.parametrize("call", ["sendto(b'x', 0x20000000, where)", "sendmsg([b'x'], [], 0x20000000, where)"])
def test_tcp_fast_open_connects_nowhere_whatever_is_granted(network: Network, call: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = f"where = {listener.getsockname()!r}\nattempt(lambda: socket.socket().{call})"
        assert network.run(code, connect=("*", "127.0.0.1"), listen=("*",))[0] == "EPERM"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_without_a_rule_for_one_no_unix_socket_opens(network: Network) -> None:
    code = "attempt(lambda: socket.socket(socket.AF_UNIX).close())"
    assert network.run(code, connect=("*",), listen=("*",)) == ("EACCES", [])


def test_a_pair_is_not_led_to_an_address(network: Network, folder: str) -> None:
    code = f"import _socket\none, _ = _socket.socketpair()\nattempt(lambda: one.connect({folder + '/x'!r}))"
    said, _ = network.run(code, connect=(f"unix:{folder}/y",))
    assert said == "EACCES"


# --- listening


def test_a_granted_socket_is_made_private_and_listens(network: Network, folder: str) -> None:
    path = f"{folder}/made"
    code = f"""{ATTACH}
listener = serve({path!r})
say(listener.getsockname() + ' ')
met, _ = listener.accept()
attempt(lambda: met.recv(9).decode())
"""
    worker, refusals = network.start(code, listen=(f"unix:{path}",))
    assert os.read(worker.replies, 200).decode() == f"{path} "
    mode = os.lstat(path)
    assert stat.S_ISSOCK(mode.st_mode)
    assert (stat.S_IMODE(mode.st_mode), mode.st_uid) == (0o700, os.geteuid())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"hi")
        assert worker.reply() == b"hi"
    network.spawner.reap(worker)
    os.close(refusals)


@pytest.mark.parametrize("name", ["other", "made/", "made/.", "sub/../other", "."])
def test_a_socket_is_made_nowhere_else(network: Network, folder: str, name: str) -> None:
    os.mkdir(f"{folder}/sub")
    code = f"{ATTACH}\nattempt(lambda: serve({folder + '/' + name!r}).close())"
    said, _ = network.run(code, listen=(f"unix:{folder}/made",))
    assert said == "EACCES"
    assert sorted(os.listdir(folder)) == ["sub"]


def test_a_folder_that_is_a_link_leads_nowhere(network: Network, folder: str) -> None:
    os.mkdir(f"{folder}/elsewhere")
    os.symlink("elsewhere", f"{folder}/link")
    code = f"{ATTACH}\nattempt(lambda: serve({folder + '/link/made'!r}).close())"
    refused = [("net.listen", f"unix:{folder}/elsewhere/made")]
    assert network.run(code, listen=(f"unix:{folder}/link/made",)) == ("EACCES", refused)
    assert os.listdir(f"{folder}/elsewhere") == []


def test_a_file_that_is_there_is_not_replaced(network: Network, folder: str) -> None:
    os.symlink("elsewhere", f"{folder}/made")
    code = f"{ATTACH}\nattempt(lambda: serve({folder + '/made'!r}).close())"
    assert network.run(code, listen=(f"unix:{folder}/made",)) == ("EADDRINUSE", [])
    assert os.listdir(folder) == ["made"]


def test_a_socket_that_is_not_bound_does_not_listen(network: Network, folder: str) -> None:
    code = "attempt(lambda: socket.socket(socket.AF_UNIX).listen())"
    assert network.run(code, listen=(f"unix:{folder}/made",))[0] == "EACCES"


def test_a_folder_that_is_swapped_after_it_was_judged_gets_no_socket(folder: str) -> None:
    """The judge is the last to look: here it also plays the one that swaps."""
    need(landlock.version()[0], "Landlock")
    os.mkdir(f"{folder}/judged")
    os.mkdir(f"{folder}/elsewhere")

    def swap(where: str) -> None:
        assert where == f"{folder}/judged/made"
        os.rename(f"{folder}/judged", f"{folder}/moved")
        os.symlink("elsewhere", f"{folder}/judged")

    with socket.socket(socket.AF_UNIX) as made, pytest.raises(PermissionError):
        paths.bind(made, os.fsencode(f"{folder}/judged/made"), swap)
    assert os.listdir(f"{folder}/elsewhere") == os.listdir(f"{folder}/moved") == []


def test_a_link_that_is_swapped_after_it_was_judged_makes_no_socket_beneath_the_folder(folder: str) -> None:
    os.makedirs(f"{folder}/judged/beneath")
    os.symlink("judged", f"{folder}/link")

    def swap(where: str) -> None:
        assert where == f"{folder}/judged/made"
        os.unlink(f"{folder}/link")
        os.symlink("judged/beneath", f"{folder}/link")

    with socket.socket(socket.AF_UNIX) as made:
        paths.bind(made, os.fsencode(f"{folder}/link/made"), swap)
        assert made.getsockname() == f"{folder}/judged/made"
    assert os.listdir(f"{folder}/judged/beneath") == []


def test_a_socket_that_is_swapped_after_it_was_judged_is_not_reached(servers: tuple[Server, Server]) -> None:
    granted, other = servers

    def swap(where: str) -> None:
        assert where == granted.path
        os.unlink(granted.path)
        os.symlink(other.path, granted.path)

    with paths.found(os.fsencode(granted.path), swap) as target, socket.socket(socket.AF_UNIX) as client:
        client.connect(target)
        assert client.recv(9) == b"hello"
    assert (granted.met, other.met) == (1, 0)


def test_a_full_queue_holds_up_its_own_worker_alone(network: Network, folder: str) -> None:
    """And not the broker's thread, once the worker is gone."""
    path = f"{folder}/full"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        code = f"{ATTACH}\nkept = [unix({path!r})]\nsay('one')\nkept.append(unix({path!r}))"
        worker, refusals = network.start(code, connect=(f"unix:{path}",))
        assert os.read(worker.replies, 10) == b"one"
        os.kill(worker.pid, 9)
        network.spawner.reap(worker)
        os.close(refusals)
        until(lambda: len(os.listdir(f"/proc/{network.broker.pid}/task")) == 1)
