"""What a command has to say, and the one place where it is said.

A command returns a `Report` and prints nothing. With ``--json`` its document goes to stdout, one JSON text of ASCII;
else its body does, and where it failed the explanation goes to stderr. Notes go to stderr either way.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final, TextIO

from host.cli import failures
from host.cli.shown import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

WIDTH: Final = 100
"""Columns that tables and paragraphs for a person fit in."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one command.

    `document` is plain data for JSON; `body` are texts, already made visible and printed as they are, and rich
    renderables; `stream`, in place of both, are lines written as they come. `status` is the exit status; `error` is
    what made the command fail, explained to a person by `failures`, with `rule` as the deciding rule where it is a
    refusal. `as_json` and `debug` are the options that say how all this is told.
    """

    document: Any = None
    body: tuple[RenderableType, ...] = ()
    notes: tuple[str, ...] = ()
    stream: Iterable[str] | None = None
    status: int = 0
    error: BaseException | None = None
    rule: str = ""
    as_json: bool = False
    debug: bool = False


def failed(error: BaseException) -> Report:
    """The report of a command that failed as a whole."""
    return Report({"error": failures.record(error)}, status=failures.status_of(error), error=error)


def say(report: Report) -> None:
    """Print `report`. Raises BrokenPipeError when the reader of stdout is gone."""
    for note in report.notes:
        _write(sys.stderr, f"{shown(note)}\n")
    if report.error is not None and report.debug:
        _write(sys.stderr, shown("".join(traceback.format_exception(report.error))))
    if report.error is not None and not report.as_json:
        _write(sys.stderr, f"{shown(failures.explain(report.error, report.rule))}\n")
    if report.stream is not None:
        for line in report.stream:
            _write(sys.stdout, f"{line}\n")
    elif report.as_json:
        _write(sys.stdout, f"{json.dumps(report.document, allow_nan=False, indent=2)}\n")
    elif report.body:
        _write(sys.stdout, _rendered(report.body))


def _rendered(body: tuple[RenderableType, ...]) -> str:
    """The body as text, with the terminal's colours where stdout is one and NO_COLOR does not forbid them."""
    if all(isinstance(item, str) for item in body):
        return "".join(f"{item}\n" for item in body)
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    with console.capture() as capture:
        for item in body:
            console.print(item, soft_wrap=isinstance(item, str))
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())  # tables fill their columns


def _write(stream: TextIO | None, text: str) -> None:
    # A program that was started with the descriptor closed has None here (sys.stdout in Python's documentation).
    if stream is not None:
        stream.write(text)
        stream.flush()
