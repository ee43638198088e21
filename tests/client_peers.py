"""Real servers on loopback for unmodified clients: HTTP with and without TLS, and PostgreSQL."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from walls_driver import NOBODY

HELLO: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
_PATIENCE: Final = 30.0
_TEMPORARY: Final = tempfile.gettempdir()  # a test may name another one, which its ordinary user can't enter


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate for localhost and its addresses, which is its own authority."""

    file: Path
    key: Path


def certificate(folder: Path) -> Certificate:
    """Make one in `folder`; skips where there is no openssl(1)."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = Certificate(folder / "server.crt", folder / "server.key")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
    purposes = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,digitalSignature,keyCertSign")
    run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", *(f"-addext={text}" for text in (names, *purposes)),
        "-keyout", str(made.key), "-out", str(made.file),
    )  # fmt: skip
    return made


class Web:
    """Gives everyone who speaks to it the same response, counts who came, and never hangs."""

    def __init__(
        self, *, answer: bytes = HELLO, secure: Certificate | None = None, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family)
        self._context = None
        if secure is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(secure.file, secure.key)
        self._answer = answer
        self.port: Final[int] = self._listener.getsockname()[1]
        self.met = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                met, _ = self._listener.accept()
                self.met += 1
                met.settimeout(30)
                with contextlib.suppress(OSError), self._secured(met) as spoken:
                    spoken.recv(65536)
                    spoken.sendall(self._answer)
                    with contextlib.suppress(OSError, AttributeError):
                        spoken.unwrap()  # type: ignore[attr-defined]  # only a TLS socket has it

    def _secured(self, met: socket.socket) -> socket.socket:
        if self._context is None:
            return met
        try:
            return self._context.wrap_socket(met, server_side=True)
        except BaseException:
            met.close()
            raise

    def close(self) -> None:
        """Stop; waits for its thread."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


class Postgres:
    """A PostgreSQL server of its own, with TLS for who asks for it. It trusts everyone who reaches it."""

    def __init__(self, secure: Certificate) -> None:
        self._tools = postgres_tools()
        self._folder = Path(tempfile.mkdtemp(prefix="plughold-postgres-", dir=_TEMPORARY))
        self._user: dict[str, Any] = {}
        try:
            self._certificate(secure)
            self._tool("initdb", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", "--username=plugin")
            self.port: Final = free_port()
            self._tool("pg_ctl", "start", "-w", "-l", f"{self._folder}/log", "-o", " ".join(self._options()))
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def _certificate(self, secure: Certificate) -> None:
        for file, name in ((secure.file, "server.crt"), (secure.key, "server.key")):
            shutil.copy(file, self._folder / name)
            (self._folder / name).chmod(0o600)
        if os.getuid() == 0:  # initdb and the server refuse root
            self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, NOBODY, NOBODY)

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "log_connections": "on",
            "ssl": "on",
            "ssl_cert_file": self._folder / "server.crt",
            "ssl_key_file": self._folder / "server.key",
        }
        return [f"-c {name}={value}" for name, value in settings.items()]

    @property
    def met(self) -> int:
        """How many connections it has accepted."""
        return (self._folder / "log").read_text().count("connection received: host=")

    def _tool(self, name: str, *arguments: str) -> None:
        run(f"{self._tools}/{name}", "-D", f"{self._folder}/data", *arguments, cwd="/", **self._user)

    def close(self) -> None:
        """Stop at once; waits for its end."""
        self._tool("pg_ctl", "stop", "-w", "-m", "immediate")
        shutil.rmtree(self._folder)


def postgres_tools() -> str:
    """The folder of the newest PostgreSQL server on this machine; skips where there is none."""
    found = shutil.which("postgres") or max(glob.glob("/usr/lib/postgresql/*/bin/postgres"), default=None)
    if found is None:
        if os.environ.get("PLUGHOLD_CLIENTS") == "1":
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    return str(Path(found).resolve().parent)


def free_port() -> int:
    """A port of loopback on which nobody listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(*command: str, **options: Any) -> None:
    """Run a command to its end; fails the test with what it said when it fails."""
    quiet = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "timeout": _PATIENCE}
    done = subprocess.run(command, check=False, **(quiet | options))
    assert done.returncode == 0, done.stdout + done.stderr
