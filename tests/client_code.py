"""Code that unmodified clients run in a worker: asks `scheme://name:port/` and leaves the body in `result`.

Each sees `name`, `port`, `scheme` (http or https) and `ca`, the file of the only authority that it trusts.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import textwrap
from dataclasses import dataclass
from typing import Any, Final

import pytest

NO_WHEELS_FROM: Final = (3, 14)
"""The first version for which not every package of the extra has a wheel."""

_CONTEXT: Final = "import ssl\ncontext = ssl.create_default_context(cafile=ca) if scheme == 'https' else None\n"
_URL: Final = "url = f'{scheme}://[{name}]:{port}/' if ':' in name else f'{scheme}://{name}:{port}/'\n"
_STREAMS: Final = """
async def get():
    reader, writer = await asyncio.open_connection(name, port, ssl=context)
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    data = await reader.read()
    writer.close()
    return data.partition(b"\\r\\n\\r\\n")[2].decode()
"""


def need_package(name: str) -> None:
    """Skip the test where a package of the extra `clients` can't be imported; fail it where that was installed."""
    if importlib.util.find_spec(name) is None:
        if os.environ.get("PLUGHOLD_CLIENTS") == "1" and sys.version_info < NO_WHEELS_FROM:
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed (the extra `clients`)")


@dataclass(frozen=True, slots=True)
class Client:
    """`package` is the distribution to import, None for the standard library; `native` what of it is compiled.

    `errors` are the classes by which it says that it got nowhere.
    """

    code: str
    errors: tuple[str, ...]
    package: str | None = None
    native: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether this interpreter has it."""
        return self.package is None or importlib.util.find_spec(self.package) is not None

    def permissions(self) -> dict[str, Any]:
        """The permissions that it needs beside the network; skips where it is not installed."""
        if self.package is not None:
            need_package(self.package)
        return {"native": list(self.native)} if self.native else {}

    def options(self) -> dict[str, Any]:
        """Further options of a plugin that imports it."""
        return {"plugin": {"environment": "host"}} if self.package else {}


CLIENTS: Final = {
    "http.client": Client(
        _CONTEXT
        + textwrap.dedent("""
        import http.client
        secure = scheme == "https"
        made = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = made(name, port, timeout=40, **({"context": context} if secure else {}))
        connection.request("GET", "/")
        result = connection.getresponse().read().decode()
        """),
        ("PermissionDenied", "PermissionError"),
    ),
    "urllib": Client(
        _CONTEXT
        + _URL
        + "import urllib.request\n"
        + "result = urllib.request.urlopen(url, context=context).read().decode()",
        ("URLError",),
    ),
    "asyncio": Client(
        _CONTEXT + "import asyncio" + _STREAMS + "result = asyncio.run(get())",
        ("PermissionDenied", "PermissionError", "OSError"),
    ),
    "requests": Client(
        _URL + "import requests\nresult = requests.get(url, timeout=40, verify=ca).text",
        ("ConnectionError",),
        "requests",
        ("charset-normalizer",),
    ),
    "httpx": Client(
        _CONTEXT
        + _URL
        + "import httpx\n"
        + "result = httpx.get(url, timeout=40, verify=context or True, follow_redirects=True).text",
        ("ConnectError",),
        "httpx",
    ),
    "aiohttp": Client(
        _CONTEXT
        + _URL
        + textwrap.dedent("""
        import aiohttp, asyncio
        async def get():
            async with aiohttp.ClientSession() as session, session.get(url, ssl=context or True) as response:
                return await response.text()
        result = asyncio.run(get())
        """),
        ("ClientConnectorError", "ClientConnectorDNSError"),
        "aiohttp",
        ("aiohttp",),
    ),
    "uvloop": Client(
        _CONTEXT + "import asyncio, uvloop" + _STREAMS + "result = uvloop.run(get())",
        ("PermissionDenied", "PermissionError", "OSError", "gaierror"),  # it looks names up in C
        "uvloop",
        ("uvloop",),
    ),
    "pycurl": Client(
        _URL
        + textwrap.dedent("""
        import io, pycurl
        body, curl = io.BytesIO(), pycurl.Curl()
        curl.setopt(curl.URL, url)
        curl.setopt(curl.CAINFO, ca)
        curl.setopt(curl.WRITEDATA, body)
        curl.setopt(curl.TCP_KEEPALIVE, 1)
        curl.setopt(curl.FOLLOWLOCATION, 1)
        curl.perform()
        result = body.getvalue().decode()
        """),
        ("error",),
        "pycurl",
        ("pycurl",),
    ),
    "psycopg": Client(
        textwrap.dedent("""
        import psycopg
        secure = {"sslmode": "verify-full", "sslrootcert": ca} if scheme == "https" else {"sslmode": "disable"}
        with psycopg.connect(host=name, port=port, user="plugin", dbname="postgres", connect_timeout=40,
                             keepalives_idle=5, tcp_user_timeout=5000, **secure) as connection:
            assert connection.pgconn.ssl_in_use is (scheme == "https")
            connection.execute("create temporary table seen (id int)")
            with connection.cursor().copy("copy seen from stdin") as copy:
                for number in range(1000):
                    copy.write_row([number])
            [count] = connection.execute("select count(*) from seen where id >= %s", [500]).fetchone()
        assert count == 500
        result = "hello"
        """),
        ("OperationalError", "ConnectionTimeout"),
        "psycopg",
        ("psycopg", "psycopg-binary", "ctypes"),
    ),
    "psycopg, asynchronous": Client(
        textwrap.dedent("""
        import asyncio, psycopg
        secure = {"sslmode": "verify-full", "sslrootcert": ca} if scheme == "https" else {"sslmode": "disable"}
        async def get():
            async with await psycopg.AsyncConnection.connect(
                host=name, port=port, user="plugin", dbname="postgres", connect_timeout=40, **secure
            ) as connection:
                return (await (await connection.execute("select 'hello'")).fetchone())[0]
        result = asyncio.run(get())
        """),
        ("OperationalError", "ConnectionTimeout"),
        "psycopg",
        ("psycopg", "psycopg-binary", "ctypes"),
    ),
}  # fmt: skip
