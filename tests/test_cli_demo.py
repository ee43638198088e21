"""`plughold demo`: good, hostile and broken plugins, each as it must be, in one host that ends unharmed."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from cli_driver import CHECKOUT, INVISIBLE, plughold
from until import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


def test_every_scenario_comes_out_as_it_must_and_the_host_is_unharmed(tmp_path: Path) -> None:
    ran = plughold("demo", "--json", TMPDIR=str(tmp_path))
    found = ran.document
    assert (ran.status, found["ok"]) == (0, True)
    assert found["tier"] in ("walled", "confined")
    assert [scenario["plugin"] for scenario in found["scenarios"] if not scenario["ok"]] == []
    layers = {scenario["layer"] for scenario in found["scenarios"]}
    assert {None, "audit_hook", "landlock", "own process", "call_timeout", "limit memory"} <= layers
    assert found["host"]["unharmed"]
    assert os.listdir(tmp_path) == []
    assert all(0 < scenario["duration_s"] < PATIENCE for scenario in found["scenarios"])


def test_a_person_reads_a_table_in_100_columns() -> None:
    ran = plughold("demo", NO_COLOR="1")
    assert (ran.status, ran.err) == (0, "")
    assert not INVISIBLE.search(ran.out)
    assert max(map(len, ran.out.splitlines())) <= 100
    assert ran.out.rstrip().endswith("unharmed.")


def test_an_installed_demo_finds_its_examples_and_one_surprise_makes_it_1(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "examples")
    for package in ("host", "sandbox_worker"):
        shutil.copytree(CHECKOUT / package, tmp_path / package, ignore=ignore)
    for folder in ("manifests", "plugins_example"):
        shutil.copytree(CHECKOUT / folder, tmp_path / "host" / "examples" / folder, ignore=ignore)
    (tmp_path / "host" / "examples" / "plugins_example" / "slugify" / "slugify.py").write_text("import nothing_at_all")
    ran = plughold("demo", "--json", folder=tmp_path)
    surprises = {act["plugin"]: act["error"]["type"] for act in ran.document["scenarios"] if not act["ok"]}
    assert (ran.status, ran.document["ok"], surprises) == (1, False, {"slugify": "PluginStartError"})
    assert ran.document["host"]["unharmed"]
