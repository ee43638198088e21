"""Run the storm, or with --soak the soak: `python -m tests.chaos [--soak] [--calls N] [--plugins N] [--seed N]
[--start fork]`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from tests.chaos.soak import levels
from tests.chaos.storm import Storm


def main() -> int:
    """Exit status 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--calls", type=int)
    parser.add_argument("--plugins", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--start", choices=("exec", "fork"), default="exec")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        if options.soak:
            for level in levels(Path(folder), options.calls or 200_000, options.start):
                print(level, flush=True)
            return 0
        calls = options.calls or 10_000
        rest = {"plugins": options.plugins, "seed": options.seed, "start": options.start}
        outcome = Storm(Path(folder), calls=calls, **rest).run()
    print(f"seed {options.seed}, {options.plugins} plugins, start {options.start}: {outcome}")
    print(*outcome.wrong[:20], sep="\n")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
