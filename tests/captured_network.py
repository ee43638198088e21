"""In a network and a mount namespace of its own: every client tries what it may and what not, and packets are captured.

`unshare --net --mount python -m captured_network FOLDER TIER...`, as root. Prints one JSON document: `attempts` with
what each gave, `captured` with the server's end of every packet on loopback, the only interface there is, `asked`
with the names that the name server was asked for, `missing` with why a tier was left out.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from client_code import CLIENTS
from client_peers import Web
from conftest import Plugins
from escape.conftest import SOURCE

import host

if TYPE_CHECKING:
    from collections.abc import Sequence

GRANTED: Final = "198.51.100.1"
REFUSED: Final = "203.0.113.9"
NAME_SERVER: Final = "192.0.2.53"
NAME: Final = "granted.example"
WEB, OTHER = 80, 443
ADDRESSES: Final = (GRANTED, REFUSED, NAME_SERVER)
"""For documentation (RFC 5737): here they lie on loopback, so that nothing but the walls keeps anyone from them."""

_SIOCSIFADDR, _SIOCSIFFLAGS, _IFF_UP = 0x8916, 0x8914, 1  # netdevice(7)
_ETH_P_ALL: Final = 3  # packet(7)
_MS_BIND: Final = 4096  # mount(2)


def furnish(folder: Path) -> None:
    """Give loopback the addresses, and this process's children a resolver that asks the name server there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for number, address in enumerate(("127.0.0.1", *ADDRESSES)):
            name = f"lo:{number}" if number else "lo"
            where = struct.pack("=16sH2x4s8x", name.encode(), socket.AF_INET, socket.inet_aton(address))
            fcntl.ioctl(asked, _SIOCSIFADDR, where)
        fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack("=16sh", b"lo", _IFF_UP))
    libc = ctypes.CDLL(None, use_errno=True)
    for name, text in (
        ("resolv.conf", f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
        ("hosts", "127.0.0.1 localhost\n"),
    ):
        (folder / name).write_text(text)
        target = os.path.realpath(f"/etc/{name}")
        if libc.mount(str(folder / name).encode(), target.encode(), None, _MS_BIND, None):
            raise OSError(ctypes.get_errno(), f"mount over {target}")


class NameServer:
    """Says of every name an address: the granted one of the granted name, of every other the refused one."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((NAME_SERVER, 53))
        self.asked: set[str] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(4096)
            labels, at = [], 12  # RFC 1035, 4.1
            while size := question[at]:
                labels.append(question[at + 1 : at + 1 + size].decode())
                at += 1 + size
            name, kind = ".".join(labels), struct.unpack_from(">H", question, at + 1)[0]
            self.asked.add(name)
            address = socket.inet_aton(GRANTED if name == NAME else REFUSED)
            answers = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + address] if kind == 1 else []
            head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, len(answers), 0, 0)
            self._socket.sendto(head + question[12 : at + 5] + b"".join(answers), asker)


class Capture:
    """Every packet that passes loopback from now on."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self._socket.bind(("lo", 0))
        self._socket.setblocking(False)

    def ends(self) -> set[str]:
        """For each packet so far: its protocol and the end of it that is a server's, the one with the lower port."""
        found = set()
        while True:
            try:
                frame = self._socket.recv(65536)
            except BlockingIOError:
                return found
            found.add(_end(frame[14:]) if frame[12:14] == b"\x08\x00" else f"type {frame[12:14].hex()}")


def _end(packet: bytes) -> str:
    """RFC 791, 3.1; TCP and UDP both begin with their ports."""
    start = (packet[0] & 15) * 4
    protocol = {6: "tcp", 17: "udp"}.get(packet[9], f"protocol {packet[9]}")
    ports = struct.unpack_from(">HH", packet, start)
    port, address = min(zip(ports, (packet[12:16], packet[16:20]), strict=True))
    return f"{protocol} {socket.inet_ntoa(address)}:{port}"


def attempts(plugin: Any) -> list[list[Any]]:
    """What each client gave for each address: [client, name, port, whether it may, whether it did]."""
    targets = [(GRANTED, WEB, True), (NAME, WEB, True)]
    targets += [(GRANTED, OTHER, False), (NAME, OTHER, False), (REFUSED, WEB, False), ("127.0.0.1", WEB, False)]
    targets += [(name, WEB, False) for name in ("elsewhere.example", f"secret.{NAME}", f"{NAME}.elsewhere.example")]
    rows = []
    for client, made in CLIENTS.items():
        for name, port, may in targets:
            if made.installed and not (may and made.package == "psycopg"):  # which speaks no HTTP
                names = {"name": name, "port": port, "scheme": "http", "ca": ""}
                did = plugin.call("attempt", code=made.code, names=names) == "hello"
                rows.append([client, name, port, may, did])
    return rows


def plugin_with_all(plugins: Plugins, tier: str) -> Any:
    """A plugin that may reach the granted server by its address and by its name, and load every client."""
    native = sorted({package for made in CLIENTS.values() if made.installed for package in made.native})
    rules = [f"{GRANTED}:{WEB}", {"target": f"{NAME}:{WEB}", "private": True}]
    return plugins(
        SOURCE,
        # httpx takes trio where it is, whose import of ctypes looks for libraries by way of a temporary file.
        permissions={"net.connect": rules, "native": native, "fs.write": ["${tmp}"]},
        plugin={"environment": "host"},
        limits={"memory": "1 GiB", "threads": 256, "open_files": 256, "call_timeout": "30 s"},
        tier=tier,
    )


def main(folder: Path, tiers: Sequence[str]) -> None:
    """Try all clients in each tier. Only walls keep one from a server, for all of them listen."""
    furnish(folder)
    capture, names = Capture(), NameServer()
    plugins, rows, missing = Plugins(folder), [], []
    with contextlib.ExitStack() as ends:
        for address, port in ((GRANTED, WEB), (GRANTED, OTHER), (REFUSED, WEB), ("127.0.0.1", WEB)):
            ends.callback(Web(address=address, port=port).close)
        for tier in tiers:
            try:
                rows += [[tier, *row] for row in attempts(plugin_with_all(plugins, tier))]
            except host.LockdownUnavailable as unavailable:
                missing.append(str(unavailable))
            finally:
                plugins.hosts.pop().close()
    found = {"attempts": rows, "captured": sorted(capture.ends()), "asked": sorted(names.asked), "missing": missing}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
