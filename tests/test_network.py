"""Hosts and ports: one reading for each text, no text that two readers take for different addresses."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_worker import _network

versions = st.sampled_from([4, 6])
v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6) | st.integers(0, 2**48).map(ipaddress.IPv6Address)
ADDRESS_LIKE = "0123456789abcdefxX.:%[]"


def covers(rule, request):
    return _network.parse_rule(rule).matches(*_network.parse_request(request))


def written(address):
    return f"[{address}]" if address.version == 6 else str(address)


def seen_as_ipv4(address):
    return address.ipv4_mapped or address if address.version == 6 else address


def refusal(parse, text):
    """The exact class of the error: IDNA's own UnicodeError says nothing of what is legal."""
    try:
        parse(text)
    except ValueError as error:
        return type(error)
    return None


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "example.com:",
        "example.com:x",
        "example.com:443:443",
        "example.com: 443",
        "example.com:443,",
        "example.com:443, 8443",
        "example.com:65536",
        "example.com:100000000000000000000",
        "example.com:0443",
        "example.com:-443",
        "example.com:443-",
        "example.com:8010-8000",
        "example.com:1-2-3",
        "example.com:٤٤٣",
        "https://example.com",
        "example.com/path",
        "user@example.com",
        "example.com/24",
        "unix:run/app.sock",
        "vsock:1:2",
        "*:443",
        "**",
        "*.",
        "*.*.example.com",
        "*example.com",
        "api.*.com",
        "*.10.0.0.1",
        "*.[::1]",
        "*.example.com/8",
        ".",
        ".example.com",
        "example..com",
        "example.com..",
        "-example.com",
        "example-.com",
        "exa mple.com",
        "example.com\0",
        "a" * 64 + ".com",
        ".".join(["a" * 63] * 3 + ["a" * 62]),
        ".".join(["a" * 63] * 5),
        "ü" * 300,
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/08",
        "10.0.0.0/255.0.0.0",
        "::1",
        "2001:db8::/32",
        "[::1",
        "[::1]x",
        "x[::1]",
        "[::1]]",
        "[]",
        "[127.0.0.1]",
        "[example.com]",
        "[fe80::1%eth0]",
        "[::1/128]",
        "[::1]/129",
        "[::1::2]",
        "[:::]",
        "[1:2:3:4:5:6:7]",
        "[1:2:3:4:5:6:7:8:9]",
        "[1:2:3:4::5:6:7:8]",
        "[12345::]",
        "[1.2.3.4::]",
        "[::1.2.3]",
    ],
)
def test_an_illegal_rule_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        _network.parse_rule(text)


@pytest.mark.parametrize(
    "host",
    [
        "0",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0X7F.1",
        "0x",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.0x1",
        "999.1.1.1",
        "1.2.3.4.",
        "1.2.3.4.5",
        "example.1",
        "１２７.0.0.1",  # noqa: RUF001 - full-width digits, which IDNA turns into 127
        "127。0。0。1",
    ],
)
@pytest.mark.parametrize("parse", [_network.parse_rule, _network.parse_request])
def test_a_number_that_libc_might_read_as_an_address_is_refused(parse, host):
    with pytest.raises(ValueError, match="IPv4"):
        parse(host)


@pytest.mark.parametrize(
    "text", ["*", "*.example.com", "10.0.0.0/8", "[::]/0", "a.example:443,80", "a.example:1-2", "::1", "", ":80", "a:"]
)
def test_a_request_names_one_host_and_at_most_one_port(text):
    with pytest.raises(ValueError, match=r"\w"):
        _network.parse_request(text)


@pytest.mark.parametrize(
    ("rule", "covered", "others"),
    [
        ("example.com", ["example.com", "EXAMPLE.com.", "example.com:0", "example.com:65535"], ["www.example.com"]),
        ("Example.COM.", ["example.com"], ["example.com.au", "notexample.com"]),
        ("*.example.com", ["a.example.com", "b.a.example.com:1"], ["example.com", "notexample.com"]),
        ("*.com", ["example.com"], ["com"]),
        ("example.com:443", ["example.com:443"], ["example.com", "example.com:80"]),
        ("a.example:443,8000-8010", ["a.example:443", "a.example:8005"], ["a.example:444", "a.example:7999"]),
        ("a.example:0-65535", ["a.example:1"], ["a.example"]),
        ("a_b.example", ["a_b.example"], ["a-b.example"]),
        ("bücher.example", ["xn--bcher-kva.example", "BÜCHER.example."], ["bucher.example"]),
        ("*.bücher.example", ["www.xn--bcher-kva.example"], ["xn--bcher-kva.example"]),
        ("localhost", ["LOCALHOST:80"], ["127.0.0.1", "[::1]"]),
        ("127.0.0.1", ["127.0.0.1", "[::ffff:127.0.0.1]", "[::FFFF:7f00:1]:80"], ["[::1]", "localhost", "127.0.0.2"]),
        ("[::ffff:10.0.0.1]", ["10.0.0.1"], ["10.0.0.2"]),
        ("[::ffff:10.0.0.0]/104", ["10.255.0.1"], ["11.0.0.1", "[::a00:1]"]),
        ("[::ffff:0:0]/96", ["10.0.0.1", "[::ffff:10.0.0.1]"], ["[::1]", "example.com"]),
        ("[::]/0", ["[::1]", "[2001:db8::1]:443"], ["10.0.0.1", "[::ffff:10.0.0.1]"]),
        ("0.0.0.0/0", ["10.0.0.1", "[::ffff:10.0.0.1]"], ["[::1]", "example.com"]),
        ("10.0.0.1/8:5432", ["10.200.0.1:5432"], ["10.200.0.1", "11.0.0.1:5432"]),
        ("[2001:db8::]/32:443", ["[2001:db8:ffff::1]:443"], ["[2001:db9::1]:443", "[2001:db8::1]:80"]),
        ("*", ["example.com", "127.0.0.1:80", "[::1]", "localhost:1"], []),
    ],
)
def test_a_rule_covers_its_hosts_and_ports_and_no_others(rule, covered, others):
    assert [request for request in covered + others if covers(rule, request)] == covered


@pytest.mark.parametrize("text", ["::1", "2001:db8::1", "https://example.com"])
def test_a_text_of_another_form_is_not_taken_for_a_bad_port(text):
    with pytest.raises(ValueError, match="host name"):
        _network.parse_rule(text)


@given(versions.flatmap(lambda version: st.tuples(*[st.ip_addresses(v=version)] * 2, st.integers(0, 128))))
def test_a_network_covers_exactly_the_addresses_that_share_its_bits(case):
    base, address, bits = case
    bits = min(bits, base.max_prefixlen)
    network = ipaddress.ip_network(f"{base}/{bits}", strict=False)
    near = network[int(address) % network.num_addresses]
    is_mapped = base.version == 6 and network.subnet_of(ipaddress.IPv6Network("::ffff:0:0/96"))
    version = 4 if is_mapped else base.version
    for candidate in (address, near, base):
        inside = candidate in network and seen_as_ipv4(candidate).version == version
        assert covers(f"{written(base)}/{bits}", written(candidate)) == inside


@given(v6, st.integers(0, 128), v6, st.integers(0, 128))
def test_networks_contain_one_another_as_in_the_standard_library(one, one_bits, other, other_bits):
    if other_bits >= one_bits:
        other = ipaddress.IPv6Network((one, one_bits), strict=False)[int(other) % 2 ** (128 - one_bits)]
    outer, inner = (ipaddress.IPv6Network(pair, strict=False) for pair in ((one, one_bits), (other, other_bits)))
    mapped = ipaddress.IPv6Network("::ffff:0:0/96")
    if inner.subnet_of(mapped) != outer.subnet_of(mapped):
        return
    patterns = [_network.parse_rule(f"[{net.network_address}]/{net.prefixlen}") for net in (outer, inner)]
    assert patterns[0].contains(patterns[1]) == inner.subnet_of(outer)


@given(v4 | v6, st.booleans())
def test_an_address_is_read_as_the_standard_library_reads_it(address, exploded):
    text = address.exploded if exploded else str(address)
    expected = seen_as_ipv4(address)
    subject, port = _network.parse_request(f"[{text.upper()}]" if address.version == 6 else text)
    assert subject == f"{expected.version}:{int(expected):0{expected.max_prefixlen}b}"
    assert port is None


@given(st.text(ADDRESS_LIKE, max_size=24))
def test_no_text_is_an_address_here_and_not_in_the_standard_library(text):
    try:
        subject, _ = _network.parse_request(text)
    except ValueError:
        return
    if not subject.startswith("name:"):
        host = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
        address = seen_as_ipv4(ipaddress.ip_address(host))
        assert subject == f"{address.version}:{int(address):0{address.max_prefixlen}b}"


@given(st.text(max_size=20) | st.text(ADDRESS_LIKE + "*-/,é。", max_size=20))
def test_any_text_is_read_or_refused_with_a_value_error(text):
    assert refusal(_network.parse_rule, text) in {None, ValueError}
    assert refusal(_network.parse_request, text) in {None, ValueError}
