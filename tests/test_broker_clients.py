"""Unmodified clients with C code of their own, in a worker without an audit hook: what they reach, how they fail."""

from __future__ import annotations

import os
import sys
import sysconfig
from typing import TYPE_CHECKING, Final

import pytest
from client_code import need_package
from network_driver import Server
from test_broker import VARIANTS, Network
from walls_driver import need

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS: Final = {
    "uvloop": """
import asyncio, uvloop
async def get(name, port):
    reader, writer = await asyncio.open_connection(name, port)
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    data = await reader.read()
    writer.close()
    return data[-5:].decode()
attempt(lambda: uvloop.run(get(name, port)))
""",
    "pycurl": """
import io, pycurl
body, curl = io.BytesIO(), pycurl.Curl()
curl.setopt(curl.URL, f"http://{name}:{port}/")
curl.setopt(curl.WRITEDATA, body)
curl.setopt(curl.TIMEOUT, 10)
try:
    curl.perform()
except pycurl.error as error:
    say(error.args[1])
else:
    say(body.getvalue().decode())
""",
    "aiohttp": """
import aiohttp, asyncio
async def get(name, port):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{name}:{port}/") as response:
            return await response.text()
attempt(lambda: asyncio.run(get(name, port)))
""",
    "psycopg": """
import psycopg
try:
    psycopg.connect(host=name, port=port, user="x", connect_timeout=10, sslmode="disable", gssencmode="disable")
except psycopg.OperationalError as error:
    say("hello" if "received H" in str(error) else error)
""",
}


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """One that is granted, one that is not."""
    both = Server(), Server()
    yield both
    for server in both:
        server.close()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_client_reaches_what_is_granted_and_fails_cleanly_elsewhere(
    servers: tuple[Server, Server], variant: str, client: str, name: str
) -> None:
    need_package(client)
    packages = sysconfig.get_path("purelib")
    readable = [[os.path.realpath(path), "r"] for path in (packages, sys.base_prefix)]
    network = Network(replace=variant == "addfd")
    try:
        need(network.broker.abilities[0], "seccomp notifications")
        granted, other = servers
        rules = tuple(f"{host}:{granted.port}" for host in ("127.0.0.1", "localhost"))
        for server, good in ((granted, True), (other, False)):
            code = f"sys.path.insert(0, {packages!r})\nname, port = {name!r}, {server.port}\n{CLIENTS[client]}"
            said, refused = network.run(code, connect=rules, names=True, readable=readable)
            assert (said == "hello") is good
            assert refused == ([] if good else [("net.connect", f"127.0.0.1:{server.port}")])
        assert (granted.met, other.met) == (1, 0)
    finally:
        network.close()
