"""A plugin with a grant of a unix socket reaches that socket with ordinary clients, and no other by any way."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest
from network_driver import UNIX_CLIENTS as CLIENTS
from network_driver import UNIX_SERVER as SERVE
from network_driver import UnixServer as Server
from network_driver import at

import host

if TYPE_CHECKING:
    from collections.abc import Iterator

TIERS: Final = ["confined", "walled"]


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder with a short, resolved path: a unix socket's has 107 bytes at most."""
    made = os.path.realpath(tempfile.mkdtemp(prefix="plughold-", dir="/tmp"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def servers(folder: str) -> Iterator[tuple[Server, Server]]:
    """One that is granted, one that is not."""
    both = Server(f"{folder}/granted"), Server(f"{folder}/other")
    yield both
    for server in both:
        server.close()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reaches_a_granted_socket(
    attacker: Any, must_work: Any, servers: tuple[Server, Server], client: str, tier: str
) -> None:
    worker = at(attacker, tier, permissions={"net.connect": [f"unix:{servers[0].path}"]})
    assert worker.run(CLIENTS[client], path=servers[0].path) == "hello"
    assert servers[0].met == 1
    assert [record for record in worker.plugin.denials() if record.permission.kind == "net.connect"] == []


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_reaches_no_other_socket_and_is_told_which_line_would_help(
    attacker: Any, must_work: Any, servers: tuple[Server, Server], client: str, tier: str
) -> None:
    worker = at(attacker, tier, permissions={"net.connect": ["0.0.0.0/0", f"unix:{servers[0].path}"]})
    assert worker.reason(CLIENTS[client], path=servers[1].path)[:2] == ("PermissionDenied", "net.connect")
    assert f"unix:{servers[1].path}" in {record.permission.target for record in worker.plugin.denials()}
    assert (servers[0].met, servers[1].met) == (0, 0)


@pytest.mark.parametrize("tier", TIERS)
def test_a_socket_that_is_swapped_for_a_link_leads_nowhere(
    attacker: Any, must_work: Any, servers: tuple[Server, Server], folder: str, tier: str
) -> None:
    """The plugin may write the folder, so it can replace what its own rule names."""
    inside = f"{folder}/mine"
    os.mkdir(inside)
    permissions = {"net.connect": [f"unix:{inside}/sock"], "fs.read": [inside], "fs.write": [inside]}
    worker = at(attacker, tier, permissions=permissions)
    code = f"import os\nos.symlink(other, path)\n{CLIENTS['socket']}"
    assert worker.reason(code, path=f"{inside}/sock", other=servers[1].path) == ("PermissionError", "", 13)
    refused = [record for record in worker.plugin.denials() if record.layer == "broker"]
    assert [record.permission.target for record in refused] == [f"unix:{servers[1].path}"]
    assert servers[1].met == 0


@pytest.mark.parametrize("tier", TIERS)
def test_a_hard_link_to_a_socket_is_refused(
    attacker: Any, must_work: Any, servers: tuple[Server, Server], folder: str, tier: str
) -> None:
    inside = f"{folder}/mine"
    os.mkdir(inside)
    permissions = {"net.connect": [f"unix:{inside}/sock"], "fs.read": [folder], "fs.write": [inside]}
    worker = at(attacker, tier, permissions=permissions)
    assert worker.is_stopped("import os\nos.link(other, path)", path=f"{inside}/sock", other=servers[1].path)
    assert os.listdir(inside) == []


@pytest.mark.parametrize("tier", TIERS)
def test_asyncio_serves_in_the_folder_of_the_plugins_own(plugin_from: Any, must_work: Any, tier: str) -> None:
    with tempfile.TemporaryDirectory(prefix="plughold-", dir="/tmp") as data:
        try:
            plugin = plugin_from(
                SERVE, tier=tier, data=data,
                permissions={"net.listen": ["unix:${data}/s"], "fs.write": ["${data}"]},
                limits={"call_timeout": "20 s"},
            )  # fmt: skip
        except host.LockdownUnavailable as e:
            must_work(False, str(e))
        path = os.path.realpath(f"{data}/{plugin.__name__}/s")
        answers = []

        def meet() -> None:
            while True:
                with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
                    client.settimeout(30)
                    client.connect(path)
                    client.sendall(b"hello")
                    answers.append(client.recv(9))
                    return

        thread = threading.Thread(target=meet)
        thread.start()
        try:
            assert plugin.call("serve", path=path) == path
        finally:
            thread.join()
        assert answers == [b"HELLO"]


@pytest.mark.parametrize("tier", TIERS)
def test_no_socket_is_made_outside_the_rule(attacker: Any, must_work: Any, folder: str, tier: str) -> None:
    permissions = {"net.listen": [f"unix:{folder}/mine"], "fs.read": [folder], "fs.write": [folder]}
    worker = at(attacker, tier, permissions=permissions)
    code = "import socket\nsocket.socket(socket.AF_UNIX).bind(path)"
    assert worker.reason(code, path=f"{folder}/other")[:2] == ("PermissionDenied", "net.listen")
    assert worker.is_stopped("import os, stat\nos.mknod(path, 0o600 | stat.S_IFSOCK)", path=f"{folder}/mine")
    assert os.listdir(folder) == []


def test_a_grant_that_was_given_up_is_gone(plugin_from: Any, servers: tuple[Server, Server]) -> None:
    plugin = plugin_from(
        """
        import socket
        from sandbox_worker.plugin_api import permissions
        kept = []
        @hookimpl
        def drop(path):
            permissions.drop("net.connect", "unix:" + path)
        @hookimpl
        def reach(path):
            client = socket.socket(socket.AF_UNIX)
            client.connect(path)
            return client.recv(9).decode()
        """,
        permissions={"net.connect": [f"unix:{server.path}" for server in servers]},
    )
    assert plugin.call("reach", path=servers[0].path) == "hello"
    plugin.call("drop", path=servers[0].path)
    with pytest.raises(host.PermissionDenied):
        plugin.call("reach", path=servers[0].path)
    assert plugin.call("reach", path=servers[1].path) == "hello"
    assert (servers[0].met, servers[1].met) == (1, 1)
