"""A function becomes a command: its options, and a report whatever happens in it."""

from __future__ import annotations

import click
import pytest

from host.cli.command import command
from host.cli.report import Report


@command
@click.argument("what")
def sample(what: str) -> Report:
    """Say one thing."""
    if what == "break":
        raise RuntimeError(what)
    if what == "interrupt":
        raise KeyboardInterrupt
    return Report({"what": what})


def run(*arguments: str) -> Report:
    report = sample.main(list(arguments), standalone_mode=False)
    assert isinstance(report, Report)
    return report


def test_its_report_is_the_result_and_knows_how_it_is_to_be_told() -> None:
    assert run("x") == Report({"what": "x"})
    assert run("x", "--json", "--debug") == Report({"what": "x"}, as_json=True, debug=True)


def test_what_it_raises_becomes_a_report() -> None:
    assert run("break").status == 1
    assert run("interrupt").status == 130


def test_a_usage_error_stays_click_s() -> None:
    with pytest.raises(click.UsageError):
        run()


def test_debug_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUGHOLD_DEBUG", "1")
    assert run("x").debug
