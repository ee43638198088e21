"""The worker's side of handing calls over: addresses in the form that the kernel has."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker import _handed
from sandbox_worker.broker.notify import Address, UnixPath, parse_address

ports = st.integers(0, 65535)


@given(st.ip_addresses(), ports, st.integers(0, 0xFFFFF), st.integers(0, 0xFFFFFFFF))
def test_an_address_is_read_as_what_was_meant(ip: Any, port: int, flow: int, scope: int) -> None:
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    where = (str(ip).partition("%")[0], port, *((flow, scope) if ip.version == 6 else ()))
    found = parse_address(_handed._packed(family, where))
    assert isinstance(found, Address)
    assert found.where == (str(ipaddress.ip_address(found.ip)) if ip.version == 4 else found.where[0], *where[1:])
    assert found.ip == ip.packed


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50))
def test_a_path_is_read_as_what_was_meant(name: str) -> None:
    for path in (f"/{name}", f"/{name}".encode()):
        found = parse_address(_handed._packed(socket.AF_UNIX, path))
        assert isinstance(found, UnixPath)
        assert found.path == f"/{name}".encode()


@pytest.mark.parametrize("host", ["", b"127.0.0.1", "127.0.0.1"])
def test_an_empty_host_is_every_address_and_bytes_are_text(host: Any) -> None:
    found = parse_address(_handed._packed(socket.AF_INET, (host, 80)))
    assert isinstance(found, Address)
    assert found.ip == (bytes((127, 0, 0, 1)) if host else bytes(4))


@pytest.mark.parametrize("address", ["text", None, 7, ["127.0.0.1", 80], ("127.0.0.1", -1), ("127.0.0.1", 65536), ()])
def test_what_is_no_address_is_refused_as_python_refuses_it(address: Any) -> None:
    with pytest.raises((TypeError, OverflowError, ValueError)):
        _handed._packed(socket.AF_INET, address)
