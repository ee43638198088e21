"""Run all benchmarks, pinned to one CPU, and print one Markdown table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import (
    call,
    connect,
    death,
    files,
    large,
    loop,
    many,
    memory,
    messages,
    peers,
    pool,
    rules,
    sandboxes,
    start,
)

_MODULES = (
    start, rules, files, call, loop, large, pool, death, connect, memory, many, peers, messages, sandboxes,
)  # fmt: skip
_RUNS = 3
_INSTALL = "--install-peers"


def main() -> None:
    """Print a row per figure: the ratio, its target, and the medians behind it. Best of three runs of medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=main.__doc__)
    parser.add_argument(_INSTALL, action="store_true", help="install Deno and Node for this run, with pip")
    with tempfile.TemporaryDirectory() as folder:
        if parser.parse_args().install_peers:
            peers.install(Path(folder))
        _print_all()


def _print_all() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"Python {platform.python_version()}, Linux {platform.release()}, one CPU, best of {_RUNS} runs of medians\n")
    print("| figure | ratio or size | wanted | medians |\n| --- | --- | --- | --- |")
    for module in _MODULES:
        for row in module.rows(_RUNS):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
