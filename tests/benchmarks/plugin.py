"""The plugin under measurement, and its manifests."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = "def echo(value):\n    return value\n"
_numbers = itertools.count()


def manifest(folder: Path) -> Path:
    """A new manifest in `folder` for a `[functions]` plugin with the hook ``echo(value)``."""
    (folder / "echo_plugin.py").write_text(SOURCE)
    number = next(_numbers)
    path = folder / f"echo{number}.toml"
    path.write_text(
        f'schema = 1\n[plugin]\nname = "echo{number}"\nversion = "1"\nproject = "bench"\n'
        '[functions]\necho = "echo_plugin:echo"\n'
    )
    return path
