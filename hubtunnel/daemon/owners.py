"""Whose a local TCP connection is: the kernel knows the user of the socket at its other end, and is asked by netlink.

sock_diag(7) is asked for one pair of addresses and has answered when `sendto` returns: some thirty microseconds, no
privilege, and nothing to wait for. (/proc/net/tcp says the same, of every socket of the host at once.) Where the
answer is anything but one living socket of this very connection its owner is unknown: nobody is taken for root because
a field is zero.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct

from hubtunnel.daemon.proxy import plain_ip
from hubtunnel.errors import HubtunnelError

Address = tuple[str, int]

# linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h; none of them changes within the kernel's promise to users.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_TCP_LISTEN = 10
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, number, port
_ERROR = struct.Struct("=i")  # nlmsgerr begins with it
_REQUEST = struct.Struct("=BBxxI")  # inet_diag_req_v2: family, protocol, (extensions), states; an id follows
_ANSWER = struct.Struct("=BBxx")  # inet_diag_msg: family, state; an id follows
_PORTS = struct.Struct("!HH")
_REST_OF_ID = struct.Struct("=III")  # interface, cookie
_OWNER = struct.Struct("=12xII")  # behind the id: expires, two queues, uid, inode
_ADDRESS_LEN = 16
_ID_LEN = _PORTS.size + 2 * _ADDRESS_LEN + _REST_OF_ID.size
_ANSWER_MAX = 4096
_WIDTHS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: _ADDRESS_LEN}

_numbers = itertools.cycle(range(1, 1 << 16))


class OwnerUnknownError(HubtunnelError):
    """The kernel does not say whose a connection is; the text says why."""


_GONE = "its other end is closed already or in another network namespace, or the kernel lacks tcp_diag (`modprobe`)"


def uid_of(source: Address, target: Address) -> int:
    """The user (as this process' user namespace numbers them) whose socket is connected from `source` to `target`.

    Raises `OwnerUnknownError` where that is not certain.
    """
    number = next(_numbers)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
            netlink.setblocking(False)
            netlink.sendto(question(source, target, number), (0, 0))
            data, (sender, _) = netlink.recvfrom(_ANSWER_MAX)
    except OSError as exc:
        raise OwnerUnknownError(f"the kernel cannot be asked: {os.strerror(exc.errno or 0)}") from exc
    if sender != 0:
        raise OwnerUnknownError("somebody else than the kernel answered")
    return read_answer(data, source, target, number)


def question(source: Address, target: Address, number: int) -> bytes:
    """The message that asks for the one TCP socket whose own end is `source` and whose other end is `target`."""
    src, dst = plain_ip(source[0]), plain_ip(target[0])
    family = socket.AF_INET if src.version == 4 else socket.AF_INET6
    body = (
        _REQUEST.pack(family, socket.IPPROTO_TCP, 0xFFFFFFFF)
        + _PORTS.pack(source[1], target[1])
        + src.packed.ljust(_ADDRESS_LEN, b"\0")
        + dst.packed.ljust(_ADDRESS_LEN, b"\0")
        + _REST_OF_ID.pack(0, _NO_COOKIE, _NO_COOKIE)
    )
    return _HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, number, 0) + body


def read_answer(data: bytes, source: Address, target: Address, number: int) -> int:
    """The uid in the kernel's answer to that question. Raises `OwnerUnknownError`, whatever the bytes are."""
    try:
        length, kind, _, answered, _ = _HEADER.unpack_from(data)
        if answered != number or length > len(data):
            raise OwnerUnknownError("the kernel answered something else")
        message = data[_HEADER.size : length]
        if kind == _NLMSG_ERROR:
            raise _refusal(_ERROR.unpack_from(message)[0])
        if kind != _SOCK_DIAG_BY_FAMILY:
            raise OwnerUnknownError("the kernel answered something else")
        family, state = _ANSWER.unpack_from(message)
        ends = _ends(family, message[_ANSWER.size : _ANSWER.size + _ID_LEN])
        uid, inode = _OWNER.unpack_from(message, _ANSWER.size + _ID_LEN)
    except struct.error:
        raise OwnerUnknownError("the kernel's answer is cut short") from None
    # Where no connection is found the kernel looks for a listener. A socket without an inode is one that no process
    # holds any more; Debian 12's kernel gives its user as 0.
    if state == _TCP_LISTEN or inode == 0 or ends != (_end(source), _end(target)):
        raise OwnerUnknownError(_GONE)
    return int(uid)


def _refusal(code: int) -> OwnerUnknownError:
    """What the kernel's error means, which it gives as a negative number."""
    if code == -errno.ENOENT:
        return OwnerUnknownError(_GONE)
    return OwnerUnknownError(f"the kernel does not tell: {errno.errorcode.get(-code, code)}")


def _end(address: Address) -> tuple[object, int]:
    return plain_ip(address[0]), address[1]


def _ends(family: int, identity: bytes) -> tuple[tuple[object, int], tuple[object, int]]:
    """Both ends of the socket found; one of IPv6 may be connected over IPv4. Raises `struct.error`."""
    own, other = _PORTS.unpack_from(identity)
    wide = _WIDTHS.get(family)
    if wide is None or len(identity) < _ID_LEN:
        raise struct.error
    found = [
        plain_ip(socket.inet_ntop(family, identity[start : start + wide]))
        for start in (_PORTS.size, _PORTS.size + _ADDRESS_LEN)
    ]
    return (found[0], own), (found[1], other)
