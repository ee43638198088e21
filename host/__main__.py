"""`python -m host` and the console script `plughold`."""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

_NEEDED: Final = ("click", "rich")
INSTALL: Final = "pip install 'plughold[cli]'"


def main() -> None:
    """Run the command line; ends with SystemExit. Without its extra it says how to get it, with status 2."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        sys.exit(_say_how_to_install())
    from host.cli.app import run

    sys.exit(run(sys.argv[1:]))


def _say_how_to_install() -> int:
    print(INSTALL, file=sys.stderr)  # noqa: T201 - what the command line prints with is what is missing
    return 2


if __name__ == "__main__":
    main()
