"""A worker without a host: the tests hold the other ends of its pipes and speak the wire themselves.

It runs at tier `hooked`, as a plain child: what is tested is the worker's own code, not the walls around it.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any, Final

from host.run import interpreter as interpreters
from host.run.launch import Bare, Launch
from sandbox_worker import messages, wire

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE: Final = 20.0
"""Seconds after which something that should have happened never will."""

PROBE: Final = "/proc/self/stat"


class RawWorker:
    """One worker process for the module `plugin` in `folder`."""

    def __init__(self, folder: Path, source: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "plugin.py").write_text(source)
        found = interpreters.find()
        pipes = [os.pipe() for _ in range(4)]
        self._calls, self.replies, self.events, self._log = (
            pipes[0][1], pipes[1][0], pipes[2][0], pipes[3][0],
        )  # fmt: skip
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1], pipes[3][1]]
        launch = Launch(
            tier="hooked", settings={}, rules=(), limits={}, environment={"LC_CTYPE": "C.UTF-8"}, folder=str(folder)
        )
        self.process = Bare(found, launch, theirs)
        for descriptor in theirs:
            os.close(descriptor)
        readable = tuple(path + "/" for path in (str(folder), *found.readable))
        self.settings: dict[str, Any] = {
            "wire": wire.VERSION,
            "tier": "hooked",
            "project": "tests",
            "entry": "plugin",
            "functions": {},
            "packages": dict(found.packages),
            "libraries": [path + "/" for path in found.libraries],
            "trusted": [path + "/" for path in (*found.libraries, *(folder for _, folder in found.packages))],
            "path": [str(folder)],
            "read": [readable, ("/dev/null/", "/dev/urandom/"), ()],
            "write": [(), (), ()],
            "probe": PROBE,
            "refused": [PROBE, os.O_RDONLY],
            "outside": PROBE,
            "result_size": 1 << 20,
            "native": {},
            "sys": [],
            "run": False,
            "pages": 65536,
            "interfaces": [],
            "implied": [],
        }
        self._reader = wire.FrameReader(1 << 26)
        self._encode = wire.Encoder().encode

    def send_raw(self, data: bytes) -> None:
        """Bytes on the call pipe."""
        os.write(self._calls, data)

    def send(self, *message: object) -> None:
        """One message."""
        self.send_raw(self._encode(list(message)))

    def receive(self) -> Any:
        """The next message, or None when the worker has closed its pipe."""
        body = self._reader.next()
        while body is None:
            assert select.select([self.replies], [], [], PATIENCE)[0], "no message"
            data = os.read(self.replies, 1 << 16)
            if not data:
                return None
            body = self._reader.feed(data)
        return wire.decode(body)

    def start(self, **changes: object) -> Any:
        """Send the settings; the first message."""
        self.send(messages.INIT, self.settings | changes)
        return self.receive()

    def call(self, call_id: int, hook: str, **arguments: object) -> Any:
        """One call and its reply."""
        self.send(messages.CALL, call_id, hook, arguments)
        return messages.reply_to(call_id, self.receive())

    def hang_up(self) -> None:
        """Close the call pipe."""
        if self._calls >= 0:
            os.close(self._calls)
            self._calls = -1

    def ended(self) -> int:
        """Wait for its end: the exit code."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            assert select.select([pidfd], [], [], PATIENCE)[0], "it did not end"
        finally:
            os.close(pidfd)
        return os.waitstatus_to_exitcode(self.process.reap())

    def close(self) -> None:
        """Hang up and kill it, whatever it waits for; give back everything."""
        self.hang_up()
        self.process._process.kill()
        os.close(self.replies)
        self.process.reap()
        for descriptor in (self.events, self._log):
            os.close(descriptor)
