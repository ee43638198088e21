"""Runs the real command line in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
INVISIBLE: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
"""What never reaches a terminal, newlines aside."""
EVIL: Final = "\x1b[2J\u202egnp\u200b"
"""Clears a terminal, turns the reading direction around, hides in nothing."""
EVIL_SHOWN: Final = r"\x1b[2J\u202egnp\u200b"


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run ended with."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout as the one JSON document that it must be, in ASCII."""
        assert self.out.isascii()
        return json.loads(self.out)


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with the checkout importable, and `changes`."""
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), **changes}


def plughold(*arguments: object, stdin: str = "", folder: Path = CHECKOUT, **variables: str) -> Ran:
    """``python -m host ARGUMENTS`` of the packages in `folder`, with `stdin` and environment `variables`."""
    command = [sys.executable, "-m", "host", *map(str, arguments)]
    done = subprocess.run(
        command,
        input=stdin.encode(),
        capture_output=True,
        cwd=folder,
        env=environment(**{"PYTHONPATH": str(folder)} | variables),
        timeout=200,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
