"""How a plugin lives: the states of a worker's place, what a failure costs, when no worker is started any more.

Pure: clocks and chance come in as arguments. A plugin has one place for a worker, or as many as it has instances; each
place has a `Life` of its own, while failures are counted for all of them together.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class State(enum.StrEnum):
    """What a place is at."""

    __hash__ = str.__hash__  # enum's own runs Python code, twice in each call of a plugin

    STARTING = "STARTING"
    """Its worker starts: locks itself down, imports the plugin."""
    READY = "READY"
    BUSY = "BUSY"
    BACKOFF = "BACKOFF"
    """It failed repeatedly: its next worker starts with a call that comes after the pause, or waits for its end."""
    QUARANTINED = "QUARANTINED"
    """It failed too often: no worker is started until somebody clears it."""
    STOPPED = "STOPPED"
    """There is no worker; unless the plugin was closed, the next call starts one."""


class Change(enum.StrEnum):
    """What happens to a place."""

    __hash__ = str.__hash__

    START = "start"
    STARTED = "started"
    CALL = "call"
    ANSWER = "answer"
    END = "end"
    """Its worker ended: closed, replaced on purpose, or failed for the first time in a while."""
    PAUSE = "pause"
    """It failed again."""
    QUARANTINE = "quarantine"
    CLEAR = "clear"


MOST_FAILURES: Final = 1000
LONGEST_PAUSE: Final = 3600.0

_HAS_WORKER: Final = (State.STARTING, State.READY, State.BUSY)

TRANSITIONS: Final[Mapping[tuple[State, Change], State]] = {
    (State.STOPPED, Change.START): State.STARTING,
    (State.BACKOFF, Change.START): State.STARTING,
    (State.STARTING, Change.STARTED): State.READY,
    (State.READY, Change.CALL): State.BUSY,
    (State.BUSY, Change.ANSWER): State.READY,
    **{(state, Change.END): State.STOPPED for state in (*_HAS_WORKER, State.BACKOFF)},
    **{(state, Change.PAUSE): State.BACKOFF for state in _HAS_WORKER},
    **{(state, Change.QUARANTINE): State.QUARANTINED for state in State if state is not State.QUARANTINED},
    (State.QUARANTINED, Change.CLEAR): State.STOPPED,
}
"""All that can happen; whatever is missing here can't."""


def after(state: State, change: Change) -> State:
    """The state that follows. Raises ValueError where `change` can't happen to a place that is at `state`."""
    try:
        return TRANSITIONS[state, change]
    except KeyError:
        raise ValueError(f"{change} can't happen to what is {state}") from None


_MOST_ALIVE_FIRST: Final = (State.READY, State.BUSY, State.STARTING, State.BACKOFF, State.STOPPED)


def together(states: Iterable[State]) -> State:
    """What a plugin is at whose places are at `states`: quarantined as a whole, else what serves a call soonest."""
    found = set(states)
    if State.QUARANTINED in found:
        return State.QUARANTINED
    return next(state for state in _MOST_ALIVE_FIRST if state in found)


@dataclasses.dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What failures cost a plugin. Times in seconds.

    A failure is a worker that died, had to be killed (a limit, a timeout, a breach of the protocol) or did not come up.
    It counts for `window`, unless a call that is answered makes up for it: else who can make a useful plugin fail now
    and then could take it from all others. After the first failure the next call starts a new worker at once; after the
    second it waits for `first_pause`, and for twice as long with each one more, up to `longest_pause`, and by chance up
    to half as long less. With `failures` of them the plugin is quarantined.

    Raises ValueError: `failures` is 1 to 1000, times are positive, pauses at most an hour, the longest is no shorter
    than the first.
    """

    failures: int = 5
    window: float = 60.0
    first_pause: float = 0.1
    longest_pause: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.failures <= MOST_FAILURES:
            raise ValueError(f"failures is 1 to {MOST_FAILURES}")
        if not (self.window > 0 and 0 < self.first_pause <= self.longest_pause <= LONGEST_PAUSE):
            text = "times are positive, first_pause is no longer than longest_pause, and that at most"
            raise ValueError(f"{text} {LONGEST_PAUSE:g}")

    def pause(self, count: int, chance: float) -> float:
        """Seconds without a worker after the `count`th failure (from 1) in a window; `chance` is from 0 to 1.

        Half of it is left to chance, so that plugins which failed together don't come back together.
        """
        if count < 2:
            return 0.0
        doubled = self.first_pause * 2.0 ** min(count - 2, MOST_FAILURES)
        return min(self.longest_pause, doubled) * (1.0 + chance) / 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What one failure costs: it is the `count`th in the window; a pause in seconds, or quarantine."""

    count: int
    pause: float
    quarantine: bool

    @property
    def change(self) -> Change:
        """What happens to the place that failed."""
        if self.quarantine:
            return Change.QUARANTINE
        return Change.PAUSE if self.pause > 0 else Change.END


class Failures:
    """The failures that count, of one plugin, over all its places and over all times it is loaded."""

    __slots__ = ("_policy", "times")

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self.times: collections.deque[float] = collections.deque(maxlen=policy.failures)

    def __len__(self) -> int:
        return len(self.times)

    def add(self, now: float, chance: float) -> Cost:
        """One more, at `now` on a clock that never goes back."""
        while self.times and self.times[0] <= now - self._policy.window:
            self.times.popleft()
        self.times.append(now)
        count = len(self.times)
        quarantine = count >= self._policy.failures
        return Cost(count, 0.0 if quarantine else self._policy.pause(count, chance), quarantine)

    def make_up(self) -> None:
        """A call was answered: the plugin works, and the oldest failure does not count any more."""
        if self.times:
            self.times.popleft()

    def forget(self) -> None:
        """Somebody cleared the plugin: it starts anew."""
        self.times.clear()


class Life:
    """One place: its state, and until when a pause lasts. Not thread-safe: its owner has a lock."""

    __slots__ = ("resume", "state")

    def __init__(self) -> None:
        self.state = State.STOPPED
        self.resume = 0.0
        """When a pause ends, by the clock of `fail`."""

    def on(self, change: Change) -> None:
        """Let `change` happen. Raises ValueError where it can't."""
        self.state = after(self.state, change)

    def fail(self, cost: Cost, now: float) -> None:
        """Its worker failed at `now`."""
        self.on(cost.change)
        self.resume = now + cost.pause

    def left(self, now: float) -> float:
        """Seconds until a worker may be started here, if none is there."""
        return max(0.0, self.resume - now) if self.state is State.BACKOFF else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Quarantine:
    """Why a plugin is quarantined. `manifest` is its file, `since` Unix time in seconds, `reason` one visible line.

    It is about this version of the plugin, as this manifest describes it: another one starts without a past.
    """

    name: str
    version: str
    manifest: str
    since: float
    failures: int
    reason: str
