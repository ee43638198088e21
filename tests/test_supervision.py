"""Promises of supervision: only what is listed can happen, pauses grow and are bounded, too many failures end it."""

from __future__ import annotations

import itertools
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from host.model.supervision import TRANSITIONS, Change, Cost, Failures, Life, RestartPolicy, State, after, together

WITH_WORKER: Final = {State.STARTING, State.READY, State.BUSY}
POLICIES: Final = st.builds(
    lambda failures, window, first, times: RestartPolicy(failures, window, first, first * times),
    st.integers(1, 8), st.floats(0.1, 1000), st.floats(0.001, 3), st.floats(1, 1000),
)  # fmt: skip
CHANCE: Final = st.floats(0, 1)


@pytest.mark.parametrize(("state", "change"), [*itertools.product(State, Change)])
def test_what_is_not_listed_can_not_happen(state: State, change: Change) -> None:
    if (state, change) in TRANSITIONS:
        assert after(state, change) is TRANSITIONS[state, change]
    else:
        with pytest.raises(ValueError, match=f"{change} can't happen to what is {state}"):
            after(state, change)


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.STOPPED}
    for _ in State:
        reached |= {to for (state, _), to in TRANSITIONS.items() if state in reached}
    assert reached == set(State)
    assert {state for (state, _), to in TRANSITIONS.items() if to is not state} == set(State)


def test_out_of_quarantine_leads_being_cleared_alone() -> None:
    ways = {change for (state, change), to in TRANSITIONS.items() if state is State.QUARANTINED is not to}
    assert ways == {Change.CLEAR}


def test_only_a_start_brings_a_worker() -> None:
    came = {change for (state, change), to in TRANSITIONS.items() if state not in WITH_WORKER and to in WITH_WORKER}
    assert came == {Change.START}


@given(st.lists(st.sampled_from(State), min_size=1))
def test_a_plugin_is_what_its_most_alive_place_is_but_quarantined_as_a_whole(states: list[State]) -> None:
    found = together(states)
    assert found in states
    assert (found is State.QUARANTINED) is (State.QUARANTINED in states)
    assert (found is State.READY) is (State.READY in states and State.QUARANTINED not in states)


# --- what failures cost


@given(POLICIES, CHANCE)
def test_the_first_failure_in_a_window_costs_no_time(policy: RestartPolicy, chance: float) -> None:
    assert policy.pause(1, chance) == 0


@given(POLICIES, st.integers(2, 10_000), CHANCE, CHANCE)
def test_a_pause_is_within_its_bounds_and_grows(policy: RestartPolicy, count: int, chance: float, other: float) -> None:
    pause = policy.pause(count, chance)
    assert policy.first_pause / 2 <= pause <= policy.longest_pause
    assert policy.pause(count, 1.0) <= policy.pause(count + 1, 1.0)
    assert policy.pause(count, other) <= 2 * pause


def test_the_defaults_pause_for_less_than_a_second_in_all_before_they_quarantine() -> None:
    failures = Failures(RestartPolicy())
    costs = [failures.add(float(at), 1.0) for at in range(5)]
    assert [cost.pause for cost in costs] == [0.0, 0.1, 0.2, 0.4, 0.0]
    assert [cost.quarantine for cost in costs] == [False] * 4 + [True]


@given(POLICIES, st.lists(st.floats(0, 500), max_size=40))
def test_quarantine_comes_with_exactly_so_many_failures_within_one_window(
    policy: RestartPolicy, gaps: list[float]
) -> None:
    failures, now, times = Failures(policy), 0.0, []
    for gap in gaps:
        now += gap
        times.append(now)
        cost = failures.add(now, 0.5)
        recent = [time for time in times if time > now - policy.window]
        assert cost.count == min(len(recent), policy.failures)
        assert cost.quarantine is (len(recent) >= policy.failures)
        assert cost.quarantine is (cost.change is Change.QUARANTINE)


@given(POLICIES, st.lists(st.booleans(), max_size=60))
def test_an_answered_call_makes_up_for_one_failure(policy: RestartPolicy, outcomes: list[bool]) -> None:
    """So a plugin that answers as often as it fails is never quarantined, however fast it does both."""
    failures, counted = Failures(policy), 0
    for answered in outcomes:
        if answered:
            failures.make_up()
            counted = max(0, counted - 1)
        else:
            counted = min(policy.failures, counted + 1)
            assert failures.add(0.0, 0.5).count == counted
        assert len(failures) == counted


@given(POLICIES)
def test_what_was_cleared_has_no_past(policy: RestartPolicy) -> None:
    failures = Failures(policy)
    first = failures.add(0.0, 0.0)
    failures.forget()
    assert failures.add(0.0, 0.0) == first


@pytest.mark.parametrize(
    "wrong",
    [
        {"failures": 0},
        {"failures": 1001},
        {"window": 0.0},
        {"window": float("nan")},
        {"first_pause": 0.0},
        {"first_pause": 1.0, "longest_pause": 0.5},
        {"longest_pause": float("nan")},
        {"longest_pause": 3601.0},
        {"longest_pause": float("inf")},
    ],
)
def test_a_policy_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"failures is|times are"):
        RestartPolicy(**wrong)  # type: ignore[arg-type]  # failures is one of them


# --- a place, whatever happens to it


class Places(RuleBasedStateMachine):
    """One place, driven by all that may come in any order; the model is what a person would note down."""

    @initialize(policy=POLICIES)
    def begin(self, policy: RestartPolicy) -> None:
        self.policy = policy
        self.failures = Failures(policy)
        self.life = Life()
        self.now = 0.0
        self.noted: list[float] = []

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.life.state in (State.STOPPED, State.BACKOFF))
    @rule()
    def start_when_due(self) -> None:
        self.now += self.life.left(self.now)
        self.life.on(Change.START)

    @precondition(lambda self: self.life.state is State.STARTING)
    @rule()
    def come_up(self) -> None:
        self.life.on(Change.STARTED)

    @precondition(lambda self: self.life.state is State.READY)
    @rule()
    def call_and_answer(self) -> None:
        self.life.on(Change.CALL)
        assert self.life.state is State.BUSY
        self.life.on(Change.ANSWER)
        self.failures.make_up()
        del self.noted[:1]

    @precondition(lambda self: self.life.state in WITH_WORKER)
    @rule(chance=CHANCE, in_call=st.booleans())
    def fail(self, chance: float, in_call: bool) -> None:
        if in_call and self.life.state is State.READY:
            self.life.on(Change.CALL)
        cost = self.failures.add(self.now, chance)
        self.life.fail(cost, self.now)
        self.noted.append(self.now)
        assert self.life.left(self.now) <= self.policy.longest_pause
        assert cost == Cost(cost.count, cost.pause, cost.quarantine)

    @precondition(lambda self: self.life.state in WITH_WORKER)
    @rule()
    def close(self) -> None:
        self.life.on(Change.END)

    @precondition(lambda self: self.life.state is State.QUARANTINED)
    @rule()
    def clear(self) -> None:
        self.life.on(Change.CLEAR)
        self.failures.forget()
        self.noted.clear()

    @invariant()
    def quarantined_after_enough_failures_and_only_then(self) -> None:
        if not hasattr(self, "life"):
            return
        recent = [time for time in self.noted if self.noted[-1] - self.policy.window < time]
        if self.life.state is State.QUARANTINED:
            assert len(recent) >= self.policy.failures
        assert (self.life.left(self.now) > 0) <= (self.life.state is State.BACKOFF)


TestPlaces = Places.TestCase
