"""`plughold check`: every manifest is judged, what each requests is listed, nothing is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli_driver import INVISIBLE, plughold

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Plugins


def test_what_a_manifest_requests_implies_denies_and_limits_is_listed(plugin_from: Plugins, tmp_path: Path) -> None:
    file = plugin_from.manifest(
        "",
        plugin={"path": "..", "environment": "host", "description": "Says so"},
        permissions={"fs.read": [{"target": "/srv", "reason": "input", "optional": True}], "env": ["LANG"]},
        deny={"fs.write": ["/srv/x"]},
        limits={"memory": "64 MiB"},
    )
    [found] = plughold("check", file, "--json").document["manifests"]
    assert (found["ok"], found["name"], found["version"], found["project"]) == (True, "plugin-1", "1.0", "tests")
    assert [(entry["kind"], entry["target"], entry["reason"], entry["optional"]) for entry in found["permissions"]] == [
        ("fs.read", "/srv", "input", True),
        ("env", "LANG", "", False),
    ]
    assert [(entry["kind"], entry["target"]) for entry in found["implied"]] == [
        ("fs.read", str(tmp_path)),
        ("environment", "host"),
    ]
    assert [entry["target"] for entry in found["deny"]] == ["/srv/x"]
    assert found["limits"]["memory"] == 64 << 20
    shown = plughold("check", file).out
    for words in ("“Says so”", "fs.read /srv, optional  “input”", "env LANG", "environment host", "memory 64 MiB"):
        assert words in shown


def test_one_bad_manifest_makes_it_2_and_all_are_reported(plugin_from: Plugins, tmp_path: Path) -> None:
    good, bad = plugin_from.manifest(""), tmp_path / "bad.toml"
    bad.write_text('schema = 1\nsurprise = "yes"\n')
    ran = plughold("check", bad, tmp_path / "none.toml", good, "--json")
    assert (ran.status, ran.document["ok"]) == (2, False)
    assert [entry["ok"] for entry in ran.document["manifests"]] == [False, False, True]
    assert ran.document["manifests"][0]["error"]["key"] == "surprise"
    assert "3 checked, 2 bad" in plughold("check", bad, tmp_path / "none.toml", good).out


def test_what_an_author_writes_is_made_visible_and_fits_100_columns(plugin_from: Plugins) -> None:
    evil = "\u202e" + "long " * 60 + "\u200b[bold red]GRANTED[/]"
    file = plugin_from.manifest(
        "", plugin={"description": evil}, permissions={"fs.read": [{"target": "/srv/" + "x" * 150, "reason": evil}]}
    )
    ran = plughold("check", file, NO_COLOR="1")
    assert ran.status == 0
    assert not INVISIBLE.search(ran.out)
    assert r"\u202elong" in ran.out
    assert "[bold red]GRANTED[/]" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 100


def test_the_arguments_of_a_command_are_shown_so_that_each_can_be_told_from_the_next(plugin_from: Plugins) -> None:
    run = [
        {"target": "/usr/bin/git", "argv": ["log", "a b", "**", "", "x\n  requests  env", 'say "so"']},
        {"target": "/bin/ls", "argv": []},
        {"target": "/bin/sort", "reason": "sorts\n  requests  nothing"},
    ]
    ran = plughold("check", plugin_from.manifest("", permissions={"run": run}))
    assert r'''run /usr/bin/git log "a b" ** "" "x\n  requests  env" "say \"so\""''' in ran.out
    assert "run /bin/ls without arguments\n" in ran.out
    assert r"run /bin/sort with any arguments  “sorts\n  requests  nothing”" in ran.out


def test_a_mistake_is_made_visible_too(plugin_from: Plugins) -> None:
    file = plugin_from.manifest("", plugin={"version": "1\u202e0"})
    ran = plughold("check", file)
    assert ran.status == 2
    assert r"1\u202e0" in ran.out
    assert not INVISIBLE.search(ran.out)


def test_a_terminal_without_unicode_is_no_failure(plugin_from: Plugins) -> None:
    file = plugin_from.manifest("", plugin={"description": "größer"})
    ran = plughold("check", file, PYTHONIOENCODING="ascii")
    assert ran.status == 0
    assert r"gr\xf6\xdfer" in ran.out


def test_nothing_of_the_plugin_runs(plugin_from: Plugins, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    file = plugin_from.manifest(f"open({str(marker)!r}, 'w')\n")
    assert plughold("check", file).status == 0
    assert not marker.exists()
