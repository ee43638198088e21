"""Names and the addresses that they had a moment ago: resolved here, pinned, never by a worker."""

from __future__ import annotations

import socket
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

ANSWER_LIFE: Final = 60.0
"""Seconds for which an answer is given again, instead of asking anew."""
PIN_LIFE: Final = 120.0
"""Seconds for which a connection to an address passes for one to the name: an answer that is about to be replaced must
still be there when its client connects."""
ADDRESSES_MAX: Final = 32
"""Addresses of one name that are kept."""
_NAMES_MAX: Final = 4096
_AT_ONCE: Final = 16
_WAIT: Final = 10.0


class Names:
    """The pinned answers of all workers of a host. Thread-safe. `lookup` gives the packed addresses of a name."""

    def __init__(
        self, lookup: Callable[[str], tuple[bytes, ...]] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lookup = lookup or look_up
        self._clock = clock
        self._lock = threading.Lock()
        self._pins: dict[str, tuple[float, tuple[bytes, ...]]] = {}
        self._slots = threading.BoundedSemaphore(_AT_ONCE)

    def resolve(self, name: str) -> tuple[bytes, ...]:
        """The addresses of `name`, pinned from now on; none when it has none, or too many others are being resolved."""
        now = self._clock()
        with self._lock:
            made, addresses = self._pins.get(name, (now - PIN_LIFE, ()))
        if now - made < ANSWER_LIFE:
            return addresses
        if not self._slots.acquire(timeout=_WAIT):
            return ()
        try:
            addresses = self._lookup(name)[:ADDRESSES_MAX]
        finally:
            self._slots.release()
        with self._lock:
            self._pins[name] = self._clock(), addresses
            while len(self._pins) > _NAMES_MAX:
                del self._pins[next(iter(self._pins))]
        return addresses

    def pinned(self) -> dict[str, tuple[bytes, ...]]:
        """Every pinned name and its addresses."""
        oldest = self._clock() - PIN_LIFE
        with self._lock:
            return {name: addresses for name, (made, addresses) in self._pins.items() if made > oldest}

    def of(self, address: bytes) -> list[str]:
        """The names that `address` is pinned for."""
        return [name for name, addresses in self.pinned().items() if address in addresses]


def look_up(name: str) -> tuple[bytes, ...]:
    """The packed addresses of `name` as this machine resolves it, in its order; none when it does not."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    addresses = [socket.inet_pton(family, str(where[0]).partition("%")[0]) for family, _, _, _, where in found]
    return tuple(dict.fromkeys(addresses))
