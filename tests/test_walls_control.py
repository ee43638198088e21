"""Frames and descriptors on the control socket."""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.walls.control import MAX_FRAME, Control, HangUp

if TYPE_CHECKING:
    from collections.abc import Iterator

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=9,
)


@pytest.fixture
def ends() -> Iterator[tuple[Control, socket.socket]]:
    """The spawner's end, with this process as the host, and the host's end."""
    ours, theirs = socket.socketpair()
    control = Control(theirs.detach(), os.pidfd_open(os.getpid()))
    yield control, ours
    ours.close()
    control.close()


def frame(message: object) -> bytes:
    body: bytes = msgpack.packb(message, unicode_errors="surrogateescape")
    return len(body).to_bytes(4, "big") + body


@given(st.lists(plain, min_size=1, max_size=5))
def test_what_is_sent_is_received(message: list[object]) -> None:
    one, other = socket.socketpair()
    left, right = (Control(end.detach(), os.pidfd_open(os.getpid())) for end in (one, other))
    left.send(*message)
    assert right.receive() == (message, [])
    left.close()
    right.close()


def test_a_frame_may_come_in_pieces(ends: tuple[Control, socket.socket]) -> None:
    control, host = ends
    code = f"import os\nfor byte in {frame(['reap', 5])!r}: os.write({host.fileno()}, bytes([byte]))"
    writer = subprocess.Popen([sys.executable, "-S", "-c", code], pass_fds=[host.fileno()])
    assert control.receive() == (["reap", 5], [])
    assert writer.wait() == 0


def test_file_names_that_are_not_utf_8_survive(ends: tuple[Control, socket.socket]) -> None:
    control, host = ends
    name = os.fsdecode(b"/caf\xe9")
    host.sendall(frame(["base", name]))
    assert control.receive() == (["base", name], [])


def test_descriptors_come_with_their_frame_and_are_not_inherited(ends: tuple[Control, socket.socket]) -> None:
    control, host = ends
    read, write = os.pipe()
    rights = array.array("i", [read, write])
    host.sendmsg([frame(["spawn", {}])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    host.sendall(frame(["reap", 1]))
    message, descriptors = control.receive()
    assert (message, len(descriptors)) == (["spawn", {}], 2)
    os.write(descriptors[1], b"through")
    assert os.read(read, 9) == b"through"
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    assert control.receive() == (["reap", 1], [])
    for descriptor in (read, write, *descriptors):
        os.close(descriptor)


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(4),
        (MAX_FRAME + 1).to_bytes(4, "big"),
        b"\0\0\0\x01\xc1",
        b"\0\0\0\x02\x92\x01",
        b"\0\0\0\x02\x01\x01",
        frame({"spawn": 1}),
        frame([]),
        frame("spawn"),
        frame(["x"])[:-1],
        b"\0\0",
        b"",
    ],
    ids=[
        "empty",
        "too large",
        "not msgpack",
        "cut array",
        "two values",
        "a map",
        "no kind",
        "a text",
        "cut",
        "cut length",
        "nothing",
    ],
)
def test_what_is_no_frame_is_a_hang_up(ends: tuple[Control, socket.socket], garbage: bytes) -> None:
    control, host = ends
    host.sendall(garbage)
    host.shutdown(socket.SHUT_WR)
    with pytest.raises(HangUp):
        control.receive()


def receive_for_ever(control: Control) -> None:
    while True:
        message, _ = control.receive()
        assert message


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_hang_up(garbage: bytes) -> None:
    ours, theirs = socket.socketpair()
    control = Control(theirs.detach(), os.pidfd_open(os.getpid()))
    ours.sendall(garbage)
    ours.close()
    with pytest.raises(HangUp):
        receive_for_ever(control)
    control.close()


def test_more_descriptors_than_a_frame_brings_are_a_hang_up(ends: tuple[Control, socket.socket]) -> None:
    control, host = ends
    null = os.open("/dev/null", os.O_RDONLY)
    rights = array.array("i", [null] * 30)
    host.sendmsg([frame(["spawn", {}])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    os.close(null)
    with pytest.raises(HangUp, match="descriptors"):
        control.receive()


def test_sending_to_a_host_that_has_closed_is_a_hang_up(ends: tuple[Control, socket.socket]) -> None:
    control, host = ends
    host.close()
    previous = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        with pytest.raises(HangUp):
            control.send("ready")
    finally:
        signal.signal(signal.SIGPIPE, previous)


def test_the_hosts_death_is_a_hang_up_even_in_the_middle_of_a_frame() -> None:
    """Another process, here this one, holds the host's end open: no end of the stream would tell."""
    ours, theirs = socket.socketpair()
    host = subprocess.Popen([sys.executable, "-S", "-c", "import select; select.select([], [], [])"])
    control = Control(theirs.detach(), os.pidfd_open(host.pid))
    ours.sendall(b"\0\0")
    host.kill()
    with pytest.raises(HangUp, match="dead"):
        control.receive()
    host.wait()
    ours.close()
    control.close()
