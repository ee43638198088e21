"""What all commands share: the options, and how a function that returns a `Report` becomes a command."""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import TYPE_CHECKING, Any

import click

from host.cli.report import Report, failed

if TYPE_CHECKING:
    from collections.abc import Callable


def command(function: Callable[..., Report]) -> click.Command:
    """Make `function` the command of its name, with ``--json`` and ``--debug``; its docstring is the help.

    What it raises becomes a report of the failure. The report is the command's result, for `app` to say.
    """

    @functools.wraps(function)
    def run(as_json: bool, debug: bool, **options: Any) -> Report:
        try:
            report = function(**options)
        except click.ClickException:
            raise
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the edge: whatever it is becomes a report
            report = failed(error)
        debug = debug or bool(os.environ.get("PLUGHOLD_DEBUG"))
        return dataclasses.replace(report, as_json=as_json, debug=debug)

    made = click.command(context_settings={"max_content_width": 100})(run)
    made.params += [
        click.Option(["--json", "as_json"], is_flag=True, help="One JSON document on stdout, notes on stderr."),
        click.Option(["--debug"], is_flag=True, help="A traceback where something fails, as does PLUGHOLD_DEBUG=1."),
    ]
    return made
