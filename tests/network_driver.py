"""Ordinary clients and servers of the network, as a plugin uses them and as a test sets them up."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, Final

from client_code import need_package
from walls_driver import need

import host

CLIENTS: Final = {
    "http.client": """
import http.client
connection = http.client.HTTPConnection(name, port, timeout=40)
connection.request("GET", "/")
result = connection.getresponse().read().decode()
""",
    "urllib": """
import urllib.request
result = urllib.request.urlopen(f"http://{name}:{port}/", timeout=40).read().decode()
""",
    "urllib without a timeout": """
import urllib.request
result = urllib.request.urlopen(f"http://{name}:{port}/").read().decode()
""",
    "socket.create_connection": """
import socket
with socket.create_connection((name, port), timeout=40) as connection:
    connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    data = b""
    while part := connection.recv(999):
        data += part
result = data.partition(b"\\r\\n\\r\\n")[2].decode()
""",
    "asyncio": """
import asyncio
async def get():
    reader, writer = await asyncio.open_connection(name, port)
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    data = await reader.read()
    writer.close()
    return data.partition(b"\\r\\n\\r\\n")[2].decode()
result = asyncio.run(get())
""",
    "requests": """
import requests
result = requests.get(f"http://{name}:{port}/", timeout=40).text
""",
    "httpx": """
import httpx
result = httpx.get(f"http://{name}:{port}/", timeout=40, trust_env=False).text
""",
}
FOREIGN: Final = ("requests", "httpx")
UNIX_CLIENTS: Final = {
    "socket": """
import socket
with socket.socket(socket.AF_UNIX) as client:
    client.connect(path)
    result = client.recv(9).decode()
""",
    "socket with a timeout": """
import socket
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(40)
    client.connect(path)
    result = client.recv(9).decode()
""",
    "bytes": """
import socket
with socket.socket(socket.AF_UNIX) as client:
    client.connect(path.encode())
    result = client.recv(9).decode()
""",
    "asyncio": """
import asyncio
async def get():
    reader, writer = await asyncio.open_unix_connection(path)
    data = await reader.read()
    writer.close()
    return data.decode()
result = asyncio.run(get())
""",
}
UNIX_SERVER: Final = """
import asyncio
@hookimpl
def serve(path):
    async def answer(reader, writer):
        writer.write((await reader.read(9)).upper())
        await writer.drain()
        writer.close()
        done.set_result(None)
    async def main():
        global done
        done = asyncio.get_running_loop().create_future()
        server = await asyncio.start_unix_server(answer, path)
        name = server.sockets[0].getsockname()
        await done
        server.close()
        return name
    return asyncio.run(main())
"""


class Server:
    """An HTTP server that says hello, counts who came, and never hangs."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.met = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                met, _ = self._listener.accept()
                self.met += 1
                with met, contextlib.suppress(OSError):
                    met.settimeout(30)
                    met.recv(65536)
                    met.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


class UnixServer:
    """Says hello on a unix socket to everyone, and counts them."""

    def __init__(self, path: str) -> None:
        self.path, self.met = path, 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
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


def require(client: str) -> dict[str, Any]:
    """Options of a plugin that may import `client`."""
    if client not in FOREIGN:
        return {}
    need_package(client)
    return {"plugin": {"environment": "host"}}


def at(attacker: Any, tier: str, **options: Any) -> Any:
    """An attacker at that tier, which is skipped where the machine does not reach it."""
    try:
        return attacker(tier=tier, minimum_tier=tier, **options)
    except host.LockdownUnavailable as e:
        need(None, str(e))
