"""Patterns: the sets of requests that rules match, as prefixes of texts, and for the network with ports.

Of two prefixes either one begins with the other or no text begins with both. So two patterns meet in one pattern or in
nothing, and containment and intersection are exact.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    # Inclusive ranges of ports, sorted, neither overlapping nor adjacent.
    Ports = tuple[tuple[int, int], ...]


class Record:
    """A value whose slots are set once, by `_set`, and make up its equality and its hash."""

    __slots__: tuple[str, ...] = ()

    def _set(self, *values: object) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} can't be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} can't be deleted")

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._values()

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self._values()!r}"


class Pattern(Record):
    """All texts that start with `stem` or, where `exact`, that one text; `ports` is None for any port and for none."""

    __slots__ = ("stem", "exact", "ports")  # noqa: RUF023 - in the order of __init__
    stem: str
    exact: bool
    ports: Ports | None

    def __init__(self, stem: str, exact: bool = False, ports: Ports | None = None) -> None:
        write = object.__setattr__  # one by one: thousands of these may be made at a start
        write(self, "stem", stem)
        write(self, "exact", exact)
        write(self, "ports", ports)

    def matches(self, subject: str, port: int | None = None) -> bool:
        """Say whether a request is in the set; one without a port is not when the pattern names ports."""
        if not (subject == self.stem if self.exact else subject.startswith(self.stem)):
            return False
        return self.ports is None or (port is not None and any(low <= port <= high for low, high in self.ports))

    def meet(self, other: Pattern) -> Pattern | None:
        """Return the pattern of what both match; None when that is nothing."""
        wide, narrow = sorted((self, other), key=lambda pattern: (len(pattern.stem), pattern.exact))
        ports = _ports_meet(self.ports, other.ports)
        if not Pattern(wide.stem, wide.exact).matches(narrow.stem) or ports == ():
            return None
        return Pattern(narrow.stem, narrow.exact, ports)

    def contains(self, other: Pattern) -> bool:
        """Say whether this pattern matches everything that `other` matches."""
        return self.meet(other) == other

    def same_texts(self, other: Pattern) -> bool:
        """Say whether both match the same texts, on whatever ports."""
        return self.stem == other.stem and self.exact == other.exact


def merge_ports(ranges: list[tuple[int, int]]) -> Ports:
    """Sort `ranges` and join those that overlap or touch, so that equal sets are equal values."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def ports_text(ports: Ports) -> str:
    """Write `ports` as a rule does: `443,8000-8010`."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ports)


def _ports_meet(one: Ports | None, other: Ports | None) -> Ports | None:
    if one is None or other is None:
        return other if one is None else one
    pairs = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return merge_ports([(low, high) for low, high in pairs if low <= high])
