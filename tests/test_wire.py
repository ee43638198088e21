"""Promises of the wire: plain values round-trip, frames cut anywhere, and no bytes do harm before they are refused."""

from __future__ import annotations

import contextlib
import itertools
import time
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox_worker import _msgpack, wire
from sandbox_worker.errors import Unsendable, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT: Final = st.text(st.characters(codec="utf-8"), max_size=20)
SCALARS: Final = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(max_size=20)
)
PLAIN: Final = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=30
)

QUICK: Final = 1.0
"""Seconds of processor time within which a frame of up to 2 MiB is refused."""
SLIM: Final = 4 << 20
"""Bytes that resident memory may grow by at its peak, beyond the frame's own size."""


def body(value: object) -> bytes:
    """The body of the frame that holds `value`."""
    return wire.Encoder().encode([value])[wire.HEADER :]


def refused_cheaply(data: bytes) -> bool:
    """Whether `decode` refuses `data` within QUICK and SLIM."""
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (proc(5))
    before, started = memory("VmRSS"), time.thread_time()
    with pytest.raises(WireError):
        wire.decode(data)
    return time.thread_time() - started < QUICK and memory("VmHWM") - before < len(data) + SLIM


def memory(field: str) -> int:
    """A size in /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(field + ":")[2].split()[0]) << 10


# --- values


@given(PLAIN)
def test_every_plain_value_arrives_as_it_was_sent(value: object) -> None:
    wire.check(value)
    assert wire.decode(body(value)) == [value]


@given(PLAIN)
def test_types_arrive_too_so_that_true_is_not_1_nor_bytes_text(value: object) -> None:
    arrived: Any = wire.decode(body(value))
    assert type(arrived[0]) is type(value)


def test_a_tuple_arrives_as_a_list() -> None:
    value = (1, ("a", ()), {"k": (None,)})
    wire.check(value)
    assert wire.decode(body(value)) == [[1, ["a", []], {"k": [None]}]]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), -0.0])
def test_special_floats_cross_unchanged(value: float) -> None:
    assert repr(wire.decode(body(value))) == repr([value])


def test_int_bounds_are_those_of_64_bits() -> None:
    for value in (-(1 << 63), (1 << 64) - 1):
        wire.check(value)
        assert wire.decode(body(value)) == [value]


@pytest.mark.parametrize("value", [-(1 << 63) - 1, 1 << 64, 1 << 1000])
def test_an_int_beyond_64_bits_is_named_and_not_sent(value: int) -> None:
    with pytest.raises(Unsendable, match="int beyond 64 bits"):
        wire.check(value)
    with pytest.raises(Unsendable):
        body(value)


class Lying(str):
    """A subclass of a plain type is no plain type."""

    __slots__ = ()


UNSENDABLE: Final = {
    "set": {1},
    "function": len,
    "class": int,
    "complex": 1j,
    "bytearray": bytearray(b"x"),
    "subclass of str": Lying("x"),
    "range": range(3),
    "exception": ValueError("x"),
    "object": object(),
    "memoryview": memoryview(b"x"),
    "lone surrogate": "\ud800",
    "bool as key": {True: 1},
    "tuple as key": {(): 1},
    "bytes as key": {b"a": 1},
    "surrogate in a key": {"\udcff": 1},
    "subclass as key": {Lying("x"): 1},
}


@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE.keys())
def test_what_is_not_plain_is_refused_before_it_is_sent(value: object) -> None:
    with pytest.raises(Unsendable):
        wire.check(value)
    with pytest.raises(Unsendable):
        wire.check([1.0, value])


PATHS: Final = {
    "": object(),
    "[2]": [1, 2, object()],
    "['a']": {"a": object()},
    "[0]['rows'][3]['when']": [{"rows": [0, 1, 2, {"when": object()}]}],
    "[1][0]": (1.0, ({1},)),
}


@pytest.mark.parametrize("path", PATHS)
def test_check_names_the_path_of_what_cannot_cross(path: str) -> None:
    with pytest.raises(Unsendable) as caught:
        wire.check(PATHS[path])
    assert caught.value.where == path


def test_check_names_the_type_with_its_module() -> None:
    with pytest.raises(Unsendable, match=r"tests?\.?.*Lying|test_wire\.Lying"):
        wire.check([Lying("x")])


def test_long_keys_are_cut_in_the_path() -> None:
    with pytest.raises(Unsendable) as caught:
        wire.check({"k" * 5000: object()})
    assert len(caught.value.where) < 100


def nested(depth: int, *, as_dict: bool = False) -> Any:
    """An empty container inside `depth - 1` others."""
    value: Any = {} if as_dict else []
    for _ in range(depth - 1):
        value = {"k": value} if as_dict else [value]
    return value


@pytest.mark.parametrize("as_dict", [False, True])
def test_the_deepest_value_that_check_lets_pass_is_accepted_by_decode(as_dict: bool) -> None:
    """`check` counts from where a value stands in a call: [CALL, id, hook, {name: value}] is two deep."""
    deepest = max(n for n in range(1, wire.MAX_DEPTH + 5) if sendable(nested(n, as_dict=as_dict)))
    assert wire.decode(wire.Encoder().encode([1, 1, "hook", {"name": nested(deepest, as_dict=as_dict)}])[4:])


def sendable(value: object) -> bool:
    """Whether `check` lets `value` pass."""
    try:
        wire.check(value)
    except Unsendable:
        return False
    return True


def test_a_value_that_holds_itself_is_refused() -> None:
    ring: list[object] = []
    ring.append(ring)
    with pytest.raises(Unsendable, match="nested deeper"):
        wire.check(ring)


# --- hostile bytes


@given(st.binary(max_size=2000))
@example(b"")
@example(b"\xc1")
@example(b"\xd4\x05\x00")
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\x81\xa1a")
@example(b"\x81\x90\xc0")
@example(b"\x81\xc0\xc0")
@example(b"\xa1\xff")
@example(b"\x90\x90")
def test_no_bytes_raise_anything_but_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        wire.decode(data)


@given(st.binary(max_size=500), st.integers(0, 40))
def test_no_long_bytes_raise_anything_but_wire_error(data: bytes, repeats: int) -> None:
    """Beyond a few kilobytes the headers are walked before msgpack sees the body: another path, the same promise."""
    with contextlib.suppress(WireError):
        wire.decode(data * repeats * 10)


@given(st.binary(min_size=1, max_size=400))
def test_the_walk_over_the_headers_refuses_nothing_that_is_one_plain_value(data: bytes) -> None:
    """Whatever the unpacker takes, the walk takes, and the walk alone raises nothing but WireError."""
    try:
        msgpack.unpackb(data, strict_map_key=True, ext_hook=no_extension, max_ext_len=0)
    except (ValueError, TypeError, OverflowError):
        with contextlib.suppress(WireError):
            wire.Walk(len(data)).go(data)
    else:
        wire.Walk(len(data)).go(data)


def no_extension(_code: int, _data: bytes) -> object:
    """Extensions are no plain values."""
    raise ValueError


HOSTILE: Final[dict[str, Callable[[], bytes]]] = {
    "10,000 arrays deep": lambda: b"\x91" * 10_000 + b"\xc0",
    "10,000 maps deep": lambda: b"\x81\xa1k" * 10_000 + b"\xc0",
    "a hundred arrays deep in a short frame": lambda: b"\x91" * 100 + b"\xc0",
    "array32 that claims 4 Gi items": lambda: b"\xdd\xff\xff\xff\xff",
    "array32 of a million that are not there": lambda: b"\xdd\x00\x0f\xff\xff" + b"\xc0" * 100,
    "array32 of 256 Mi in a long frame": lambda: b"\xdd\x10\x00\x00\x00" + b"\xc0" * 100_000,
    "map32 that claims 4 Gi pairs": lambda: b"\xdf\xff\xff\xff\xff",
    "bin32 that claims 4 GiB": lambda: b"\xc6\xff\xff\xff\xff" + b"x" * 50_000,
    "str32 that claims 4 GiB": lambda: b"\xdb\xff\xff\xff\xff" + b"x" * 50_000,
    "ext32 that claims 4 GiB": lambda: b"\xc9\xff\xff\xff\xff\x01" + b"x" * 50_000,
    "a thousand array32 claims side by side": lambda: b"\xdc\x03\xe8" + b"\xdd\x00\x0f\xff\xff" * 1000,
    "2 Mi empty arrays": lambda: b"\xdd\x00\x20\x00\x00" + b"\x90" * (1 << 21),
    "2 Mi nil in nested arrays": lambda: b"\xdc\x00\x20" + (b"\xdd\x00\x01\x00\x00" + b"\xc0" * (1 << 16)) * 32,
    "false claims that add up to the depth": lambda: b"\xdd\x00\x0f\xff\xff" * 63,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_claim_is_refused_quickly_and_without_memory(name: str) -> None:
    assert refused_cheaply(HOSTILE[name]())


def test_exactly_the_greatest_number_of_items_passes_and_one_more_does_not() -> None:
    def array(count: int) -> bytes:
        return b"\xdd" + count.to_bytes(4, "big") + b"\xc0" * count

    assert wire.decode(array(wire.MAX_ITEMS - 1)) == [None] * (wire.MAX_ITEMS - 1)
    assert refused_cheaply(array(wire.MAX_ITEMS))


@pytest.mark.parametrize("code", [-1, 0, 5, 127])
def test_extension_types_do_not_cross(code: int) -> None:
    """Timestamp (-1) included: what would be made of one is an object of a class, not data."""
    with pytest.raises(WireError):
        wire.decode(msgpack.packb([msgpack.ExtType(code, b"1234")]) if code >= 0 else b"\x91\xd6\xff\x00\x00\x00\x01")


def test_the_refusal_quotes_nothing_of_what_came() -> None:
    with pytest.raises(WireError) as caught:
        wire.decode(b"\xa9\x1b[2Jsecret" + b"rest")
    assert "secret" not in str(caught.value)


# --- frames


def frames(reader: wire.FrameReader, chunks: list[bytes]) -> list[bytes]:
    """Every body that comes out, read as both sides read: feed, then what is whole already."""
    found = []
    for chunk in chunks:
        got = reader.feed(chunk)
        while got is not None:
            found.append(got)
            got = reader.next()
    return found


@given(st.lists(st.binary(max_size=50), max_size=6), st.lists(st.integers(0, 400), max_size=12))
def test_any_chunking_gives_the_same_frames_as_one_feed(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(len(b).to_bytes(4, "big") + b for b in bodies)
    at = sorted({0, *(min(cut, len(stream)) for cut in cuts), len(stream)})
    chunks = [stream[a:b] for a, b in itertools.pairwise(at)]
    assert frames(wire.FrameReader(1000), chunks) == frames(wire.FrameReader(1000), [stream]) == bodies


def test_bytes_behind_a_frame_are_pending() -> None:
    reader = wire.FrameReader(100)
    assert reader.feed(b"\0\0\0\1x" + b"\0\0") == b"x"
    assert reader.buffered == b"\0\0"


def test_what_is_missing_of_a_frame_is_known_once_its_length_is() -> None:
    reader = wire.FrameReader(100)
    missing = [reader.missing]
    for data in (b"\0\0", b"\0\x0a", b"x" * 9, b"y\0"):
        reader.feed(data)
        missing.append(reader.missing)
    assert missing == [0, 2, 10, 1, 3]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\x65" + b"x" * 101, b"\0\0\1\0" + b"x"])
def test_a_length_beyond_the_limit_is_refused_as_soon_as_it_is_claimed(data: bytes) -> None:
    with pytest.raises(WireError):
        wire.FrameReader(100).feed(data)


def test_a_frame_of_exactly_the_limit_passes() -> None:
    assert wire.FrameReader(100).feed(b"\0\0\0\x64" + b"x" * 100) == b"x" * 100


def test_a_frame_begins_with_its_length_in_four_bytes_big_endian() -> None:
    assert wire.Encoder().encode([1, None]) == b"\0\0\0\x03" + b"\x92\x01\xc0"


# --- long frames and large values


LARGE_VALUES: Final = {
    "alone": bytes(range(256)) * 800,
    "among others": ["a", b"x" * (wire.LARGE + 1), {"b": [b"y" * wire.LARGE, None]}, 7],
    "one after the other": [b"x" * wire.LARGE, b"y" * 3 * wire.LARGE, b"z" * wire.LARGE],
    "a tuple": (1, b"x" * wire.LARGE),
    "almost large": [b"x" * (wire.LARGE - 1)],
    "long text": "x" * (2 * wire.LARGE),
    "many numbers": list(range(1 << 16)),
}


def sent(value: object) -> list[bytes]:
    """What is written for `value`, piece by piece."""
    apart: Any = wire.Apart(value) if wire.check(value) >= wire.APART else value
    frame = wire.Encoder().encode([1, apart, 0])
    return [bytes(piece) for piece in frame.pieces] if isinstance(frame, wire.LongFrame) else [frame]


def received(reader: wire.FrameReader, stream: bytes, step: int) -> wire.Body | None:
    """The body, when at most `step` bytes are read at once, and to the space where there is one."""
    view, body = memoryview(stream), reader.feed(stream[:step])
    at = step
    while body is None and at < len(stream):
        space = reader.space()
        if space is None:
            body = reader.feed(stream[at : at + step])
            at += step
        else:
            count = min(step, len(space), len(stream) - at)
            space[:count] = view[at : at + count]
            at += count
            body = reader.filled(count)
    return body


@pytest.mark.parametrize("step", [1000, 1 << 16, 1 << 20])
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("value", LARGE_VALUES.values(), ids=LARGE_VALUES.keys())
def test_a_large_value_arrives_as_it_was_sent_however_it_is_read(value: Any, trusted: bool, step: int) -> None:
    stream = b"".join(sent(value))
    body = received(wire.FrameReader(1 << 24, trusted), stream, step)
    assert body is not None
    assert len(body) == len(stream) - wire.HEADER
    arrived: Any = wire.decode(body)
    assert arrived == [1, list(value) if type(value) is tuple else value, 0]
    assert type(arrived[1]) is (list if type(value) is tuple else type(value))


@pytest.mark.parametrize("value", LARGE_VALUES.values(), ids=LARGE_VALUES.keys())
def test_in_the_stream_a_large_value_is_msgpack_as_any_other(value: Any) -> None:
    body = msgpack.packb([1, value, 0])
    assert b"".join(sent(value)) == len(body).to_bytes(4, "big") + body


def test_a_large_value_is_sent_from_where_it_is_and_received_to_where_it_stays() -> None:
    value = b"x" * (1 << 24)
    tracemalloc.start()
    try:
        frame = wire.Encoder().encode([1, wire.Apart(value), 0])
        packed = tracemalloc.get_traced_memory()[1]
        reader = wire.FrameReader(1 << 25, trusted=True)
        stream = b"".join(frame.pieces)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        body = received(reader, stream, 1 << 16)
        assert body is not None
        arrived: Any = wire.decode(body)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert arrived[1] == value
    assert packed < 1 << 20
    assert peak < len(value) + (1 << 19)


@pytest.mark.parametrize("came", [0, 20, 1000, 1 << 16, 1 << 20])
@pytest.mark.parametrize("kind", [b"\xc6", b"\xdb", b"\xdd"], ids=["bytes", "text", "list"])
def test_a_claim_makes_no_memory_but_a_multiple_of_what_came(kind: bytes, came: int) -> None:
    """500 workers may claim as much as they like at the same time."""
    claimed = 1 << 26
    stream = claimed.to_bytes(4, "big") + b"\x91" + kind + (claimed - 6).to_bytes(4, "big") + b"\0" * came
    tracemalloc.start()
    try:
        with contextlib.suppress(WireError):  # more items than there may be
            received(wire.FrameReader(claimed), stream, 1 << 16)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (1 << 18) + 65 * came


@pytest.mark.parametrize(
    "behind",
    [b"", b"\0\0", b"\xd4\0\0", b"\xc7\0\0", b"\xc1", b"\xc6\xff\xff\xff\xff", b"\x91" * 70, b"\xdd\0\x10\0\0"],
    ids=["truncated", "one too many", "extension", "empty extension", "reserved", "claim", "deep", "items"],
)
def test_what_is_wrong_behind_a_large_value_is_refused(behind: bytes) -> None:
    body = b"\x92\xc6" + wire.LARGE.to_bytes(4, "big") + b"x" * wire.LARGE + behind
    stream = len(body).to_bytes(4, "big") + body
    assert decoded(lambda: received(wire.FrameReader(1 << 24), stream, 1000)) == decoded(lambda: body) == "refused"


def test_a_large_value_for_a_key_is_refused() -> None:
    body = b"\x81\xc6" + wire.LARGE.to_bytes(4, "big") + b"x" * wire.LARGE + b"\0"
    read = received(wire.FrameReader(1 << 24), len(body).to_bytes(4, "big") + body, 1 << 16)
    assert read is not None
    with pytest.raises(WireError):
        wire.decode(read)


@given(PLAIN, st.data())
def test_a_long_frame_means_what_it_means_in_one_piece(value: object, data: st.DataObject) -> None:
    """With low thresholds, so that short values are large: in any pieces it is the same value, or refused as well."""
    stream = bytearray(body(value))
    for _ in range(data.draw(st.integers(0, 2))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    spoiled, step = bytes(stream), data.draw(st.integers(1, 12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_LONG", 4)
        patch.setattr(wire, "_SMALL", 0)
        patch.setattr(_msgpack, "LARGE", 2)
        pieces = decoded(lambda: received(wire.FrameReader(10_000), len(spoiled).to_bytes(4, "big") + spoiled, step))
    assert pieces == decoded(lambda: spoiled)


def decoded(read: Callable[[], wire.Body | None]) -> str:
    """The repr of a body's value, or that it was refused; NaN is no equal of itself."""
    try:
        found = read()
        assert found is not None
        return repr(wire.decode(found))
    except WireError:
        return "refused"


def test_a_long_frame_goes_behind_a_short_one() -> None:
    value = b"x" * wire.LARGE
    frame = b"\0\0\0\1x" + wire.Encoder().encode([wire.Apart(value)])
    assert b"".join(frame.pieces) == b"\0\0\0\1x" + wire.Encoder().encode([value])
    assert len(frame) == sum(map(len, frame.pieces))


def test_bytes_behind_a_long_frame_are_pending() -> None:
    reader, stream = wire.FrameReader(1 << 24), b"".join(sent(b"x" * wire.LARGE))
    assert reader.feed(stream[:1000]) is None
    arrived: Any = wire.decode(reader.feed(stream[1000:] + b"\0\0\0\1x\0") or b"")
    assert arrived[1] == b"x" * wire.LARGE
    assert reader.next() == b"x"
    assert reader.buffered == b"\0"


def test_a_value_may_have_as_many_items_with_large_values_as_without() -> None:
    most = wire.SENDABLE_ITEMS - 2
    assert wire.check([b"x" * wire.LARGE, *[0.5] * most]) == wire.SENDABLE_ITEMS + wire.APART
    with pytest.raises(Unsendable, match="items in all"):
        wire.check([b"x" * wire.LARGE, *[0.5] * (most + 1)])
