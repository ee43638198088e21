"""The fuzzer reads everything it makes as the host would, and notices what must not happen."""

from __future__ import annotations

from typing import Final

import pytest
from fuzz import mutation, seeds, target
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from sandbox_worker import wire
from sandbox_worker.errors import WireError

FRAMES: Final = 20_000


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_spoiled_frames_are_refused_or_become_records(seed: int) -> None:
    tally = target.Tally()
    for number, stream in enumerate(mutation.streams(seeds.frames(), seed)):
        target.read_stream(stream, tally, cut=number % (len(stream) + 1))
        target.read_events(stream)
        if tally.frames >= FRAMES:
            break
    assert min(tally.refused_frames, tally.records, tally.refused_streams) > FRAMES // 100


def test_every_seed_is_a_good_message() -> None:
    for frame in seeds.frames():
        tally = target.Tally()
        target.read_stream(frame, tally)
        assert (tally.frames, tally.refused_frames) == (1, 0)
        assert tally.records >= 2, frame  # its kind, and itself


@pytest.mark.parametrize("value", [{b"key": 1}, {1: 1}], ids=repr)
def test_a_key_that_is_no_text_is_no_plain_value(value: object) -> None:
    assert not target.is_plain([value], 10)


def test_a_parser_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "PARSERS", (lambda message: message["no"],))
    with pytest.raises(target.Finding, match="TypeError"):
        target.read_stream(seeds.frames()[0], target.Tally())


def test_a_value_that_is_not_plain_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "decode", lambda body: {1, 2})
    with pytest.raises(target.Finding, match="not plain"):
        target.read_stream(seeds.frames()[0], target.Tally())


class Reading(RuleBasedStateMachine):
    """A reader that is fed anything in any pieces gives the frames of the whole, until a length ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = wire.FrameReader(100)
        self.sent = b""
        self.taken = 0
        self.ended = False

    @rule(body=st.binary(max_size=120), header=st.none() | st.integers(0, 2**32 - 1), cut=st.integers(0, 130))
    def feed(self, body: bytes, header: int | None, cut: int) -> None:
        data = ((len(body) if header is None else header).to_bytes(4, "big") + body)[:cut]
        self.sent += data
        self.take(lambda: self.reader.feed(data))

    @rule()
    def next(self) -> None:
        self.take(self.reader.next)

    def take(self, how: object) -> None:
        if self.ended:
            return
        expected = self.expected()
        try:
            found = how()  # type: ignore[operator]
        except WireError:
            assert expected == "end"
            self.ended = True
            return
        assert found == expected
        if found is not None:
            self.taken += 4 + len(found)
        assert len(self.reader.buffered) == len(self.sent) - self.taken

    def expected(self) -> object:
        """What a reading of all that was sent gives next: a body, None for not yet, "end" for a length too great."""
        rest = self.sent[self.taken :]
        if len(rest) < 4:
            return None
        length = int.from_bytes(rest[:4], "big")
        if length > 100:
            return "end"
        return rest[4 : 4 + length] if len(rest) >= 4 + length else None


TestReading = Reading.TestCase
