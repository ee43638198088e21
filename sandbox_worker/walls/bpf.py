"""Rules about system calls, compiled to classic BPF. Pure: needs no kernel and works for any architecture.

A *rule* is an action, or clauses tried in order and ended by an action: `(((condition, ...), action), ..., action)`.
A *condition* is a run of instructions that falls through when it holds and jumps to `MISS` when it does not. A value
that is only known per worker is a `Slot`, filled in by `Program.patch`.

Arguments are 64-bit words, compared by their low half unless the condition says otherwise, for that is what the kernel
takes from an `int` argument: a filter that looked at all 64 bits could be evaded through the ignored high half
(CVE-2019-10063). Source: Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/{bpf_common,filter}.h.
"""

from __future__ import annotations

from struct import pack, pack_into

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final, TypeAlias

    from .syscalls import Architecture

    Instruction: TypeAlias = "tuple[int, int | Slot, int, int]"  # opcode, operand, jump if true, jump if false
    Condition: TypeAlias = tuple[Instruction, ...]
    Clause: TypeAlias = tuple[tuple[Condition, ...], int]
    Rule: TypeAlias = int | tuple[Clause | int, ...]

LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
LOAD_ZERO: Final = 0x00  # BPF_LD | BPF_W | BPF_IMM, with operand 0
JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_GREATER: Final = 0x25  # BPF_JMP | BPF_JGT | BPF_K
JUMP_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
JUMP_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K
XOR: Final = 0xA4  # BPF_ALU | BPF_XOR | BPF_K
OR_X: Final = 0x4C  # BPF_ALU | BPF_OR | BPF_X
TO_X: Final = 0x07  # BPF_MISC | BPF_TAX
RETURN: Final = 0x06  # BPF_RET | BPF_K

ALLOW: Final = 0x7FFF0000  # SECCOMP_RET_ALLOW
NOTIFY: Final = 0x7FC00000  # SECCOMP_RET_USER_NOTIF: another process answers
KILL_PROCESS: Final = 0x80000000  # SECCOMP_RET_KILL_PROCESS

MISS: Final = -1
"""Jump target "this condition does not hold": resolved to the next clause when the rule is compiled."""

INSTRUCTION_SIZE: Final = 8  # struct sock_filter
MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
_MAX_JUMP: Final = 255  # sock_filter.jt and .jf are bytes


class Slot:
    """A 32-bit operand that each worker gets its own value for: bits `shift` to `shift + 31` of the named value."""

    __slots__ = ("name", "shift")

    def __init__(self, name: str, shift: int = 0) -> None:
        self.name = name
        self.shift = shift


def fail_with(errno: int) -> int:
    """The action that makes the call fail with `errno`, or return 0 without being made when `errno` is 0."""
    return 0x00050000 | errno  # SECCOMP_RET_ERRNO


def equals(argument: int, value: int | Slot) -> Condition:
    """The low half of the argument is `value`."""
    return (_load_low(argument), (JUMP_EQUAL, value, 0, MISS))


def one_of(argument: int, values: Iterable[int | Slot]) -> Condition:
    """The low half of the argument is one of `values` (at least one)."""
    *others, last = values
    hits = [(JUMP_EQUAL, value, len(others) - index, 0) for index, value in enumerate(others)]
    return (_load_low(argument), *hits, (JUMP_EQUAL, last, 0, MISS))


def any_bit(argument: int, mask: int) -> Condition:
    """The argument has at least one bit of `mask` (32 bits)."""
    return (_load_low(argument), (JUMP_ANY_BIT, mask, 0, MISS))


def no_bit(argument: int, mask: int) -> Condition:
    """The argument has no bit of `mask` (32 bits)."""
    return (_load_low(argument), (JUMP_ANY_BIT, mask, MISS, 0))


def masked(argument: int, mask: int, value: int) -> Condition:
    """The bits of `mask` (32 bits) in the argument are exactly `value`."""
    return (_load_low(argument), (AND, mask, 0, 0), (JUMP_EQUAL, value, 0, MISS))


def null(argument: int) -> Condition:
    """The argument, all 64 bits of it, is a null pointer."""
    return (_load_high(argument), (JUMP_EQUAL, 0, 0, MISS), _load_low(argument), (JUMP_EQUAL, 0, 0, MISS))


def pointers(*names: str) -> Condition:
    """Arguments 0, 1, ... are, in all 64 bits, the values that `patch` gets under `names`.

    Collects the differences of all halves and branches once, at the end: how long a refusal takes says nothing about
    which part of a guess was right.
    """
    halves = [
        half
        for argument, name in enumerate(names)
        for half in ((_load_low(argument), Slot(name)), (_load_high(argument), Slot(name, 32)))
    ]
    code: list[Instruction] = []
    for load, slot in halves:
        code += ((TO_X, 0, 0, 0), load, (XOR, slot, 0, 0), (OR_X, 0, 0, 0))
    return ((LOAD_ZERO, 0, 0, 0), *code, (JUMP_EQUAL, 0, 0, MISS))


class Program:
    """A compiled filter; `patch` fills its slots. Immutable, so that one serves every worker of a profile."""

    __slots__ = ("_code", "_slots")

    def __init__(self, instructions: Iterable[Instruction]) -> None:
        words = []
        slots = []
        for index, (opcode, operand, if_true, if_false) in enumerate(instructions):
            if not isinstance(operand, int):
                slots.append((index * INSTRUCTION_SIZE + 4, operand.name, operand.shift))
                operand = 0  # noqa: PLW2901 - the slot's place in the program, until patch() fills it
            words.append(pack("=HBBI", opcode, if_true, if_false, operand))
        if len(words) > MAX_INSTRUCTIONS:
            raise ValueError(f"a filter of {len(words)} instructions; the kernel takes {MAX_INSTRUCTIONS}")
        self._code = b"".join(words)
        self._slots = tuple(slots)

    def __len__(self) -> int:
        """Number of instructions."""
        return len(self._code) // INSTRUCTION_SIZE

    @property
    def names(self) -> frozenset[str]:
        """The names of all values that `patch` wants."""
        return frozenset(name for _, name, _ in self._slots)

    def patch(self, values: Mapping[str, int]) -> bytes:
        """The program for one worker, as an array of struct sock_filter. KeyError when a value is missing."""
        code = bytearray(self._code)
        for offset, name, shift in self._slots:
            pack_into("=I", code, offset, values[name] >> shift & 0xFFFFFFFF)
        return bytes(code)


def compile_filter(rules: Mapping[str, Rule], default: int, architecture: Architecture) -> Program:
    """Compile rules by call name; calls that the rules don't name get the action `default`.

    Names that the architecture does not have are dropped. Another architecture than the given one, and a second ABI
    of it, kill the process: their numbers mean other calls. Jumps of a rule that reach too far are a ValueError.
    """
    conditional = []
    plain: dict[int, list[int]] = {}
    for name, rule in rules.items():
        number = architecture.numbers.get(name)
        if number is None:
            continue
        if isinstance(rule, int):
            plain.setdefault(rule, []).append(number)
        else:
            conditional.append((number, rule))
    code = _prologue(architecture)
    for number, rule in sorted(conditional, key=lambda item: item[0]):
        body = _body(rule)
        code += [_jump(JUMP_EQUAL, number, 0, len(body)), *body]
    for action, numbers in plain.items():
        for first, last in _ranges(sorted(numbers)):
            code += _range(first, last, action)
    return Program([*code, _return(default)])


def _load_low(argument: int) -> Instruction:
    return (LOAD, 16 + 8 * argument, 0, 0)  # seccomp_data.args[argument], little-endian


def _load_high(argument: int) -> Instruction:
    return (LOAD, 20 + 8 * argument, 0, 0)


def _return(action: int) -> Instruction:
    return (RETURN, action, 0, 0)


def _jump(opcode: int, operand: int | Slot, if_true: int, if_false: int) -> Instruction:
    if max(if_true, if_false) > _MAX_JUMP:
        raise ValueError(f"a jump over {max(if_true, if_false)} instructions; the kernel takes {_MAX_JUMP}")
    return (opcode, operand, if_true, if_false)


def _prologue(architecture: Architecture) -> list[Instruction]:
    code = [(LOAD, 4, 0, 0), _jump(JUMP_EQUAL, architecture.audit, 1, 0), _return(KILL_PROCESS), (LOAD, 0, 0, 0)]
    if architecture.second_abi:
        code += [_jump(JUMP_AT_LEAST, architecture.second_abi, 0, 1), _return(KILL_PROCESS)]
    return code


def _body(rule: tuple[Clause | int, ...]) -> list[Instruction]:
    *clauses, otherwise = rule
    if not isinstance(otherwise, int):
        raise TypeError("a rule ends with the action for everything that no clause takes")
    code: list[Instruction] = []
    for clause in clauses:
        if isinstance(clause, int):
            raise TypeError("an action before the end of a rule makes the clauses after it unreachable")
        code += _clause(*clause)
    return [*code, _return(otherwise)]


def _clause(conditions: tuple[Condition, ...], action: int) -> list[Instruction]:
    code = [instruction for condition in conditions for instruction in condition]
    resolved = []
    for index, (opcode, operand, if_true, if_false) in enumerate(code):
        past = len(code) - index  # over the rest of the conditions and the return that follows them
        resolved.append(
            _jump(opcode, operand, past if if_true == MISS else if_true, past if if_false == MISS else if_false)
        )
    return [*resolved, _return(action)]


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def _range(first: int, last: int, action: int) -> list[Instruction]:
    if first == last:
        return [_jump(JUMP_EQUAL, first, 0, 1), _return(action)]
    return [_jump(JUMP_AT_LEAST, first, 0, 2), _jump(JUMP_GREATER, last, 1, 0), _return(action)]
