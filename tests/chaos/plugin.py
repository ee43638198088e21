"""The plugin that is made to suffer: what it is to do stands in the call, and what it did in a ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MODULE: Final = """\
import os
from sandbox_worker.plugin_api import HookimplMarker, context

hookimpl = HookimplMarker("chaos")
_ledger = os.open(context.data / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@hookimpl
def work(token, action, payload):
    os.write(_ledger, token.to_bytes(8, "big"))
    if action == "raise":
        raise ValueError(token)
    if action == "exit":
        os._exit(3)
    if action == "abort":
        os.abort()
    if action == "garbage":
        os.write(4, b"\\0\\0\\0\\1\\xc1")
    if action == "half":
        os.write(4, b"\\0\\0\\0\\x10half")
        os._exit(4)
    if action == "hang":
        while True:
            pass
    if action == "devour":
        held = []
        while True:
            held.append(bytearray(1 << 20))
    if action == "reach":
        open("/etc/shadow")
    if action == "print":
        print("token", token)
    return [token, payload[::-1]]
"""

_MANIFEST: Final = """\
schema = 1
[plugin]
name = "{name}"
version = "1"
project = "chaos"
entry = "chaos_plugin"
instances = {instances}
[permissions]
fs.write = ["${{data}}"]
[limits]
memory = "64 MiB"
call_timeout = "{call_timeout}"
"""


def manifest(folder: Path, name: str, instances: int, call_timeout: str) -> Path:
    """Write the plugin under `name` into a folder of its own; the manifest's path."""
    mine = folder / name
    mine.mkdir()
    (mine / "chaos_plugin.py").write_text(MODULE)
    file = mine / "plughold.toml"
    file.write_text(_MANIFEST.format(name=name, instances=instances, call_timeout=call_timeout))
    return file


def ledger(data: Path, name: str) -> list[int]:
    """The tokens of all calls that a worker of this plugin began on, each as often as it did."""
    content = (data / name / "ledger").read_bytes()
    return [int.from_bytes(content[at : at + 8], "big") for at in range(0, len(content), 8)]
