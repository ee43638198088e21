"""Real spawners and workers for the tests of the walls: a small host, and what the tests ask of their machine."""

from __future__ import annotations

import array
import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import under_docker

CHECKOUT: Final = Path(__file__).parent.parent
NOBODY: Final = 65534
SYSTEM_PYTHON: Final = "/usr/bin/python3"
PATIENCE: Final = 20.0
"""Seconds after which something that should have happened never will."""

LIMITS: Final = {
    "data": 256 << 20,
    "as": 2 << 30,
    "nofile": 64,
    "fsize": 1 << 20,
    "stack": 8 << 20,
    "core": 0,
}

LIKE_DOCKER: Final = (
    f"made = {{'__name__': 'under_docker'}}; exec({Path(under_docker.__file__).read_text()!r}, made); made['install']()"
)
"""What Docker's default seccomp profile refuses, in force before the spawner starts; one line of code."""


_RUN: Final = "f = open(3, 'rb', closefd=False); exec(f.read(int.from_bytes(f.read(4), 'big')))"


def need(holds: object, what: str) -> None:
    """Skip the test where `what` is missing; fail it where nothing may be missing."""
    if not holds:
        if os.environ.get("PLUGHOLD_MUST_WORK") == "1":
            pytest.fail(f"missing: {what}")
        pytest.skip(what)


def ended(pidfd: int, seconds: float = PATIENCE) -> bool:
    """Wait for the end of a process."""
    return bool(select.select([pidfd], [], [], seconds)[0])


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker seen from its host: a handle of the process, and the other ends of its pipes."""

    pid: int
    pidfd: int
    calls: int
    replies: int
    events: int
    log: int

    def hang_up(self) -> None:
        """Close the pipes."""
        for descriptor in (self.calls, self.replies, self.events, self.log):
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def reply(self) -> bytes:
        """All that it writes to its reply pipe until nobody has that open any more."""
        return read_all(self.replies)


def read_all(descriptor: int) -> bytes:
    """Everything up to the end of a pipe."""
    content = b""
    while chunk := os.read(descriptor, 65536):
        content += chunk
    return content


class Host:
    """A spawner and the host's side of its control socket."""

    def __init__(self, *, user: int | None = None, before: str = "", base: bool = True, forks: bool = False) -> None:
        """As `user` with the system's interpreter, or as ourselves with our own; `before` runs in the spawner.

        With `forks` there is a fork server, and workers are copies of it which get their code over the call pipe.
        """
        self._copies = contextlib.ExitStack()
        python = SYSTEM_PYTHON if user is not None else sys.executable
        self.interpreter = str(Path(python).resolve())
        self.control, theirs = socket.socketpair()
        fd = theirs.fileno()
        paths = self._paths(user)
        server = f"import sys; sys.path[:0] = {paths!r}; from sandbox_worker.fork_server import main; main(); {_RUN}"
        self.server = [self.interpreter, "-I", "-S", "-B", "-c", server] if forks else []
        code = (
            f"import sys; sys.path[:0] = {paths!r}\n{before}\n"
            f"from sandbox_worker.walls.spawner import main; main({fd}, {os.getpid()})"
        )
        self.process = subprocess.Popen(
            [python, "-I", "-S", "-B", "-c", code],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            cwd="/",
        )
        theirs.close()
        self.ready: dict[str, Any] = {}
        self._workers: list[Worker] = []
        if base:
            self.send("base", self.base())
            _, self.ready = self.receive()

    def base(self) -> dict[str, object]:
        """The content of the first frame."""
        rules = self.base_rules()
        seen = [[path, "x" if "/lib" in path and "/etc" not in path else "r"] for path, _ in rules]
        links = [[path, os.readlink(path)] for path in ("/lib", "/lib64") if Path(path).is_symlink()]
        return {"rules": rules, "view": seen, "links": links, "interpreter": self.interpreter, "server": self.server}

    def base_rules(self) -> list[list[str]]:
        """What the interpreter reads to start and to import its standard library."""
        wanted = ["/usr/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/urandom"]
        if not self.interpreter.startswith("/usr/bin"):
            wanted.append(f"{sys.base_prefix}/lib")
        return [[os.path.realpath(path), "r"] for path in wanted if Path(path).exists()]

    def send(self, *message: object, descriptors: tuple[int, ...] = ()) -> None:
        """Send one frame."""
        body = msgpack.packb(message, unicode_errors="surrogateescape")
        self.send_raw(len(body).to_bytes(4, "big") + body, descriptors)

    def send_raw(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send bytes, the descriptors with the first one."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sent = self.control.sendmsg([data], rights)
        if sent < len(data):
            self.control.sendall(data[sent:])

    def receive(self) -> list[Any]:
        """The next frame. EOFError when the spawner has hung up."""
        self.control.settimeout(PATIENCE)
        size = int.from_bytes(self._read(4), "big")
        message: list[Any] = msgpack.unpackb(self._read(size))
        return message

    def ask(self, *message: object) -> list[Any]:
        """Send a frame and give the answer."""
        self.send(*message)
        return self.receive()

    def spawn(self, code: str, **changes: object) -> Worker:
        """Start a worker that runs `code`."""
        answer, worker = self.try_to_spawn(code, **changes)
        assert answer[0] == "spawned", answer
        return worker

    def try_to_spawn(self, code: str, **changes: object) -> tuple[list[Any], Worker]:
        """Ask for a worker: (the answer, the worker; its pid is 0 and its handle ours when there is none)."""
        calls, replies, events, log = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        wanted: dict[str, object] = {
            "argv": [self.interpreter, "-I", "-S", "-B", "-c", code],
            "env": {"LC_CTYPE": "C.UTF-8"},
            "cwd": "/",
            "rules": [],
            "links": [],
            "limits": LIMITS,
            "named": False,
            "tier": "confined",
            "forks": bool(self.server),
        }
        theirs = (calls[0], replies[1], events[1], log[1])
        self.send("spawn", wanted | changes, descriptors=theirs)
        for descriptor in theirs:
            os.close(descriptor)
        answer = self.receive()
        pid = answer[1] if answer[0] == "spawned" else 0
        if pid and self.server:
            os.write(calls[1], len(code.encode()).to_bytes(4, "big") + code.encode())
        handle = os.pidfd_open(pid or os.getpid())
        self._workers.append(Worker(pid, handle, calls[1], replies[0], events[0], log[0]))
        return answer, self._workers[-1]

    def reap(self, worker: Worker) -> int:
        """The wait status of a worker that ends by itself, or is killed."""
        worker.hang_up()
        kind, pid, status = self.ask("reap", worker.pid)
        assert (kind, pid) == ("reaped", worker.pid)
        return int(status)

    def run(self, code: str, **changes: object) -> tuple[bytes, str, int]:
        """Run `code` in a worker to its end: (what it replied, its log, its wait status)."""
        worker = self.spawn(code, **changes)
        reply, log = worker.reply(), read_all(worker.log).decode()
        return reply, log, self.reap(worker)

    def close(self) -> int:
        """Hang up and close everything; gives the spawner's exit code."""
        self.control.close()
        code = self.process.wait(PATIENCE)
        while self._workers:
            worker = self._workers.pop()
            worker.hang_up()
            os.close(worker.pidfd)
        self._copies.close()
        return code

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.control.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def _paths(self, user: int | None) -> list[str]:
        """Where the spawner imports from: the checkout, or copies that every user can read."""
        package = Path(msgpack.__file__).parent
        if user is None:
            return [str(CHECKOUT), str(package.parent)]
        folder = Path(self._copies.enter_context(tempfile.TemporaryDirectory(prefix="plughold-walls-")))
        shutil.copytree(CHECKOUT / "sandbox_worker", folder / "sandbox_worker")
        shutil.copytree(package, folder / "msgpack", ignore=shutil.ignore_patterns("*.so"))
        subprocess.run(["/bin/chmod", "-R", "a+rX", folder], check=True)
        return [str(folder)]
