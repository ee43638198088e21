"""The broker's side of calls that are handed over."""

from __future__ import annotations

import os
import socket

import pytest

from sandbox_worker import _handed
from sandbox_worker.broker.calls import Calls
from sandbox_worker.broker.handed import Handed
from sandbox_worker.broker.names import Names
from sandbox_worker.broker.policy import policy_of
from sandbox_worker.walls import linux


@pytest.mark.parametrize("table", [True, False])
def test_a_call_is_acted_upon_whether_or_not_the_numbers_of_this_machine_are_known(
    monkeypatch: pytest.MonkeyPatch, table: bool
) -> None:
    if not table:
        monkeypatch.setattr(linux, "ARCHITECTURE", None)
    policy = policy_of({"layers": [[["net.connect", "127.0.0.1", False]]], "deny": [], "writes": []})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answers, back = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, events = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as made, theirs, answers, back:
        way = Handed(ours)
        calls = Calls(way, policy, Names(), events, replace=False)
        packet = b"c" + _handed._packed(socket.AF_INET, server.getsockname())
        socket.send_fds(theirs, [packet], [back.fileno(), made.fileno()])
        call = way.receive()
        assert call is not None
        work = calls.act(call)
        assert work is not None
        work()
        assert answers.recv(9) == bytes(4)
        assert made.getpeername() == server.getsockname()
        way.close()
    os.close(read)
    os.close(events)
