"""The one execve: where its arguments lie, and what lies there."""

from __future__ import annotations

from struct import unpack_from

from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.walls.exec_gate import draw, vector, vector_size

strings = st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\0", b"")), max_size=20)


@given(strings, st.integers(0, 2**37).map(lambda number: number * 8))
def test_a_vector_points_to_its_strings(texts: list[bytes], address: int) -> None:
    memory = vector(texts, address)
    pointers = unpack_from(f"{len(texts) + 1}Q", memory)
    found = [memory[pointer - address : memory.index(b"\0", pointer - address)] for pointer in pointers[:-1]]
    assert found == texts
    assert pointers[-1] == 0


@given(strings)
def test_a_vector_is_as_large_as_announced(texts: list[bytes]) -> None:
    assert len(vector(texts, 0)) == vector_size(texts)


def test_addresses_are_aligned_and_fit_a_39_bit_address_space() -> None:
    drawn = [draw() for _ in range(2000)]
    assert all(2**32 <= address < 2**38 and address % 8 == 0 for address in drawn)


def test_addresses_use_the_whole_range() -> None:
    """Each of the 64 parts of 2^32 bytes but the first, and each bit from 3 to 37, takes its turn."""
    drawn = [draw() for _ in range(4000)]
    assert {address >> 32 for address in drawn} == set(range(1, 64))
    for bit in range(3, 38):
        assert 0.4 < sum(address >> bit & 1 for address in drawn) / len(drawn) < 0.6


def test_no_address_is_drawn_twice() -> None:
    drawn = [draw() for _ in range(4000)]
    assert len(set(drawn)) == len(drawn)
