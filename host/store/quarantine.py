"""Which plugins of a project are quarantined, kept over all processes: one small JSON file for each.

They lie in ``.quarantine`` beside the plugins' data folders, whose names have no dot. A plugin that may write there can
free itself: quarantine spares the application a plugin that fails, and holds nobody. But it can't lead the host
elsewhere: the folder is opened without following a link, and everything in it is named from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import secrets
import stat
from typing import TYPE_CHECKING, Any, Final

from host.model.sanitise import visible
from host.model.supervision import Quarantine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER: Final = ".quarantine"
_FILE_MAX: Final = 1 << 14
_TEXT_MAX: Final = 4096
_LATEST: Final = 253402300799.0
"""The last second that datetime can show."""
_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")


class Quarantines:
    """The quarantined plugins of one project, whose data lies in `data`."""

    def __init__(self, data: Path) -> None:
        self._data: Final = data

    def get(self, name: str) -> Quarantine | None:
        """Why the plugin is quarantined; None where it is not, or where what is kept can't be made sense of."""
        try:
            with self._opened() as folder:
                file = os.open(
                    file_name(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
                )
                with open(file, "rb") as stream:
                    if not stat.S_ISREG(os.fstat(file).st_mode):
                        return None
                    content = stream.read(_FILE_MAX + 1)
        except OSError:
            return None
        found = _read(content)
        return found if found is not None and found.name == name else None

    def put(self, quarantine: Quarantine) -> None:
        """Keep one, in place of an older one for this name. Raises OSError."""
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._data / FOLDER, 0o700)
        content = json.dumps(dataclasses.asdict(quarantine), ensure_ascii=True).encode("ascii")
        with self._opened() as folder:
            new = f".{secrets.token_hex(16)}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(new, flags, 0o600, dir_fd=folder)
            try:
                with open(file, "wb") as stream:
                    stream.write(content)
                os.replace(new, file_name(quarantine.name), src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new, dir_fd=folder)
                raise

    def remove(self, name: str) -> bool:
        """Keep none for this name any more; False where there was none. Raises OSError where it can't be removed."""
        try:
            with self._opened() as folder:
                os.unlink(file_name(name), dir_fd=folder)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        folder = os.open(self._data / FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)


def file_name(name: str) -> str:
    """The file's name for a plugin's. Raises ValueError for what is no name of a plugin."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{visible(name, 100)!r} is no name of a plugin")
    return f"{name}.json"


def _read(content: bytes) -> Quarantine | None:
    """What a file says, if it says it as `Quarantines.put` does; whoever wrote it, its texts are visible after this."""
    if len(content) > _FILE_MAX:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    fields = {field.name: found.get(field.name) for field in dataclasses.fields(Quarantine)} if _is_table(found) else {}
    texts = ("name", "version", "manifest", "reason")
    if not all(type(fields.get(name)) is str for name in texts):
        return None
    since, failures = fields["since"], fields["failures"]
    if type(since) not in (int, float) or not 0 <= since <= _LATEST or type(failures) is not int or failures < 1:
        return None
    return Quarantine(
        **{name: fields[name] if name == "manifest" else visible(fields[name], _TEXT_MAX) for name in texts},
        since=float(since),
        failures=failures,
    )


def _is_table(found: Any) -> bool:
    return isinstance(found, dict)
