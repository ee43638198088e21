"""What a report says, and where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cli_driver import EVIL, EVIL_SHOWN
from rich.text import Text

from host.cli.report import Report, failed, say

if TYPE_CHECKING:
    import pytest


def test_a_person_gets_the_body_on_stdout_and_notes_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say(Report({"a": 1}, body=("plain  ", Text("styled", "bold")), notes=(f"note {EVIL}",)))
    assert capsys.readouterr() == ("plain\nstyled\n", f"note {EVIL_SHOWN}\n")


def test_a_program_gets_one_document_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    say(Report({"ü": "\x1b\u202e"}, body=("body",), notes=("note",), as_json=True))
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"ü": "\x1b\u202e"}, "note\n")
    assert out.isascii()


def test_a_failure_is_explained_to_a_person_and_recorded_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    say(failed(RuntimeError(EVIL)))
    out, err = capsys.readouterr()
    assert (out, EVIL_SHOWN in err) == ("", True)


def test_markup_in_a_text_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    say(Report(body=(Text("styled"), "[red]GRANTED[/red] :smile:")))
    assert capsys.readouterr().out == "styled\n[red]GRANTED[/red] :smile:\n"


def test_a_text_keeps_its_line_whatever_its_length(capsys: pytest.CaptureFixture[str]) -> None:
    say(Report(body=(Text(""), "x" * 300)))
    assert "x" * 300 in capsys.readouterr().out
