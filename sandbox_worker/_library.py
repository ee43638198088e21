"""What the standard library takes for granted and a worker is not, put right in each module when it is loaded."""

from __future__ import annotations

import _thread
import posix
import sys

from sandbox_worker._loading import after_loading
from sandbox_worker.permissions import path_verdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def install(main_thread: int, read: tuple[tuple[str, ...], ...]) -> None:
    """Call on the plugin's thread; `main_thread` is the other one's identifier, `read` is what may be read, as
    `permissions.path_verdict` takes it."""
    plugins_thread = _thread.get_ident()
    after_loading("threading", lambda threading: _know_main_thread(threading, main_thread))
    after_loading("mimetypes", lambda mimetypes: _forget_unreadable(mimetypes.knownfiles, read))
    if sys.version_info < (3, 14):  # which makes a loop unasked on no thread
        # `asyncio.get_event_loop` makes a loop where there is none, on the main thread: older code counts on that.
        after_loading(
            "asyncio.events", lambda events: setattr(events, "threading", _Threads(events.threading, plugins_thread))
        )


def _know_main_thread(threading: Any, ident: int) -> None:
    """Before CPython 3.13 `threading` takes the thread that first imports it for the main one. A plugin's is not: who
    asks whether it may handle signals, as event loops do, is told what the interpreter would tell it."""
    main = threading.main_thread()
    if main.ident != ident:
        threading._active.pop(main.ident, None)
        threading._active[ident] = main
    main._ident, main._native_id = ident, posix.getpid()
    threading.current_thread()._daemonic = False  # what it starts is no daemon either, as in a program of its own


class _Threads:
    """`threading` as a module sees it that asks whether it runs on the main thread: the plugin's own passes for it."""

    def __init__(self, threading: Any, plugins_thread: int) -> None:
        self._threading = threading
        self._plugins_thread = plugins_thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._threading, name)

    def main_thread(self) -> Any:
        """The plugin's thread, when that asks."""
        own = _thread.get_ident() == self._plugins_thread
        return self._threading.current_thread() if own else self._threading.main_thread()


def _forget_unreadable(files: list[str], read: tuple[tuple[str, ...], ...]) -> None:
    """`mimetypes` reads each of its files that exists, and fails whole where one is refused."""
    files[:] = [file for file in files if path_verdict(file, *read) == 1]
