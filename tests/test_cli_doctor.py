"""`plughold doctor`: what this machine reaches, proven by a worker, and the exit status that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cli_driver import environment, plughold
from rich.console import Console

from host.cli import machine
from host.cli.doctor import told
from host.cli.machine import Proof, layers
from host.run.tiers import PROOFS, strongest

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = set("tier needed ok layers missing reasons worker enforcement implied names versions error".split())
LAYERS = [
    "architecture", "namespaces", "landlock", "seccomp", "no_new_privs", "exec", "descriptors", "audit_hook", "keeper",
    "broker",
]  # fmt: skip


def test_this_machine_reaches_confined_and_a_worker_proves_it(must_work: Callable[[object, str], None]) -> None:
    ran = plughold("doctor", "--json")
    found = ran.document
    assert set(found) == KEYS
    must_work(found["tier"] in ("walled", "confined"), "Landlock and seccomp")
    assert (ran.status, found["ok"], found["missing"]) == (0, True, [])
    assert [layer["name"] for layer in found["layers"]] == LAYERS
    assert found["worker"]["error"] == ""
    assert set(found["worker"]["probed"]) == PROOFS[found["tier"]]
    assert [refused.rpartition(", by ")[2] for refused in found["worker"]["refused"]] == [
        "audit_hook",
        "the kernel (ENOENT)" if found["tier"] == "walled" else "the kernel (EACCES)",
    ]


def test_it_lists_what_every_worker_may_and_who_owns_the_import_names() -> None:
    found = plughold("doctor", "--json").document
    assert "/dev/urandom" in found["implied"]["fs.read"]
    assert found["implied"]["import"] == ["pluggy", "msgpack", "sandbox_worker"]
    assert found["names"]["host"]["ok"]
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_person_reads_it_in_100_columns_without_colour() -> None:
    ran = plughold("doctor", NO_COLOR="1")
    assert "\x1b" not in ran.out
    assert all(layer in ran.out for layer in LAYERS)
    assert max(map(len, ran.out.splitlines())) <= 100


def test_on_a_machine_without_landlock_it_says_what_is_missing_and_how_to_get_it() -> None:
    abilities: dict[str, Any] = {
        "landlock_abi": 0, "seccomp": True, "namespaces": False, "machine": "x86_64", "arch_supported": True,
        "missing": ["Landlock is switched off: add it to the kernel's lsm= boot parameter"],
    }  # fmt: skip
    proof = Proof(
        "filtered", 0.03, 0.0001, ("seccomp", "exec", "descriptors", "audit_hook"), ("open(), by audit_hook",)
    )
    document = {
        "tier": "filtered", "ok": False, "reasons": abilities["missing"], "enforcement": {}, "implied": {},
        "names": {"host": {"path": "/x", "claimed_by": ["host", "plughold"], "ok": False}}, "versions": {},
    }  # fmt: skip
    console = Console(width=100)
    with console.capture() as capture:
        for item in told(document, proof, layers(abilities, proof)):
            console.print(item)
    shown = " ".join(capture.get().split())
    assert strongest(abilities) == "filtered"
    for words in ("reaches tier filtered", "lsm= boot parameter", "Linux 5.13 or newer", "claimed by host, plughold"):
        assert words in shown


WITHOUT = """
import errno, runpy, sys
from sandbox_worker.walls import bpf, linux
linux.prctl(38, 1)
rules = dict.fromkeys(sys.argv.pop(1).split(), bpf.fail_with(errno.ENOSYS))
linux.install_filter(bpf.compile_filter(rules, bpf.ALLOW, linux.ARCHITECTURE).patch({}))
runpy.run_module("host", run_name="__main__", alter_sys=True)
"""
"""Runs the command line where these system calls are not to be had, as on an older kernel or in an outer sandbox."""


@pytest.mark.parametrize(
    ("calls", "tier", "missing"),
    [("landlock_create_ruleset", "filtered", 1), ("landlock_create_ruleset seccomp", "hooked", 2)],
)
def test_a_machine_that_lacks_a_wall_is_8_and_each_lack_is_told(
    calls: str, tier: str, missing: int, must_work: Callable[[object, str], None]
) -> None:
    must_work(machine.abilities()["seccomp"], "seccomp, to take calls away")
    command = [sys.executable, "-c", WITHOUT, calls, "doctor"]
    found = subprocess.run([*command, "--json"], capture_output=True, env=environment(), check=False)
    document = json.loads(found.stdout)
    assert (found.returncode, document["tier"], document["ok"]) == (8, tier, False)
    assert (len(document["missing"]), len(document["reasons"])) == (missing, missing)
    assert (document["worker"]["tier"], document["worker"]["error"]) == (tier, "")
    shown = subprocess.run(command, capture_output=True, env=environment(), check=False)
    assert shown.stdout.decode().startswith(
        f"This machine reaches tier {tier}; below confined the host starts no worker."
    )
