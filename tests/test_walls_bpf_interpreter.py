"""The reference interpreter: it decides as the kernel does, and takes nothing that the kernel refuses."""

from __future__ import annotations

from struct import pack

import pytest

from sandbox_worker.walls.bpf import ALLOW, JUMP_EQUAL, LOAD, RETURN, fail_with
from sandbox_worker.walls.bpf_interpreter import simulate


def program(*instructions: tuple[int, int, int, int]) -> bytes:
    return b"".join(pack("=HBBI", *instruction) for instruction in instructions)


@pytest.mark.parametrize(
    ("offset", "word"), [(0, 5), (4, 0xABCD), (16, 0x22222222), (20, 0x11111111), (60, 0xFFFFFFFF)]
)
def test_loads_find_the_fields_of_seccomp_data(offset: int, word: int) -> None:
    code = program((LOAD, 0, 0, offset), (JUMP_EQUAL, 0, 1, word), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, fail_with(1)))
    assert simulate(code, 5, (0x1111111122222222, 0, 0, 0, 0, -1), 0xABCD) == ALLOW


@pytest.mark.parametrize(
    "code",
    [
        program((LOAD, 0, 0, 64), (RETURN, 0, 0, ALLOW)),
        program((LOAD, 0, 0, 2), (RETURN, 0, 0, ALLOW)),
        program((0x40, 0, 0, 0), (RETURN, 0, 0, ALLOW)),
        program((LOAD, 0, 0, 0)),
        program((JUMP_EQUAL, 9, 9, 0), (RETURN, 0, 0, ALLOW)),
        b"",
    ],
    ids=["a load past the data", "an unaligned load", "an unknown opcode", "no return", "a jump out", "nothing"],
)
def test_a_program_that_the_kernel_refuses_is_an_error(code: bytes) -> None:
    with pytest.raises(ValueError, match=r"filter ends|seccomp refuses"):
        simulate(code, 0, (), 0)
