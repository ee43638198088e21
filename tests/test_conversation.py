"""The host's ends of the wire: long frames go through wider pipes, and only they."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest
from until import PATIENCE

from host.run.conversation import Conversation, widen
from sandbox_worker import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

NARROW: Final = 1 << 16
WIDE: Final = 1 << 20


@pytest.fixture
def ends() -> Iterator[tuple[Conversation, int, int]]:
    """A conversation, and the worker's two ends: where calls come out, where replies go in."""
    calls, ours = os.pipe()
    theirs, replies = os.pipe()
    talk = Conversation(ours, theirs)
    talk.limit_to(1 << 24)
    yield talk, calls, replies
    talk.abandon()
    for end in (calls, replies):
        os.close(end)


def size(pipe: int) -> int:
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)


def write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def test_a_short_frame_leaves_the_pipes_as_they_are(ends: tuple[Conversation, int, int]) -> None:
    talk, calls, replies = ends
    talk.send(b"\0\0\0\1x")
    os.write(replies, b"\0\0\0\1y")
    assert (os.read(calls, 99), talk.receive_last()) == (b"\0\0\0\1x", b"y")
    assert (size(calls), size(replies)) == (NARROW, NARROW)


@pytest.mark.parametrize("length", [3 * NARROW, WIDE, 3 * WIDE])
def test_a_long_frame_arrives_whole_through_a_wider_pipe(ends: tuple[Conversation, int, int], length: int) -> None:
    talk, calls, replies = ends
    value = os.urandom(length)
    writer = threading.Thread(target=write, args=(replies, wire.Encoder().encode([value])))
    writer.start()
    assert wire.decode(talk.receive_last()) == [value]
    writer.join()
    assert (size(calls), size(replies)) == (NARROW, WIDE)


def test_a_long_frame_widens_the_way_down(ends: tuple[Conversation, int, int]) -> None:
    talk, calls, _ = ends
    sender = threading.Thread(target=talk.send, args=(bytes(2 * WIDE),))
    sender.start()
    left = 2 * WIDE
    while left:
        left -= len(os.read(calls, left))
    sender.join()
    assert size(calls) == WIDE


def test_a_large_value_is_written_piece_by_piece_and_counted(ends: tuple[Conversation, int, int]) -> None:
    talk, calls, _ = ends
    frame = talk.encode([1, wire.Apart([b"x" * WIDE, b"y" * 2 * WIDE])])
    sender = threading.Thread(target=talk.send, args=(frame,))
    sender.start()
    came = bytearray()
    while len(came) < len(frame):
        came += os.read(calls, WIDE)
    sender.join()
    assert came == b"".join(frame.pieces)
    assert talk.sent == len(came)


def test_a_reply_that_ends_within_a_large_value_is_the_end() -> None:
    replies, theirs = os.pipe()
    talk = Conversation(theirs, replies)
    talk.limit_to(1 << 24)
    os.write(theirs, wire.Encoder().encode([b"x" * WIDE])[: NARROW // 2])
    assert talk.read() is None
    talk.hang_up()
    with pytest.raises(EOFError):
        talk.read()
    talk.abandon()


def test_what_is_no_pipe_stays_as_it_is() -> None:
    with open("/dev/null", "rb") as file:
        widen(file.fileno())


def test_hanging_up_twice_closes_no_descriptor_of_somebody_else() -> None:
    """Ctrl-C may come between the two: meanwhile the number may have become another file's."""
    calls, replies = os.pipe()
    conversation = Conversation(replies, calls)
    conversation.hang_up()
    other = os.dup(calls)
    conversation.hang_up()
    os.fstat(other)
    conversation.abandon()
    os.close(other)


def test_a_note_after_hanging_up_is_not_written() -> None:
    """In a forked child, say, where a stream of the parent's is collected."""
    replies, calls = os.pipe()
    conversation = Conversation(calls, replies)
    conversation.abandon()
    assert not conversation.note(b"cancel")


def test_a_short_call_does_not_wait_for_a_note(ends: tuple[Conversation, int, int]) -> None:
    talk, calls, _ = ends
    with ThreadPoolExecutor(1) as pool, talk._writing:  # as while a note is written
        pool.submit(talk.send, wire.Encoder().encode([1, "short"])).result(PATIENCE)
    assert wire.decode(os.read(calls, 100)[wire.HEADER :]) == [1, "short"]
