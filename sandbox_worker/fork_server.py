"""The fork server: an interpreter with a worker's modules loaded, of which each worker is a copy.

It serves the spawner, its parent, which traces it, and does as little as that takes: told to by a byte, it forks. It
holds nothing of the host and nothing of any plugin, not even for a moment: the copy's descriptors, its walls and its
settings come to the copy itself (`walls.forked`). So there is nothing in it that a worker could inherit but our own
modules, in memory that is laid out alike in all of them.
"""

from __future__ import annotations

import posix
import sys

from sandbox_worker.importer import SourceOnlyLoader

COMMANDS = 3
"""Where a byte asks for a worker, and where its copy waits for settings: the spawner puts its own pipe there."""
ARRIVALS = 20
"""A socket: "ready" goes out by it once, and descriptors come in by it, to a worker alone, which are below this one."""


def main() -> None:
    """Serve until the spawner hangs up, which ends the process. Returns in each worker, and only there."""
    import gc

    SourceOnlyLoader("", "").source_to_code(b"", "")  # the first compilation makes the classes of ast, a millisecond
    gc.collect()
    gc.freeze()  # the workers' collectors leave these pages shared
    del sys.modules["gc"], sys.modules[__name__]
    posix.write(ARRIVALS, b"ready")
    while posix.read(COMMANDS, 1):
        if not posix.fork():
            return
    posix._exit(0)
