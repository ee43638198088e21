"""Run all benchmarks, pinned to one CPU, and print one Markdown table."""

from __future__ import annotations

import os
import platform
import sys

from tests.benchmarks import call, connect, many, memory, start

_RUNS = 3


def main() -> None:
    """Print a row per figure: the ratio, its target, and the medians behind it. Best of three runs of medians."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"Python {platform.python_version()}, Linux {platform.release()}, one CPU, best of {_RUNS} runs of medians\n")
    print("| figure | ratio or size | wanted | medians |\n| --- | --- | --- | --- |")
    for module in (start, call, connect, memory, many):
        for row in module.rows(_RUNS):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
