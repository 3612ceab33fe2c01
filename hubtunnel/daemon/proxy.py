"""PROXY protocol headers, as HAProxy's specification (proxy-protocol.txt, sections 2.1 and 2.2) lays them out.

Only ever a real address of the peer: LOCAL and UNKNOWN would make the receiving MTA trust the connection as its own.
"""

from __future__ import annotations

import ipaddress
import struct
from functools import lru_cache

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_COMMAND = 0x21  # version 2, command PROXY
_TCP4 = 0x11
_TCP6 = 0x21

# Type-length-values of version 2 (2.2.6: 0xE0 to 0xEF are for applications). Version 1 has no room for them.
PEER_NAME = 0xE0  # the peer's name in our configuration, ASCII
SESSION = 0xE1  # the session's id, 16 bytes: what `hubtunnel status` shows as hexadecimal digits

Address = tuple[str, int]
_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=1024)  # asked for each stream, of the few addresses of carriers and mail servers
def plain_ip(host: str) -> _IP:
    """The address without scope or IPv4-mapping. Raises ValueError for anything but an IP address."""
    ip = ipaddress.ip_address(host.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def misleads(host: str) -> bool:
    """Whether an MTA would take this source address for the hub's own, or for none: never to be presented."""
    ip = plain_ip(host)
    return ip.is_loopback or ip.is_unspecified or ip.is_multicast


def _pair(source: Address, destination: Address) -> tuple[_IP, _IP]:
    """Both addresses in the source's family: `present_as` may be of another family than the carrier."""
    src, dst = plain_ip(source[0]), plain_ip(destination[0])
    if src.version != dst.version:
        dst = ipaddress.ip_address("0.0.0.0" if src.version == 4 else "::")  # noqa: S104 - a header, not a bind
    return src, dst


def header_v1(source: Address, destination: Address) -> bytes:
    """The human-readable header, at most 107 bytes."""
    src, dst = _pair(source, destination)
    return f"PROXY TCP{src.version} {src} {dst} {source[1]} {destination[1]}\r\n".encode("ascii")


def _values(peer: str, session: bytes) -> bytes:
    """Who the peer is, for a mail server that reads such values; nothing of what is not given."""
    given = ((PEER_NAME, peer.encode("ascii")), (SESSION, session))
    return b"".join(struct.pack(">BH", kind, len(value)) + value for kind, value in given if value)


def header_v2(source: Address, destination: Address, *, peer: str = "", session: bytes = b"") -> bytes:
    """The binary header: 28 bytes for IPv4, 52 for IPv6, and behind them the peer's name and session where given."""
    src, dst = _pair(source, destination)
    family = _TCP4 if src.version == 4 else _TCP6
    body = src.packed + dst.packed + struct.pack(">HH", source[1], destination[1]) + _values(peer, session)
    return _SIGNATURE + struct.pack(">BBH", _VERSION_COMMAND, family, len(body)) + body


def header(kind: str, source: Address, destination: Address, *, peer: str = "", session: bytes = b"") -> bytes:
    """The header of a kind: ``v2``, ``v1`` or ``none``; only the first says who the peer is."""
    if kind == "v2":
        return header_v2(source, destination, peer=peer, session=session)
    if kind == "v1":
        return header_v1(source, destination)
    return b""
