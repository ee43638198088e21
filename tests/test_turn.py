"""Promises of turns: one thread at each place, nobody sleeps while a place is free, nobody waits for himself."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from until import PATIENCE, until

import host
from host.service.turn import Task, Turns


class Place:
    """A place whose use comes after `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.inside = 0

    def wait(self, now: float) -> float:
        return self.seconds


def turns_at(*places: Place, before: Any = lambda _place: None, after: Any = lambda: None) -> Turns[Place]:
    return Turns("some", places, before, after)


NEVER: Final = 3600.0


@given(st.integers(1, 4), st.integers(1, 6))
@settings(max_examples=15)
def test_there_is_never_more_than_one_thread_at_a_place_and_all_get_their_turn(count: int, threads: int) -> None:
    places = [Place() for _ in range(count)]
    turns = turns_at(*places)

    def work() -> int:
        for _ in range(100):
            me = threading.get_ident()
            grabbed = turns.grab(me)
            place = grabbed or turns.begin()
            place.inside += 1
            assert place.inside == 1
            place.inside -= 1
            if grabbed is None:
                turns.end(place)
            else:
                turns.let_go(me)
        return 1

    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(work) for _ in range(threads)]
        assert sum(one.result(PATIENCE) for one in running) == threads
    assert (turns._waiting, len(turns._free), turns._owners) == ([], count, {})


def test_the_place_that_is_of_use_soonest_is_taken() -> None:
    ready, startable, pausing = Place(-1.0), Place(0.0), Place(NEVER)
    turns = turns_at(pausing, startable, ready)
    taken = []
    for _ in range(2):
        taken.append(turns.begin())
        turns._owners.clear()  # as if by another thread
    assert taken == [ready, startable]


def test_who_waits_for_a_pause_takes_what_becomes_free_meanwhile() -> None:
    busy, pausing = Place(), Place(NEVER)
    turns = turns_at(busy, pausing)
    assert turns.begin() is busy
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(turns.begin)
        until(lambda: turns._waiting)
        turns.end(busy)
        assert other.result(PATIENCE) is busy


def test_hurrying_lets_everybody_look_again() -> None:
    place = Place(NEVER)
    turns = turns_at(place)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(lambda: turns.end(turns.begin())) for _ in range(3)]
        until(lambda: len(turns._waiting) == 3)
        place.seconds = 0.0
        turns.hurry()
        assert [one.result(PATIENCE) for one in waiting] == [None] * 3


def test_who_wants_one_place_is_not_woken_for_another_nor_keeps_others_asleep() -> None:
    first, second = Place(), Place()
    turns = turns_at(first, second)
    turns.begin(first)
    turns._owners = {-1: first}  # as if by another thread
    turns.begin(second)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(turns.begin, first)
        until(lambda: len(turns._waiting) == 1)
        anyone = pool.submit(turns.begin)
        until(lambda: len(turns._waiting) == 2)
        turns.end(second)
        assert anyone.result(PATIENCE) is second
        assert not one.done()
        turns.end(first, -1)
        assert one.result(PATIENCE) is first


def test_nobody_waits_for_himself() -> None:
    turns = turns_at(Place(), Place())
    place = turns.begin()
    assert turns.mine
    with pytest.raises(host.HostError, match="in the middle of a call"):
        turns.begin()
    assert not turns.try_begin(place)
    turns.end(place)
    assert not turns.mine


def test_the_short_way_gives_the_place_used_last_and_only_what_is_free() -> None:
    first, second = Place(), Place()
    turns, me = turns_at(first, second), threading.get_ident()
    turns.end(turns.begin(second))
    assert turns.grab(me) is second
    assert turns.mine
    assert turns.grab(me) is None
    assert turns.grab(-1) is first
    assert turns.grab(-2) is None
    turns.let_go(me)
    assert not turns.mine
    with turns.serving(first):
        assert turns.grab(me) is None


def test_who_waits_is_rung_for_once_until_somebody_looks() -> None:
    place = Place()
    turns, me = turns_at(place), threading.get_ident()
    assert turns.grab(me) is place
    rung: list[int] = []
    waiters = [turns.waiter(None, lambda number=number: rung.append(number)) for number in (1, 2)]
    assert [turns.take_or_queue(Task(), waiter) for waiter in waiters] == [None, None]
    for _ in range(3):
        turns.let_go(me)
        assert turns.grab(me) is place
    assert rung == [1]
    assert turns.take_or_queue(Task(), waiters[0]) is None
    turns.let_go(me)
    assert rung == [1, 1]
    turns.leave(waiters[0])
    assert rung == [1, 1, 2]


def test_what_runs_before_the_end_may_fail_and_the_place_is_free_all_the_same() -> None:
    def fail(_place: Place) -> None:
        raise LookupError

    turns = turns_at(Place(), before=fail)
    for _ in range(2):
        place = turns.begin()
        with pytest.raises(LookupError):
            turns.end(place)


def test_an_interrupted_waiter_passes_on_what_it_was_rung_for() -> None:
    """It was taken off the list and rung for, and then it was interrupted: the next one hears of the place."""
    place = Place()
    turns = turns_at(place)
    held = turns.begin()
    rung: list[int] = []
    waiter = turns.waiter(None, lambda: rung.append(1))
    assert turns.take_or_queue(Task(), waiter) is None
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(turns.begin)
        until(lambda: len(turns._waiting) == 2)
        turns.end(held)
        assert (rung, len(turns._waiting)) == ([1], 1)
        turns.leave(waiter)
        assert other.result(PATIENCE) is place


def test_a_loop_that_stands_still_keeps_no_thread_waiting() -> None:
    """A task is rung for, and its loop may be held up by a call that waits for this very place."""
    place = Place()
    turns = turns_at(place)
    held = turns.begin()
    assert turns.take_or_queue(Task(), turns.waiter(None, lambda: None, home="a loop")) is None
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(turns.begin)
        until(lambda: len(turns._waiting) == 2)
        turns.end(held)
        assert other.result(PATIENCE) is place


def test_who_was_rung_for_in_vain_keeps_its_place_in_the_queue() -> None:
    place = Place()
    turns = turns_at(place)
    rung: list[str] = []
    first, second = (turns.waiter(None, lambda name=name: rung.append(name)) for name in ("first", "second"))  # type: ignore[misc]
    held = turns.begin()
    for waiter in (first, second):
        assert turns.take_or_queue(Task(), waiter) is None
    turns.end(held)
    held = turns.begin()
    assert turns.take_or_queue(Task(), first) is None
    turns.end(held)
    assert rung == ["first", "first"]


def test_a_thread_waits_for_no_task_of_its_own() -> None:
    turns = turns_at(Place())
    owner = Task()
    place = turns.take(owner)
    assert place is not None
    assert turns.mine
    with pytest.raises(host.HostError, match="in the middle of a call"):
        turns.begin()
    turns.end(place, owner)
    assert not turns.mine


def test_in_a_forked_child_all_places_are_free() -> None:
    turns = turns_at(Place(), Place())
    turns.begin()
    turns.forget()
    assert (len(turns._free), turns.mine) == (2, False)
