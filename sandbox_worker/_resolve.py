"""Looking up names in a worker that has a grant of some: the broker is asked first, then its hosts file is read.

The C library reads /etc/hosts, which the broker answers; a file can't hold every name of `*.example.com`. So each
lookup of Python code first opens a path that no file has, by which the broker learns the name (`messages`), resolves
it, and puts it into the file. Only who asks so early that the name is known gets wildcard names: a C library's own
lookups get the names that a rule spells out.
"""

from __future__ import annotations

import posix
import sys

from sandbox_worker.errors import PermissionDenied
from sandbox_worker.messages import RESOLVE_PREFIX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_AF_INET: Final = 2
_AF_INET6: Final = 10


def install() -> None:
    """Replace the lookups of `_socket`, before `socket` takes them from there."""
    import _socket

    original, by_name, by_name_ex = _socket.getaddrinfo, _socket.gethostbyname, _socket.gethostbyname_ex

    def getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:  # noqa: A002 - as the original has it
        host = _ask(host, port, ("socket.getaddrinfo", port, family, type, proto), _socket.inet_pton)
        return original(host, port, family, type, proto, flags)

    def gethostbyname(host: Any) -> Any:
        return by_name(_ask(host, None, ("socket.gethostbyname",), _socket.inet_pton))

    def gethostbyname_ex(host: Any) -> Any:
        return by_name_ex(_ask(host, None, ("socket.gethostbyname",), _socket.inet_pton))

    _socket.getaddrinfo = getaddrinfo
    _socket.gethostbyname = gethostbyname
    _socket.gethostbyname_ex = gethostbyname_ex


def _ask(host: Any, port: Any, event: tuple[Any, ...], inet_pton: Any) -> Any:
    """Let the audit hook judge the name, then the broker resolve it; gives the name as the C library takes it."""
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii")
    if not isinstance(host, str) or not host or _is_address(host, inet_pton):
        return host
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    sys.audit(event[0], host, *event[1:])
    try:
        posix.close(posix.open(RESOLVE_PREFIX + host, posix.O_RDONLY))
    except FileNotFoundError:
        pass  # it was resolved
    except PermissionDenied:
        raise
    except PermissionError:
        raise PermissionDenied("net.connect", host if port is None else f"{host}:{port}") from None
    return host


def _is_address(host: str, inet_pton: Any) -> bool:
    for family in (_AF_INET, _AF_INET6):
        try:
            inet_pton(family, host.partition("%")[0])
        except OSError:
            continue
        return True
    return False
