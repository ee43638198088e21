"""A worker's way to the broker: its listener is kept until the first question, and nothing of it is left at the end."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from host.run.brokerage import Brokerage

POLICY: dict[str, Any] = {"layers": [[]], "deny": [], "writes": []}


class Fake:
    """A broker that notes what it is asked, and hands out a channel whose other end it keeps."""

    pid = 4242
    alive = True

    def __init__(self) -> None:
        self.served: list[Any] = []
        self.narrowed: list[Any] = []
        self.ends: list[socket.socket] = []

    def serve(self, policy: dict[str, Any], *, replace: bool, handed: bool) -> tuple[int, int, int]:
        assert not handed
        self.served.append((policy, replace))
        ours, theirs = socket.socketpair()
        self.ends.append(ours)
        read, write = os.pipe()
        os.close(write)
        return len(self.served), theirs.detach(), read

    def narrow(self, number: int, policy: dict[str, Any]) -> None:
        self.narrowed.append((number, policy))


def brokerage(broker: Any, *, at_once: bool = False) -> Brokerage:
    return Brokerage(lambda: broker, POLICY, replace=True, at_once=at_once)


def close(made: Brokerage, *others: socket.socket) -> None:
    for descriptor in made.descriptors():
        os.close(descriptor)
    for other in others:
        other.close()


def test_a_listener_waits_with_the_host_until_something_is_asked() -> None:
    broker = Fake()
    made = brokerage(broker)
    assert made.reader == os.getpid()
    read, write = os.pipe()
    with socket.socket(fileno=made.announce()) as worker:
        socket.send_fds(worker, [b"\0\0\0\7"], [read])
    made.attend()  # the listener has come
    assert (broker.served, made.refusals, made.connected) == ([], -1, True)
    os.write(write, b"?")
    made.attend()  # it has something to be answered
    assert broker.served == [(POLICY, True)]
    assert made.awaited == -1
    assert made.reader == broker.pid
    message, [descriptor], _, _ = socket.recv_fds(broker.ends[0], 4, 1)
    assert message == b"\0\0\0\7"
    assert os.fstat(descriptor).st_ino == os.fstat(read).st_ino
    for number in (descriptor, read, write):
        os.close(number)
    close(made, *broker.ends)


def test_a_worker_that_ended_before_its_lockdown_did_leaves_nothing() -> None:
    broker = Fake()
    made = brokerage(broker)
    os.close(made.announce())
    made.attend()
    assert (made.descriptors(), broker.served) == (set(), [])


def test_a_worker_that_ended_without_a_question_needs_no_broker() -> None:
    broker = Fake()
    made = brokerage(broker)
    read, write = os.pipe()
    with socket.socket(fileno=made.announce()) as worker:
        socket.send_fds(worker, [b"\0\0\0\7"], [read])
    made.attend()
    for number in (read, write):
        os.close(number)
    made.attend()
    assert (made.descriptors(), broker.served) == (set(), [])


def test_what_is_narrowed_before_the_first_question_is_what_it_is_judged_by() -> None:
    broker = Fake()
    made = brokerage(broker)
    narrower = {**POLICY, "deny": [["fs.write", "/srv", False]]}
    made.narrow(narrower)
    read, write = os.pipe()
    with socket.socket(fileno=made.announce()) as worker:
        socket.send_fds(worker, [b"\0\0\0\7"], [read])
    made.attend()
    os.write(write, b"?")
    made.attend()
    assert (broker.served, broker.narrowed) == ([(narrower, True)], [])
    made.narrow(POLICY)
    assert broker.narrowed == [(1, POLICY)]
    for number in (read, write):
        os.close(number)
    close(made, *broker.ends)


def test_where_questions_come_at_once_so_does_the_broker() -> None:
    broker = Fake()
    made = brokerage(broker, at_once=True)
    os.close(made.announce())
    assert (broker.served, made.awaited, made.reader) == ([(POLICY, True)], -1, broker.pid)
    broker.alive = False
    assert not made.connected
    close(made, *broker.ends)


def test_a_broker_that_can_not_be_had_leaves_no_listener() -> None:
    def none() -> Any:
        raise OSError("no processes left")

    made = Brokerage(none, POLICY, replace=False, at_once=False)
    read, write = os.pipe()
    with socket.socket(fileno=made.announce()) as worker:
        socket.send_fds(worker, [b"\0\0\0\7"], [read])
    made.attend()
    listener = made.awaited
    os.write(write, b"?")
    with pytest.raises(OSError, match="no processes left"):
        made.attend()
    assert made.descriptors() == set()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(listener)
    for number in (read, write):
        os.close(number)
