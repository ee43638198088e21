"""Names are pinned to what they resolved to, for a short life."""

from __future__ import annotations

from sandbox_worker.broker.names import ADDRESSES_MAX, ANSWER_LIFE, PIN_LIFE, Names, look_up

ONE, TWO = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))


class Resolver:
    """A resolver and a clock that a test moves."""

    def __init__(self, *answers: tuple[bytes, ...]) -> None:
        self.now = 1000.0
        self.asked: list[str] = []
        self._answers = list(answers)
        self.names = Names(self._lookup, lambda: self.now)

    def _lookup(self, name: str) -> tuple[bytes, ...]:
        self.asked.append(name)
        return self._answers.pop(0)


def test_an_answer_is_given_again_for_its_life_and_then_asked_anew() -> None:
    resolver = Resolver((ONE,), (TWO,))
    assert resolver.names.resolve("a.example") == (ONE,)
    resolver.now += ANSWER_LIFE - 1
    assert resolver.names.resolve("a.example") == (ONE,)
    resolver.now += 2
    assert resolver.names.resolve("a.example") == (TWO,)
    assert len(resolver.asked) == 2


def test_an_address_stands_for_its_name_until_the_pin_ends() -> None:
    resolver = Resolver((ONE, TWO))
    assert resolver.names.of(ONE) == []
    resolver.names.resolve("a.example")
    resolver.now += PIN_LIFE - 1
    assert resolver.names.of(TWO) == ["a.example"]
    resolver.now += 2
    assert resolver.names.of(TWO) == []


def test_an_answer_that_is_replaced_stands_no_more() -> None:
    resolver = Resolver((ONE,), (TWO,))
    resolver.names.resolve("a.example")
    resolver.now += ANSWER_LIFE + 1
    resolver.names.resolve("a.example")
    assert resolver.names.of(ONE) == []


def test_a_name_without_addresses_is_not_asked_for_again_at_once() -> None:
    resolver = Resolver(())
    assert resolver.names.resolve("a.example") == resolver.names.resolve("a.example") == ()
    assert resolver.asked == ["a.example"]


def test_an_answer_is_bounded() -> None:
    many = tuple(number.to_bytes(4, "big") for number in range(1000))
    assert len(Resolver(many).names.resolve("a.example")) == ADDRESSES_MAX


def test_this_machine_knows_localhost_and_no_nonsense() -> None:
    assert set(look_up("localhost")) & {bytes((127, 0, 0, 1)), bytes(15) + b"\x01"}
    assert look_up("no-such-name.invalid") == ()
