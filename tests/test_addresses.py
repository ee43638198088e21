"""Which addresses a rule reaches once a name has been resolved."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker._addresses import PUBLIC, classify, reachable, subject
from sandbox_worker._network import parse_request
from sandbox_worker.permissions import parse_rule

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def packed(text):
    return ipaddress.ip_address(text).packed


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.0.9", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("172.32.0.0", "public"),
        ("192.168.0.1", "private"),
        ("fd12::1", "private"),
        ("100.64.0.1", "shared"),
        ("100.128.0.1", "public"),
        ("169.254.0.1", "link-local"),
        ("fe80::1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::ffff:10.0.0.1", "private"),
        ("::10.0.0.1", "reserved"),
        ("64:ff9b::169.254.169.254", "metadata"),
        ("64:ff9b::8.8.8.8", "public"),
        ("64:ff9b:1::8.8.8.8", "reserved"),
        ("2002:7f00:1::", "loopback"),
        ("2002:808:808::1", "public"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "reserved"),
        ("2001:0:4136:e378:8000:63bf:f5ff:fffe", "private"),
        ("8.8.8.8", "public"),
        ("2606:4700::1111", "public"),
    ],
)
def test_an_address_has_its_class(text, kind):
    assert classify(packed(text)) == kind


@given(ADDRESSES)
def test_what_python_calls_not_global_is_never_public(address):
    carries = address.version == 6 and (address.ipv4_mapped or address.sixtofour or address.teredo)
    if classify(address.packed) == PUBLIC and not carries:
        assert address.is_global or address in ipaddress.ip_network("64:ff9b::/96")


@given(st.ip_addresses(v=4))
def test_an_embedded_ipv4_address_has_the_class_of_that_address(address):
    number = int(address)
    mapped = (0xFFFF << 32 | number).to_bytes(16, "big")
    nat64 = (0x64FF9B << 96 | number).to_bytes(16, "big")
    six_to_four = (0x2002 << 112 | number << 80 | 1).to_bytes(16, "big")
    teredo = (0x20010000 << 96 | number ^ 0xFFFFFFFF).to_bytes(16, "big")
    assert {classify(form) for form in (mapped, nat64, six_to_four, teredo)} == {classify(address.packed)}


@given(ADDRESSES)
def test_the_subject_of_an_address_is_that_of_its_text(address):
    text = f"[{address}]" if address.version == 6 else str(address)
    assert subject(address.packed) == parse_request(text)[0]


@given(ADDRESSES)
def test_a_name_rule_reaches_public_addresses_alone(address):
    rule = parse_rule("net.connect", "api.example.com:443")
    assert reachable(rule, "api.example.com", address.packed) is (classify(address.packed) == PUBLIC)


@given(ADDRESSES)
def test_a_star_reaches_public_addresses_alone_even_for_localhost(address):
    rule = parse_rule("net.connect", "*")
    assert reachable(rule, None, address.packed) is (classify(address.packed) == PUBLIC)
    assert reachable(rule, "localhost", address.packed) is (classify(address.packed) == PUBLIC)


@given(ADDRESSES)
def test_private_reaches_every_address(address):
    assert reachable(parse_rule("net.connect", "db.internal", private=True), "db.internal", address.packed)


@given(ADDRESSES)
def test_localhost_reaches_loopback_and_no_other_private_address(address):
    rule = parse_rule("net.connect", "localhost:80")
    assert reachable(rule, "localhost", address.packed) is (classify(address.packed) in (PUBLIC, "loopback"))


def test_a_rule_that_names_addresses_reaches_them():
    assert reachable(parse_rule("net.connect", "10.0.0.0/8:5432"), None, packed("10.1.2.3"))


def test_an_address_of_another_length_is_refused():
    with pytest.raises(ValueError, match="4 or 16"):
        classify(b"123")
