"""The steps of the lockdown, as the host reads them from an exit code."""

from __future__ import annotations

import subprocess
import sys

from sandbox_worker.walls.steps import EXIT_BASE, STEPS, step_of


def test_every_step_has_its_own_exit_code() -> None:
    assert [step_of(EXIT_BASE + index) for index in range(len(STEPS))] == list(STEPS)


def test_other_exit_codes_name_no_step() -> None:
    assert {step_of(code) for code in (-9, 0, 1, EXIT_BASE - 1, EXIT_BASE + len(STEPS), 255)} == {None}


def test_codes_stay_below_those_that_shells_use_for_signals() -> None:
    assert EXIT_BASE + len(STEPS) <= 128


def test_the_host_can_import_the_steps_without_ctypes() -> None:
    code = "import sys, sandbox_worker.walls.steps; sys.exit('ctypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-S", "-c", code], check=False).returncode == 0
