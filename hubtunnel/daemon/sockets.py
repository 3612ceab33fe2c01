"""Options of our sockets, with the reason for each, and how listening sockets are made."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from contextlib import suppress
from typing import cast

from hubtunnel.daemon import proxy
from hubtunnel.errors import HubtunnelError

# What accept(2), socket(2) and dup(2) say when it is we, or the system, that has no more to give.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
USER_TIMEOUT_MS = 10_000  # a carrier whose bytes nobody acknowledges for so long is lost
# Seconds of silence after which the kernel asks, between its questions, and how many go unanswered: a host that is gone
# is noticed within a minute, also where nothing of ours is sent (a handshake, a carrier that closes, a smarthost).
KEEPALIVE_IDLE = 30
KEEPALIVE_EVERY = 10
KEEPALIVE_COUNT = 3
BACKLOG = 512
ACCEPT_TURNS = 3  # turns of the loop that an accepted connection takes at most to reach its protocol


class ListenError(HubtunnelError):
    """An address cannot be listened on; the text names it and the cure."""


def as_protocol(made: object) -> asyncio.Protocol:
    """`made`, which has all methods of an `asyncio.Protocol` without being one.

    That is what both loops ask for; a class below one that is not compiled could not be compiled whole.
    """
    return cast(asyncio.Protocol, made)


def tune_carrier(sock: socket.socket) -> None:
    """A carrier: no delay for small records, death noticed while bytes are out. (`ahead` bounds what waits in it.)"""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    keep_alive(sock)


def tune_local(transport: asyncio.Transport | None) -> None:
    """A connection to or from an MTA: one on another host, such as a smarthost, may vanish without a word."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return
    with suppress(OSError):  # gone already
        if not proxy.plain_ip(sock.getpeername()[0]).is_loopback:
            keep_alive(sock)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel ask a silent other side whether it is there. A listening socket's accepted ones inherit this."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_EVERY)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)


def address_of(server: asyncio.Server) -> tuple[str, int] | None:
    """Where it listens; None once it is closed."""
    for sock in server.sockets:
        name = sock.getsockname()
        return name[0], name[1]
    return None


def stop_accepting(loop: asyncio.AbstractEventLoop, server: asyncio.Server) -> None:
    """Accept nothing more; `server.close()` may follow after `ACCEPT_TURNS` turns of the loop.

    Until then asyncio makes transports of what it has accepted, which once the server is closed it lets go of without a
    word: the client sees an end without a greeting. uvloop has nothing under way, and nothing to remove: it is closed.
    """
    for sock in server.sockets:
        if not loop.remove_reader(sock.fileno()):
            server.close()
            return


async def accepted() -> None:
    """Until connections that were accepted a moment ago have their transports and protocols."""
    for _ in range(ACCEPT_TURNS):
        await asyncio.sleep(0)


def reset(transport: asyncio.Transport) -> None:
    """End a TCP connection with RST, so that half a conversation never looks like a whole one."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with suppress(OSError):  # already gone
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def half_close(transport: asyncio.Transport) -> None:
    """Send FIN after what is still buffered; nothing where the other side is gone, which `connection_lost` tells.

    asyncio's own loop calls shutdown(2) at once and lets its error out (ENOTCONN after a reset that is still unread);
    uvloop raises RuntimeError once its handle is closed. Let out here, they would end the carrier on which the stream's
    end came.
    """
    with suppress(OSError, RuntimeError):
        transport.write_eof()


def listen(host: str, port: int, what: str) -> socket.socket:
    """A listening TCP socket. Raises `ListenError`, which names `what` (file and key) and the cure."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "[::]:2625" beside "0.0.0.0:2625" must not collide, and one of them must not mean both
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if not proxy.plain_ip(host).is_loopback:
            keep_alive(sock)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise ListenError(f"{what}: cannot listen on {host} port {port}: {_cure(exc, port)}") from exc
    return sock


def duplicate(sock: socket.socket, what: str) -> socket.socket:
    """A duplicate of a listening socket. Raises `ListenError`."""
    try:
        return sock.dup()
    except OSError as exc:
        raise ListenError(f"{what}: {os.strerror(exc.errno or 0)}; raise LimitNOFILE= of the service") from exc


def _cure(exc: OSError, port: int) -> str:
    text = os.strerror(exc.errno) if exc.errno else str(exc)
    if exc.errno == errno.EACCES and port < 1024:
        return f"{text}; ports below 1024 need root or CAP_NET_BIND_SERVICE (the systemd unit gives it)"
    if exc.errno == errno.EADDRINUSE:
        return f"{text}; `ss -ltnp 'sport = :{port}'` shows by whom"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"{text}; no interface of this machine has it"
    return text
