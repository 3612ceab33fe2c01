"""PROXY headers, byte for byte as HAProxy's specification gives them."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.daemon import proxy
from hubtunnel.daemon.probe import MtaListener
from hubtunnel.daemon.target import Target

# proxy-protocol.txt, 2.1: "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n" is the longest of IPv4
LONGEST_4 = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"


def test_v1_ipv4() -> None:
    assert proxy.header_v1(("192.168.0.1", 56324), ("192.168.0.11", 443)) == (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
    )
    assert proxy.header_v1(("255.255.255.255", 65535), ("255.255.255.255", 65535)) == LONGEST_4


def test_v1_ipv6() -> None:
    assert proxy.header_v1(("2001:db8::1", 1), ("2001:DB8:0::2", 2)) == b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"


def test_v2_ipv4() -> None:
    """2.2: 12 bytes of signature, 0x21 for version 2 and PROXY, 0x11 for TCP over IPv4, length 12."""
    assert proxy.header_v2(("192.0.2.1", 0x1234), ("198.51.100.2", 0x5678)) == (
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c"
        b"\xc0\x00\x02\x01\xc6\x33\x64\x02\x12\x34\x56\x78"
    )


def test_v2_ipv6() -> None:
    """0x21 for TCP over IPv6, length 36."""
    assert proxy.header_v2(("2001:db8::1", 0x1234), ("2001:db8::2", 0x5678)) == (
        b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x21\x00\x24"
        b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x12\x34\x56\x78"
    )


def test_v2_says_who_the_peer_is() -> None:
    """2.2.6: type, two bytes of length, value; counted in the header's own length."""
    plain = proxy.header_v2(("192.0.2.1", 1), ("192.0.2.2", 2))
    named = proxy.header("v2", ("192.0.2.1", 1), ("192.0.2.2", 2), peer="mx.b.example", session=bytes(range(16)))
    values = b"\xe0\x00\x0cmx.b.example" + b"\xe1\x00\x10" + bytes(range(16))
    assert named == plain[:14] + struct.pack(">H", 12 + len(values)) + plain[16:] + values
    assert proxy.header("v1", ("192.0.2.1", 1), ("192.0.2.2", 2), peer="mx.b.example") == (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    )


def test_families_that_differ() -> None:
    """present_as of IPv4 over a carrier of IPv6: the header is of the family of the address that matters."""
    assert proxy.header_v1(("192.0.2.1", 1), ("2001:db8::2", 2)) == b"PROXY TCP4 192.0.2.1 0.0.0.0 1 2\r\n"
    assert proxy.header_v1(("2001:db8::1", 1), ("192.0.2.2", 2)) == b"PROXY TCP6 2001:db8::1 :: 1 2\r\n"


def test_mapped_and_scoped_addresses_are_plain() -> None:
    assert proxy.header_v1(("::ffff:192.0.2.1", 1), ("::ffff:192.0.2.2", 2)) == (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    )
    assert proxy.header_v1(("fe80::1%eth0", 1), ("fe80::2%eth0", 2)) == b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n"


_ADDRESS = st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))


@given(_ADDRESS, _ADDRESS)
def test_headers_are_never_longer_than_receivers_read(source: tuple[str, int], destination: tuple[str, int]) -> None:
    """2.1: 107 bytes at most; 2.2: the length field says how much follows."""
    assert len(proxy.header_v1(source, destination)) <= 107
    v2 = proxy.header_v2(source, destination)
    assert struct.unpack(">H", v2[14:16])[0] == len(v2) - 16
    ip = proxy.plain_ip(source[0])
    assert v2[16 : 16 + len(ip.packed)] == ip.packed
    assert v2[13] == (0x11 if ip.version == 4 else 0x21)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "224.0.0.1"])
def test_addresses_that_an_mta_would_take_for_its_own(host: str) -> None:
    assert proxy.misleads(host)
    target = Target(MtaListener("127.0.0.1", 26, "v2", ""), "")
    assert target.header((host, 1), ("192.0.2.2", 2)) is None
    presented = Target(MtaListener("127.0.0.1", 26, "v2", ""), "192.0.2.1")
    assert presented.header((host, 1), ("192.0.2.2", 2)) == proxy.header_v2(("192.0.2.1", 1), ("192.0.2.2", 2))


@given(st.ip_addresses())
def test_what_misleads_is_what_the_mta_trusts(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if not proxy.misleads(str(ip)):
        assert not proxy.plain_ip(str(ip)).is_loopback


def test_no_header() -> None:
    assert Target(MtaListener("127.0.0.1", 26, "none", ""), "").header(("127.0.0.1", 1), ("127.0.0.1", 2)) == b""
    assert Target(MtaListener("127.0.0.1", 26, "v1", ""), "").header(("192.0.2.1", 1), ("192.0.2.2", 2)) == (
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    )


def test_no_carrier_known() -> None:
    assert Target(MtaListener("127.0.0.1", 26, "v2", ""), "").header(("", 0), ("", 0)) is None
