"""The command `plughold`: which commands there are, and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from host.cli import failures
from host.cli.report import Report, failed, say

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = ("demo", "call", "can", "check", "doctor", "clear")
"""Each is the object of that name in the module of that name, imported when it is asked for: rich is slow to import."""
READER_GONE: Final = 141
"""128 and SIGPIPE, as a shell reports a program that this signal ended."""

_EPILOG: Final = (
    "Exit status: 0 done, 1 unexpected failure, 2 usage or bad manifest, 3 not granted, 6 above the ceiling, "
    "8 the needed tier can't be reached, 9 permission denied, 10 audit log broken, 11 the plugin raised, "
    "12 the worker crashed, 13 timed out, 14 a limit was exceeded, 15 protocol violation."
)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(importlib.import_module(f"host.cli.{cmd_name}"), cmd_name)
        return found


def _show_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        from host.cli.machine import version

        click.echo(f"plughold {version('plughold')}")
        context.exit()


@click.group(
    cls=_Commands,
    epilog=_EPILOG,
    invoke_without_command=True,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def plughold(context: click.Context) -> None:
    """Plugins in their own locked-down interpreters, called through pluggy as before."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(failures.USAGE)


def run(arguments: Sequence[str]) -> int:
    """Run one command line, without the program's name; the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to fail
    try:
        report = _report(arguments)
        if isinstance(report, int):
            return report
        say(report)
    except BrokenPipeError:
        _leave_stdout()
        return READER_GONE
    except KeyboardInterrupt:
        return failures.INTERRUPTED
    except OSError as error:  # a full disk behind stdout
        _leave_stdout()
        with contextlib.suppress(OSError):
            sys.stderr.write(f"plughold: the answer can't be written: {error.strerror}\n")
        return failures.UNEXPECTED
    return report.status


def _report(arguments: Sequence[str]) -> Report | int:
    """The report to say, or the exit status of what click itself has answered (``--help``, ``--version``)."""
    try:
        # Not `standalone_mode`: click would print usage errors itself, and not as JSON.
        result: Report | int = plughold.main(list(arguments), "plughold", standalone_mode=False)
    except (click.ClickException, click.Abort) as error:
        return dataclasses.replace(failed(error), as_json="--json" in arguments)
    return result


def _leave_stdout() -> None:
    """The interpreter flushes stdout once more at its end: give it something to flush to (signal's documentation)."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
