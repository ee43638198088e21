"""A plugin neither reads, signals nor steers another process: not the host, not another plugin's worker, not init."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

import host

TIERS: Final = ["confined", "filtered"]

WAYS: Final = {
    "kill": "os.kill(pid, signal.SIGTERM)",
    "kill 0": "os.kill(pid, 0)",
    "kill its group": "os.kill(-os.getpgid(pid), signal.SIGTERM)",
    "killpg": "os.killpg(os.getpgid(pid), signal.SIGTERM)",
    "kill everything": "os.kill(-1, signal.SIGTERM)",
    "pidfd": "signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGTERM)",
    "priority": "os.setpriority(os.PRIO_PROCESS, pid, 19)",
    "priority of the user": "os.setpriority(os.PRIO_USER, os.getuid(), 19)",
    "priority of the group": "os.setpriority(os.PRIO_PGRP, os.getpgid(pid), 19)",
    "processors": "os.sched_setaffinity(pid, {0})",
    "scheduling": "os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))",
    "limits": "resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))",
    "limits, to read": "resource.prlimit(pid, resource.RLIMIT_NOFILE)",
    "memory": "os.open(f'/proc/{pid}/mem', os.O_RDWR)",
    "environment": "open(f'/proc/{pid}/environ').read()",
    "descriptors": "os.listdir(f'/proc/{pid}/fd')",
    "its root": "os.listdir(f'/proc/{pid}/root')",
    "its working folder": "os.chdir(f'/proc/{pid}/cwd')",
    "the score of the OOM killer": "open(f'/proc/{pid}/oom_score_adj', 'w').write('1000')",
    "its name": "open(f'/proc/{pid}/comm', 'w').write('x')",
}


def state(process: psutil.Process) -> tuple[object, ...]:
    """What a plugin could have changed."""
    limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    alive = process.is_running() and process.status() not in ("stopped", "zombie")
    return alive, process.nice(), process.cpu_affinity(), limits, process.name()


@pytest.mark.parametrize("tier", TIERS)
def test_the_host_and_other_workers_are_out_of_reach(attacker: Any, tier: str) -> None:
    neighbour = attacker(tier=tier, minimum_tier="hooked").plugin
    everything = {"fs.read": ["*"]} if tier == "confined" else {}
    worker = attacker(permissions=everything, tier=tier, minimum_tier="hooked")
    for pid in (os.getpid(), neighbour.pid, psutil.Process(worker.plugin.pid).ppid()):
        process = psutil.Process(pid)
        before = state(process)
        for way, code in WAYS.items():
            assert worker.is_stopped("import os, resource, signal\n" + code, pid=pid), way
            assert state(process) == before, way
    assert neighbour.call("attempt", code="result = 1", names={}) == 1


@pytest.mark.parametrize("tier", [*TIERS, "hooked"])
def test_what_the_host_holds_open_is_not_reached_by_its_descriptor(
    attacker: Any, places: Path, secret: str, tier: str
) -> None:
    worker = attacker(permissions={"fs.read": [places / "granted"]}, tier=tier, minimum_tier="hooked")
    with (places / "outside" / "secret.txt").open() as file:
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        assert Path(path).read_text() == secret
        outcome = worker.attempt("result = open(path).read()", path=path)
    assert secret not in str(outcome)
    assert outcome[0] in ("PermissionDenied", "PermissionError"), outcome


def test_control_a_host_may_do_all_that(attacker: Any) -> None:
    """The same calls work from outside, so it is not the machine that stops them."""
    pid = attacker().plugin.pid
    os.kill(pid, 0)
    os.close(os.pidfd_open(pid))
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)
    os.sched_setaffinity(pid, os.sched_getaffinity(pid))


def test_a_worker_may_signal_itself(attacker: Any) -> None:
    """It is its own affair: the host sees which signal it was."""
    worker = attacker()
    with pytest.raises(host.PluginCrashed, match="SIGUSR1") as caught:
        worker.plugin.call("attempt", code="import os, signal; os.kill(os.getpid(), signal.SIGUSR1)", names={})
    assert caught.value.signal == signal.SIGUSR1
    assert worker.run("result = 1") == 1


def test_a_worker_holds_no_capability_and_can_gain_none(attacker: Any) -> None:
    worker = attacker()
    status = Path(f"/proc/{worker.plugin.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["TracerPid"] == "0"
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    # The bounding set takes a capability to shrink (capabilities(7)); without one, no_new_privs makes it moot.
    held = ["CapInh", "CapPrm", "CapEff", "CapAmb", *(["CapBnd"] if os.geteuid() == 0 else [])]
    assert {fields[name].strip("0") for name in held} == {""}


@pytest.mark.parametrize("call", ["os.setuid(0)", "os.setgid(0)", "os.setgroups([0])", "os.setresuid(0, 0, 0)"])
def test_who_a_worker_is_cannot_be_changed(attacker: Any, call: str) -> None:
    assert attacker().is_stopped(f"import os; {call}")


@pytest.mark.parametrize("call", ["os.setsid()", "os.setpgid(0, 0)", "os.chroot('/')", "os.unshare(0x20000)"])
def test_where_a_worker_is_cannot_be_changed(attacker: Any, call: str) -> None:
    assert attacker().is_stopped(f"import os; {call}")
