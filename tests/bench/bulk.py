"""Bulk data: a sink that counts (`python -m tests.bench.bulk HOST:PORT`), and the sender.

A sender says first what it wants: bytes, seconds, and seconds of warm-up, which are not counted. The sink reads until
one of the first two is reached, counted from the first byte, says what it counted, and reads on to the end.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.bench.ways import Way, host_port

_ORDER = struct.Struct("!Qdd")
_COUNT = struct.Struct("!Qd")
_PIECE = 256 * 1024
_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Order:
    """What one stream has to carry: up to `octets`, for up to `seconds` after `warm_up` seconds."""

    octets: int
    seconds: float
    warm_up: float = 0.0


@dataclass(frozen=True, slots=True)
class Carried:
    """`counted` bytes came out in `seconds`; `sent` bytes went in altogether."""

    counted: int
    seconds: float
    sent: int


def carry(way: Way, order: Order, streams: int) -> list[Carried]:
    """So many streams at once, each with the same order."""
    connections = [way.connect() for _ in range(streams)]
    try:
        with ThreadPoolExecutor(streams) as pool:
            return list(pool.map(lambda connection: _send(connection, order), connections))
    finally:
        for connection in connections:
            connection.close()


def _send(connection: socket.socket, order: Order) -> Carried:
    piece = os.urandom(_PIECE)
    connection.sendall(_ORDER.pack(order.octets, order.seconds, order.warm_up))
    sent = 0
    while sent < order.octets and not select.select([connection], [], [], 0)[0]:
        part = min(_PIECE, order.octets - sent)
        connection.sendall(piece if part == _PIECE else piece[:part])
        sent += part
    counted, seconds = _COUNT.unpack(_exactly(connection, _COUNT.size))
    return Carried(counted, seconds, sent)


def _exactly(connection: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        more = connection.recv(n - len(data))
        if not more:
            raise AssertionError(f"the bulk stream ended {n - len(data)} bytes early")
        data += more
    return data


def _receive(connection: socket.socket) -> None:
    buffer = bytearray(_PIECE)
    with connection:
        try:
            octets, limit, warm_up = _ORDER.unpack(_exactly(connection, _ORDER.size))
        except AssertionError:
            return  # a look whether somebody listens
        read = counted = 0
        began = mark = last = time.perf_counter()
        while read < octets and last - began < limit + warm_up:
            n = connection.recv_into(buffer)
            if not n:
                return
            last = time.perf_counter()
            if not read:
                began = mark = last
            read += n
            if last - began >= warm_up:
                counted += n
            else:
                mark = last
        connection.sendall(_COUNT.pack(counted, last - mark))
        while connection.recv_into(buffer):
            pass


def _quietly(connection: socket.socket) -> None:
    try:
        _receive(connection)
    except OSError as error:
        print(f"a stream broke: {error}", flush=True)


def main() -> None:
    """The sink, until it is ended by a signal."""
    with socket.create_server(host_port(sys.argv[1]), backlog=_BACKLOG) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_quietly, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
