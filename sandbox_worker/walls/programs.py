"""What the kernel opens to execute one program: the program, the interpreters of a script, their loader."""

from __future__ import annotations

import errno
import os
import stat

from sandbox_worker._links import links_on, places_on

from .elf import loader_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

_START: Final = 65536  # more than a linker puts before the end of PT_INTERP
_SCRIPT: Final = b"#!"
_LINE: Final = 255  # BINPRM_BUF_SIZE less one (include/uapi/linux/binfmts.h)
_MOST_SCRIPTS: Final = 4  # scripts that are the interpreters of scripts (fs/exec.c, exec_binprm)


class Program:
    """`path` is the program itself; `files` all that is opened, `spelled` by which paths, `links` (path, target) those
    on their way."""

    __slots__ = ("files", "links", "path", "spelled")

    def __init__(
        self, path: str, files: tuple[str, ...], spelled: tuple[str, ...], links: tuple[tuple[str, str], ...]
    ) -> None:
        self.path = path
        self.files = files
        self.spelled = spelled
        self.links = links


def place(path: str) -> str:
    """`path` with its folder resolved, and its last part as it is."""
    folder, name = os.path.split(os.path.normpath(path) if "/.." not in path else path)
    return os.path.join(os.path.realpath(folder), name)


def leads_through(path: str, roots: Iterable[str]) -> bool:
    """Whether anything on the way to `path`, or itself, lies in one of the folders `roots`: who may write there chooses
    what `path` leads to, today or tomorrow."""
    beneath = tuple(root.rstrip("/") + "/" for root in roots)
    return any(f"{where}/".startswith(beneath) for where, _ in places_on(path, _readlink))


def look_up(path: str) -> Program:
    """What executing `path` opens. OSError where it can't be: what is missing, is no file, or may not be executed."""
    real = os.path.realpath(path)
    spelled, files, current = [path], [real], real
    for _ in range(_MOST_SCRIPTS + 1):
        start = _start_of(current)
        opened = interpreter_of(start)
        if opened is None:
            break
        spelled.append(opened)
        current = os.path.realpath(opened)
        files.append(current)
        if not start.startswith(_SCRIPT):
            break
    links = {link: target for text in spelled for link, target in links_on(text, _readlink)}
    return Program(real, tuple(dict.fromkeys(files)), tuple(spelled), tuple(links.items()))


def interpreter_of(start: bytes) -> str | None:
    """The program that runs one that starts like this: a script's interpreter, a loader; None for none (execve(2))."""
    if start.startswith(_SCRIPT):
        words = start[len(_SCRIPT) : _LINE].partition(b"\n")[0].split()
        found = words[0].decode("utf-8", "surrogateescape") if words else ""
    else:
        try:
            found = loader_of(start) or ""
        except ValueError:
            return None
    return found if found.startswith("/") and "\0" not in found else None


def _start_of(path: str) -> bytes:
    """OSError EACCES for what is no regular file or nobody's to execute, as execve(2) has it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode) or not mode & 0o111:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return os.read(descriptor, _START)
    finally:
        os.close(descriptor)


def _readlink(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
