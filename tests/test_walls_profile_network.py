"""What the filter of a worker with a network grant changes, and what it leaves as it is."""

from __future__ import annotations

import socket
from functools import cache
from itertools import chain, combinations
from typing import Final

import pytest

from sandbox_worker.walls import profile
from sandbox_worker.walls.bpf import ALLOW, MAX_INSTRUCTIONS, NOTIFY
from sandbox_worker.walls.bpf_interpreter import simulate
from sandbox_worker.walls.profile import BROKERED, EACCES, ENOPROTOOPT, EPERM, HANDED
from sandbox_worker.walls.syscalls import ARCHITECTURES

SLOTS: Final = {"pid": 4242, "path": 1 << 40, "argv": 2 << 40, "envp": 3 << 40}
NETWORK: Final = BROKERED[:4]
WAYS: Final = (*NETWORK, HANDED)
GRANTS: Final = list(chain.from_iterable(combinations(WAYS, size) for size in range(len(WAYS) + 1)))
STREAM, DGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW

both = pytest.mark.parametrize("machine", list(ARCHITECTURES))
every = pytest.mark.parametrize("network", GRANTS, ids="+".join)


@cache
def code_of(machine: str, network: tuple[str, ...]) -> bytes:
    return profile.worker_filter(ARCHITECTURES[machine], 7, network).patch(SLOTS)


def decide(machine: str, network: tuple[str, ...], call: str, *arguments: int) -> int:
    architecture = ARCHITECTURES[machine]
    return simulate(code_of(machine, network), architecture.numbers[call], arguments, architecture.audit)


@both
@every
def test_connections_and_listeners_are_asked_about_where_granted_and_refused_elsewhere(
    machine: str, network: tuple[str, ...]
) -> None:
    asks = "handed" not in network
    assert decide(machine, network, "connect", 3, 0, 16) == (NOTIFY if asks and "connect" in network else EPERM)
    for call in ("bind", "listen"):
        assert decide(machine, network, call, 3, 0, 16) == (NOTIFY if asks and "listen" in network else EPERM)
    for call in ("accept", "accept4"):
        assert decide(machine, network, call, 3, 0, 0) == (ALLOW if "listen" in network else EPERM)
    assert decide(machine, network, "openat", 0, 0, 0, 0) == (NOTIFY if asks and "names" in network else ALLOW)


@both
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("protocol", [0, socket.IPPROTO_TCP])
def test_a_tcp_socket_is_allowed_with_a_grant_alone(machine: str, family: int, protocol: int) -> None:
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    assert decide(machine, ("connect",), "socket", family, STREAM | flags, protocol) == ALLOW
    assert decide(machine, (), "socket", family, STREAM | flags, protocol) == EACCES


@both
@every
def test_a_unix_socket_is_allowed_with_a_grant_of_one_alone(machine: str, network: tuple[str, ...]) -> None:
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    answer = ALLOW if "unix" in network else EACCES
    assert decide(machine, network, "socket", socket.AF_UNIX, STREAM | flags, 0) == answer


@both
@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (socket.AF_INET, DGRAM, 0),
        (socket.AF_INET, RAW, 1),
        (socket.AF_INET, STREAM, 262),  # MPTCP
        (socket.AF_INET, STREAM, 132),  # SCTP
        (socket.AF_INET, 5, 132),
        (socket.AF_UNIX, DGRAM, 0),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET, 0),
        (socket.AF_UNIX, STREAM, 1),
        (socket.AF_NETLINK, RAW, 0),
        (socket.AF_PACKET, RAW, 0),
        (socket.AF_VSOCK, STREAM, 0),
        (38, 5, 0),  # AF_ALG
        (43, STREAM, 0),  # SMC, which is TCP to who looks at it
    ],
)
def test_every_other_socket_is_refused_with_every_grant(machine: str, family: int, kind: int, protocol: int) -> None:
    assert decide(machine, NETWORK, "socket", family, kind, protocol) == EACCES


@both
@every
def test_no_data_goes_to_an_address_of_its_own(machine: str, network: tuple[str, ...]) -> None:
    fast_open = 0x20000000
    assert decide(machine, network, "sendto", 3, 0, 1, 0, 1 << 33, 16) == EPERM
    assert decide(machine, network, "sendto", 3, 0, 1, fast_open, 0, 0) == EPERM
    assert decide(machine, network, "sendmsg", 3, 0, fast_open) == EPERM
    assert decide(machine, network, "sendmmsg", 3, 0, 1, fast_open) == EPERM


@both
@pytest.mark.parametrize(
    ("level", "option", "answer"),
    [
        (6, 1, ALLOW),  # TCP_NODELAY
        (6, 4, ALLOW),  # TCP_KEEPIDLE
        (41, 26, ALLOW),  # IPV6_V6ONLY
        (6, 30, ENOPROTOOPT),  # TCP_FASTOPEN_CONNECT
        (6, 23, ENOPROTOOPT),  # TCP_FASTOPEN
        (6, 19, ENOPROTOOPT),  # TCP_REPAIR
        (6, 31, ENOPROTOOPT),  # TCP_ULP
        (1, 15, ENOPROTOOPT),  # SO_REUSEPORT
        (1, 25, ENOPROTOOPT),  # SO_BINDTODEVICE
        (1, 26, ENOPROTOOPT),  # SO_ATTACH_FILTER
        (41, 1, ENOPROTOOPT),  # IPV6_ADDRFORM
        (0, 19, ENOPROTOOPT),  # IP_TRANSPARENT
        (0, 15, ENOPROTOOPT),  # IP_FREEBIND
    ],
)
def test_options_are_those_that_lead_nowhere(machine: str, level: int, option: int, answer: int) -> None:
    assert decide(machine, NETWORK, "setsockopt", 3, level, option, 0, 4) == answer


@both
def test_set_id_files_are_refused_before_names_are_asked_about(machine: str) -> None:
    assert decide(machine, NETWORK, "openat", 0, 0, 0o100, 0o4755) == EPERM


@both
@every
def test_the_filter_fits_the_kernel(machine: str, network: tuple[str, ...]) -> None:
    assert len(profile.worker_filter(ARCHITECTURES[machine], 1, network)) <= MAX_INSTRUCTIONS


@both
@every
def test_all_other_calls_are_decided_as_without_a_grant(machine: str, network: tuple[str, ...]) -> None:
    plain, granted = profile.worker_rules(7), profile.worker_rules(7, network)
    touched = {"socket", "setsockopt", "connect", "bind", "listen", "accept", "accept4", "open", "openat"}
    assert plain.keys() == granted.keys()
    for name in (plain.keys() - touched) & ARCHITECTURES[machine].numbers.keys():
        assert decide(machine, network, name, 1, 2, 3, 4, 5) == decide(machine, (), name, 1, 2, 3, 4, 5)
