"""A reference interpreter of seccomp's classic BPF: what a filter decides, on any machine, without a kernel.

For tests and audits of a filter; the spawner never loads it. It takes the instructions that `bpf` emits and refuses
every other one, and, like the kernel, any load outside struct seccomp_data and any jump out of the program.
"""

from __future__ import annotations

from struct import pack, unpack_from

from .bpf import (
    AND,
    INSTRUCTION_SIZE,
    JUMP_ANY_BIT,
    JUMP_AT_LEAST,
    JUMP_EQUAL,
    JUMP_GREATER,
    LOAD,
    LOAD_ZERO,
    OR_X,
    RETURN,
    TO_X,
    XOR,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Final

_WORD = 0xFFFFFFFF
_DOUBLE_WORD = 0xFFFFFFFFFFFFFFFF


def simulate(code: bytes, number: int, arguments: Sequence[int], architecture: int) -> int:
    """The action that the filter `code` (an array of struct sock_filter) returns for one system call.

    `number` and `arguments` (up to six, negative ones as in C) are the call, `architecture` is the AUDIT_ARCH_* value
    it comes with. A malformed program is a ValueError.
    """
    padded = [argument & _DOUBLE_WORD for argument in arguments] + [0] * (6 - len(arguments))
    data = pack("<IIQ6Q", number & _WORD, architecture, 0, *padded)  # struct seccomp_data
    accumulator = index = 0
    position = 0
    while position < len(code):
        opcode, if_true, if_false, operand = unpack_from("<HBBI", code, position)
        position += INSTRUCTION_SIZE
        if opcode == RETURN:
            return int(operand)
        if opcode == TO_X:
            index = accumulator
        elif opcode in _JUMPS:
            position += INSTRUCTION_SIZE * (if_true if _JUMPS[opcode](accumulator, operand) else if_false)
        else:
            accumulator = _compute(opcode, operand, accumulator, index, data)
    raise ValueError("the filter ends without a decision")


_JUMPS: Final[dict[int, Callable[[int, int], bool]]] = {
    JUMP_EQUAL: lambda accumulator, operand: accumulator == operand,
    JUMP_GREATER: lambda accumulator, operand: accumulator > operand,
    JUMP_AT_LEAST: lambda accumulator, operand: accumulator >= operand,
    JUMP_ANY_BIT: lambda accumulator, operand: accumulator & operand != 0,
}


def _compute(opcode: int, operand: int, accumulator: int, index: int, data: bytes) -> int:
    if opcode == LOAD and operand % 4 == 0 and operand < len(data):
        word: int = unpack_from("<I", data, operand)[0]
        return word
    if opcode == LOAD_ZERO and operand == 0:
        return 0
    if opcode == AND:
        return accumulator & operand
    if opcode == XOR:
        return accumulator ^ operand
    if opcode == OR_X:
        return accumulator | index
    raise ValueError(f"an instruction that seccomp refuses: opcode {opcode:#x}, operand {operand:#x}")
