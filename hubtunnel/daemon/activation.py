"""Listening sockets that a supervisor holds for us (sd_listen_fds(3)): connections wait in them while we restart."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from hubtunnel.errors import ConfigError

FIRST = 3  # SD_LISTEN_FDS_START
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def take(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening TCP sockets that were handed over to this process, once: the environment forgets them.

    Raises `ConfigError`, with a line for each that is of another kind.
    """
    given = {name: environ.pop(name, "") for name in _VARIABLES}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdecimal():
        return []
    names = given["LISTEN_FDNAMES"].split(":")
    taken: list[socket.socket] = []
    problems: list[str] = []
    for number in range(int(given["LISTEN_FDS"])):
        name = names[number] if number < len(names) and names[number] else "unknown"
        try:
            sock = socket.socket(fileno=FIRST + number)
        except OSError as exc:
            problems.append(f"descriptor {FIRST + number} ({name}) from the supervisor: {exc.strerror}")
            continue
        taken.append(sock)
        sock.set_inheritable(False)
        sock.setblocking(False)
        if not _listens(sock):
            problems.append(f"descriptor {FIRST + number} ({name}) from the supervisor is no listening TCP socket")
    if problems:
        for sock in taken:
            sock.close()
        raise ConfigError(problems)
    return taken


def _listens(sock: socket.socket) -> bool:
    return (
        sock.family in (socket.AF_INET, socket.AF_INET6)
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    )
