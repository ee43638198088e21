"""A plugin that reads files by native code: no audit hook sees it, so what refuses it is the kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NAME: Final = "openssl-reader"
HOOK: Final = "read_natively"

_MODULE: Final = """\
import ssl


def read(path):
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
"""
_MANIFEST: Final = """\
schema = 1
[plugin]
name = "{name}"
version = "1.0.0"
project = "{project}"
description = "Hostile: reads files by OpenSSL's own code"
[functions]
{hook} = "openssl_reader:read"
"""


def write(folder: str, project: str) -> str:
    """Write the plugin to a new folder beneath `folder`; the path of its manifest. Raises OSError."""
    own = Path(folder, NAME)
    own.mkdir()
    (own / "openssl_reader.py").write_text(_MODULE, encoding="utf-8")
    manifest = own / "plughold.toml"
    manifest.write_text(_MANIFEST.format(name=NAME, project=project, hook=HOOK), encoding="utf-8")
    return str(manifest)
