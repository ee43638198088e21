"""Bytecode as an attacker would plant it beside a plugin's source."""

from __future__ import annotations

import importlib.util
import marshal
import struct
from pathlib import Path
from typing import Final

MAGIC: Final = importlib.util.MAGIC_NUMBER


def poison(source: Path, code: str) -> Path:
    """Bytecode of other code, as the import system would take it: right place, right size and time of the source."""
    stat = source.stat()
    cached = Path(importlib.util.cache_from_source(str(source)))
    cached.parent.mkdir(exist_ok=True)
    header = MAGIC + struct.pack("<III", 0, int(stat.st_mtime), stat.st_size)
    cached.write_bytes(header + marshal.dumps(compile(code, str(source), "exec")))
    return cached
