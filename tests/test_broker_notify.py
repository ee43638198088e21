"""Addresses as the kernel has them in memory."""

from __future__ import annotations

import ipaddress
import socket
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker.broker.notify import parse_address

PORTS = st.integers(0, 65535)


@given(st.ip_addresses(v=4), PORTS)
def test_an_ipv4_address_is_read(address: Any, port: int) -> None:
    found = parse_address(pack("=H", socket.AF_INET) + pack(">H", port) + address.packed + bytes(8))
    assert found is not None
    assert (found.family, found.ip, found.port, found.where) == (
        socket.AF_INET, address.packed, port, (str(address), port),
    )  # fmt: skip


@given(st.ip_addresses(v=6), PORTS, st.integers(0, 0xFFFFF), st.integers(0, 2**32 - 1))
def test_an_ipv6_address_is_read(address: Any, port: int, flow: int, scope: int) -> None:
    raw = pack("=H", socket.AF_INET6) + pack(">HI", port, flow) + address.packed + pack("=I", scope)
    found = parse_address(raw)
    assert found is not None
    assert (found.ip, found.port, found.where[2:]) == (address.packed, port, (flow, scope))
    assert ipaddress.ip_address(found.where[0]) == address


@given(st.binary(max_size=64))
def test_bytes_are_an_address_of_their_own_family_or_none(raw: bytes) -> None:
    found = parse_address(raw)
    if found is not None:
        assert found.family in (socket.AF_INET, socket.AF_INET6)
        assert int.from_bytes(raw[:2], "little") == found.family


@pytest.mark.parametrize("family", [socket.AF_UNSPEC, socket.AF_UNIX, socket.AF_NETLINK, 262])
def test_another_family_is_none(family: int) -> None:
    assert parse_address(pack("=H", family) + bytes(30)) is None


@pytest.mark.parametrize(("family", "size"), [(socket.AF_INET, 15), (socket.AF_INET6, 27)])
def test_an_address_that_is_cut_short_is_none(family: int, size: int) -> None:
    assert parse_address((pack("=H", family) + bytes(30))[:size]) is None
