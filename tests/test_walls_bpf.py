"""The compiler from rules to classic BPF, judged by the reference interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.walls import bpf
from sandbox_worker.walls.bpf import ALLOW, KILL_PROCESS, Slot, compile_filter, fail_with
from sandbox_worker.walls.bpf_interpreter import simulate
from sandbox_worker.walls.syscalls import ARCHITECTURES, Architecture

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_worker.walls.bpf import Condition

ONE: Final = Architecture("one", 0x1234, {"call": 7})
REFUSE: Final = fail_with(1)
DEFAULT: Final = fail_with(38)
words = st.integers(0, 2**32 - 1)
double_words = st.integers(0, 2**64 - 1)
few_bits = st.integers(0, 31).map(lambda bit: 1 << bit)


def holds(condition: Condition, *arguments: int, **values: int) -> bool:
    """Whether the condition holds for a call with these arguments."""
    program = compile_filter({"call": (((condition,), ALLOW), REFUSE)}, DEFAULT, ONE)
    action = simulate(program.patch(values), 7, arguments, ONE.audit)
    assert action in {ALLOW, REFUSE}
    return action == ALLOW


@given(double_words, words)
def test_equals_compares_the_low_half(argument: int, value: int) -> None:
    assert holds(bpf.equals(0, value), argument) == (argument & 0xFFFFFFFF == value)
    assert holds(bpf.equals(0, value), argument & ~0xFFFFFFFF | value)


@given(double_words, st.lists(words, min_size=1, max_size=9))
def test_one_of_holds_for_exactly_its_values(argument: int, values: list[int]) -> None:
    assert holds(bpf.one_of(3, values), 0, 0, 0, argument) == (argument & 0xFFFFFFFF in values)
    assert all(holds(bpf.one_of(3, values), 0, 0, 0, value) for value in values)


@given(double_words, words | few_bits)
def test_any_bit_and_no_bit_are_opposites(argument: int, mask: int) -> None:
    assert holds(bpf.any_bit(5, mask), 0, 0, 0, 0, 0, argument) == (argument & mask != 0)
    assert holds(bpf.no_bit(5, mask), 0, 0, 0, 0, 0, argument) == (argument & mask == 0)


@given(double_words, words, words)
def test_masked_looks_at_the_masked_bits_alone(argument: int, mask: int, value: int) -> None:
    assert holds(bpf.masked(1, mask, value & mask), 0, argument) == (argument & mask == value & mask)


@given(double_words)
def test_null_looks_at_all_64_bits(argument: int) -> None:
    assert holds(bpf.null(4), 0, 0, 0, 0, argument) == (argument == 0)
    assert not holds(bpf.null(4), 0, 0, 0, 0, 1 << 32)


@given(st.tuples(double_words, double_words, double_words), st.integers(0, 191))
def test_pointers_hold_for_the_right_values_and_for_no_other_bit_pattern(right: tuple[int, int, int], bit: int) -> None:
    condition = bpf.pointers("a", "b", "c")
    values = dict(zip("abc", right, strict=True))
    wrong = list(right)
    wrong[bit // 64] ^= 1 << bit % 64
    assert holds(condition, *right, **values)
    assert not holds(condition, *wrong, **values)


def test_pointers_branch_once_so_that_time_tells_nothing() -> None:
    jumps = [code for code, *_ in bpf.pointers("a", "b", "c") if code == bpf.JUMP_EQUAL]
    assert len(jumps) == 1


@given(words)
def test_a_slot_takes_the_value_of_the_worker(pid: int) -> None:
    assert holds(bpf.equals(0, Slot("pid")), pid, pid=pid)
    assert not holds(bpf.equals(0, Slot("pid")), pid ^ 1, pid=pid)


def test_a_missing_value_is_an_error() -> None:
    program = compile_filter({"call": (((bpf.equals(0, Slot("pid")),), ALLOW), REFUSE)}, DEFAULT, ONE)
    assert program.names == {"pid"}
    with pytest.raises(KeyError, match="pid"):
        program.patch({})


def test_patching_leaves_the_program_as_it_was() -> None:
    program = compile_filter({"call": (((bpf.equals(0, Slot("pid")),), ALLOW), REFUSE)}, DEFAULT, ONE)
    assert program.patch({"pid": 1}) != program.patch({"pid": 2})
    assert program.patch({"pid": 1}) == program.patch({"pid": 1})


def test_clauses_are_tried_in_order_and_all_conditions_of_one_must_hold() -> None:
    first = ((bpf.equals(0, 1), bpf.equals(1, 1)), fail_with(2))
    second = ((bpf.equals(0, 1),), fail_with(3))
    code = compile_filter({"call": (first, second, REFUSE)}, DEFAULT, ONE).patch({})
    actions = [simulate(code, 7, arguments, ONE.audit) for arguments in ((1, 1), (1, 2), (2, 1))]
    assert actions == [fail_with(2), fail_with(3), REFUSE]


@pytest.mark.parametrize("name", ARCHITECTURES)
@given(data=st.data())
def test_every_plain_rule_gives_its_action_and_all_other_numbers_the_default(name: str, data: st.DataObject) -> None:
    architecture = ARCHITECTURES[name]
    rules = data.draw(st.dictionaries(st.sampled_from(sorted(architecture.numbers)), st.sampled_from((ALLOW, REFUSE))))
    by_number = {architecture.numbers[call]: action for call, action in rules.items()}
    code = compile_filter(rules, DEFAULT, architecture).patch({})
    for number in {*data.draw(st.lists(st.integers(0, 600))), *by_number}:
        assert simulate(code, number, (), architecture.audit) == by_number.get(number, DEFAULT)


@given(words)
def test_another_architecture_kills_the_process(audit: int) -> None:
    code = compile_filter({"call": ALLOW}, DEFAULT, ONE).patch({})
    assert simulate(code, 7, (), audit) == (ALLOW if audit == ONE.audit else KILL_PROCESS)


@given(st.integers(0x40000000, 2**32 - 1))
def test_the_second_abi_of_x86_64_kills_the_process(number: int) -> None:
    code = compile_filter({"read": ALLOW}, DEFAULT, ARCHITECTURES["x86_64"]).patch({})
    assert simulate(code, number, (), ARCHITECTURES["x86_64"].audit) == KILL_PROCESS


def test_calls_that_an_architecture_lacks_are_dropped() -> None:
    with_call, without = (
        compile_filter(rules, DEFAULT, ONE) for rules in ({"call": ALLOW, "fork": ALLOW}, {"call": ALLOW})
    )
    assert with_call.patch({}) == without.patch({})


def test_success_without_effect_is_an_errno_of_zero() -> None:
    assert fail_with(0) == 0x00050000


@pytest.mark.parametrize(
    "rule",
    [(((bpf.equals(0, 1),), ALLOW),), (ALLOW, ALLOW)],
    ids=["no action for the rest", "an action before the end"],
)
def test_a_malformed_rule_is_an_error(rule: bpf.Rule) -> None:
    with pytest.raises(TypeError):
        compile_filter({"call": rule}, DEFAULT, ONE)


@pytest.mark.parametrize("build", [lambda: bpf.one_of(0, range(300))], ids=["300 values"])
def test_a_jump_that_the_kernel_can_not_encode_is_an_error(build: Callable[[], Condition]) -> None:
    with pytest.raises(ValueError, match="jump"):
        compile_filter({"call": (((build(),), ALLOW), REFUSE)}, DEFAULT, ONE)


def test_a_program_longer_than_the_kernel_takes_is_an_error() -> None:
    with pytest.raises(ValueError, match="4096"):
        bpf.Program([(bpf.RETURN, ALLOW, 0, 0)] * 4097)
