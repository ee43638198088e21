"""The host's side of a helper process: exec'd once, watched, and asked over a socket pair, one frame at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

from host.errors import HostError
from host.run.pidfd import ended
from sandbox_worker import wire
from sandbox_worker.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from host.run.interpreter import Interpreter

ANSWER_TIMEOUT: Final = 20.0
"""Seconds within which a helper answers anything, or is taken for dead."""
_END_TIMEOUT: Final = 5.0
"""Seconds that it has to end once it is hung up on."""


class HelperGone(HostError):
    """A helper process died or stopped answering."""


class Helper:
    """One helper process, which runs `module`.main(descriptor, pid of the host). Thread-safe; `close` is idempotent."""

    name = "helper"
    gone: type[HelperGone] = HelperGone

    def __init__(self, interpreter: Interpreter, module: str) -> None:
        import subprocess

        self._lock = threading.Lock()
        self._encoder = wire.Encoder()
        self._reader = wire.FrameReader(wire.CONTROL_LIMIT)
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(ANSWER_TIMEOUT)
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(self._socket.close)
            path = [interpreter.root, os.path.dirname(dict(interpreter.packages)["msgpack"])]
            code = (
                f"import sys; sys.path[:0] = {path!r}; from {module} import main; "
                f"main({theirs.fileno()}, {os.getpid()})"
            )
            self._process = subprocess.Popen(
                [interpreter.executable, "-I", "-S", "-B", "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={},
                cwd="/",
            )
            undo.callback(self._process.wait)
            undo.callback(self._process.kill)
            self.pid: Final = self._process.pid
            # A handle, for an application may take its status, and then the pid is free for another process.
            self._pidfd = os.pidfd_open(self.pid)
            undo.pop_all()

    @property
    def alive(self) -> bool:
        """False once it was closed, did not answer, or died."""
        return self._socket.fileno() >= 0 and not ended(self._pidfd)

    def _tell(self, message: list[object], descriptors: Sequence[int] = ()) -> None:
        """Send a message that has no answer."""
        self._exchange(message, descriptors, answered=False)

    def _ask(self, answer: str, request: list[object] | None, descriptors: Sequence[int] = ()) -> list[Any]:
        """Send a request, or none, and give the reply, whose kind must be `answer`."""
        reply = self._exchange(request, descriptors, answered=True)
        if reply[0] != answer:
            raise HostError(f"the {self.name} can't {request[0] if request else 'start'}: {reply[1]}")
        return reply

    def _exchange(self, message: list[object] | None, descriptors: Sequence[int], *, answered: bool) -> list[Any]:
        with self._lock:
            if self._socket.fileno() < 0:
                raise self.gone(f"the {self.name} is gone")
            try:
                if message is not None:
                    frame = self._encoder.encode(message)
                    sent = socket.send_fds(self._socket, [frame], list(descriptors)) if descriptors else 0
                    self._socket.sendall(frame[sent:])
                return self._receive() if answered else []
            except (OSError, WireError) as e:
                self._socket.close()
                raise self.gone(f"the {self.name} does not answer: {e}") from e
            except BaseException:  # KeyboardInterrupt: its answer would be taken for that to the next request
                self._socket.close()
                raise

    def _receive(self) -> list[Any]:
        body = None
        while body is None:
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("it is gone")
            body = self._reader.feed(data)
        reply = wire.decode(body)
        if not isinstance(reply, list) or len(reply) < 2:
            raise WireError("a malformed answer")
        return reply

    def hang_up(self) -> None:
        """Have it end what it serves, and itself, and ask it nothing more."""
        self._socket.close()

    def close(self) -> None:
        """Hang up, and wait until it has ended."""
        self.hang_up()
        if self._pidfd >= 0:
            if not ended(self._pidfd, _END_TIMEOUT):
                self._process.kill()
            self._close_handle()
        # An application that reaps every child, or ignores SIGCHLD, took the status already: Popen copes with that.
        self._process.wait()

    def abandon(self) -> None:
        """In a forked child: close the descriptors without a word to the process, which is the parent's."""
        self._socket.close()
        self._close_handle()
        self._process.returncode = 0

    def _close_handle(self) -> None:
        handle, self._pidfd = self._pidfd, -1  # first: who is interrupted may come again, and the number be another's
        if handle >= 0:
            os.close(handle)
