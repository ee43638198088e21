"""What a machine has for the walls."""

from __future__ import annotations

import errno

import pytest

from sandbox_worker.walls import landlock, linux
from sandbox_worker.walls.machine import CONFINED, FILTERED, Machine


def refuse(number: int) -> OSError:
    return OSError(number, "refused")


def test_a_machine_without_a_table_has_nothing_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "ARCHITECTURE", None)
    monkeypatch.setattr(linux, "MACHINE", "riscv64")
    machine = Machine()
    assert machine.report() == {
        "landlock_abi": 0,
        "seccomp": False,
        "namespaces": False,
        "notifications": False,
        "forks": False,
        "machine": "riscv64",
        "arch_supported": False,
        "missing": ["no table of system calls for this machine: riscv64"],
    }
    for tier in (CONFINED, FILTERED):
        with pytest.raises(ValueError, match="riscv64"):
            machine.filter_of(tier)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSYS, "not built"), (errno.EOPNOTSUPP, "lsm="), (errno.EPERM, "outer"), (errno.EIO, "not answer")],
)
def test_without_landlock_there_is_the_filter_alone(monkeypatch: pytest.MonkeyPatch, number: int, reason: str) -> None:
    def syscall(name: str, *_: int) -> int:
        if name.startswith("landlock"):
            raise refuse(number)
        return 0

    monkeypatch.setattr(linux, "syscall", syscall)
    machine = Machine()
    assert (machine.landlock_abi, machine.seccomp) == (0, True)
    assert machine.filter_of(FILTERED).names == {"pid", "path", "argv", "envp"}
    assert reason in machine.missing[0]
    with pytest.raises(ValueError, match=reason):
        machine.filter_of(CONFINED)


def test_without_seccomp_there_is_no_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    def syscall(name: str, *_: int) -> int:
        if name == "seccomp":
            raise refuse(errno.EINVAL)
        return 7

    monkeypatch.setattr(linux, "syscall", syscall)
    machine = Machine()
    assert (machine.landlock_abi, machine.seccomp) == (7, False)
    with pytest.raises(ValueError, match="seccomp"):
        machine.filter_of(CONFINED)


def test_an_unknown_tier_is_out_of_reach() -> None:
    with pytest.raises(ValueError, match="out of reach"):
        Machine().filter_of("fortified")


def test_landlock_is_reported_as_the_kernel_has_it() -> None:
    assert Machine().landlock_abi == (landlock.version()[0] if linux.ARCHITECTURE else 0)
