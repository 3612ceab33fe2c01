"""Accepting when descriptors run out: the queue is told, nothing spins, and it goes on afterwards."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from hubtunnel.daemon import listeners, sockets
from hubtunnel.daemon.listeners import CarrierListener
from hubtunnel.daemon.logs import Throttle
from hubtunnel.daemon.sockets import ListenError
from tests.conftest import RunLoop
from tests.daemon.hubs import until


@pytest.fixture
def few_descriptors() -> Iterator[list[int]]:
    """Descriptors of this process are limited; the list holds some to give back or take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, hard))
    try:
        yield held
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


def exhaust(held: list[int]) -> None:
    "name".encode("idna")  # Python looks for this codec's file at the first use of a host's name
    while True:
        try:
            held.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return


def test_no_descriptor_left(run_loop: RunLoop, few_descriptors: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "_BACK_OFF", 0.2)
    accepted: list[socket.socket] = []
    refused: Counter[str] = Counter()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        clients = [socket.socket() for _ in range(4)]
        listener = CarrierListener(
            loop,
            sockets.listen("127.0.0.1", 0, "test"),
            lambda sock, address: accepted.append(sock),
            Throttle(60, loop.time),
            refused,
        )
        for client in clients:
            client.setblocking(False)
        exhaust(few_descriptors)
        before = time.process_time()
        for client in clients[:2]:
            await loop.sock_connect(client, listener.address)
        async with asyncio.timeout(5):
            assert await loop.sock_recv(clients[0], 1) == b""  # told at once, with the reserved descriptor
            assert await loop.sock_recv(clients[1], 1) == b""  # and the next one after the rest
        assert not accepted
        assert refused["descriptors"] >= 2
        assert time.process_time() - before < 0.2  # no spinning
        while few_descriptors:
            os.close(few_descriptors.pop())
        await loop.sock_connect(clients[2], listener.address)
        await until(lambda: accepted)
        listener.close()
        for sock in (*clients, *accepted):
            sock.close()

    run_loop(scenario())


def test_errors_name_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"x: listen: cannot listen on 127.0.0.1 port {port}: .*ss -ltnp"):
            sockets.listen("127.0.0.1", port, "x: listen")
    with pytest.raises(ListenError, match="no interface of this machine has it"):
        sockets.listen("192.0.2.99", 0, "x")

    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ListenError, match="CAP_NET_BIND_SERVICE"):
        sockets.listen("127.0.0.1", 24, "x")


def test_both_families_side_by_side() -> None:
    """ "[::]:N" and "0.0.0.0:N" are two sockets, as the default configuration has them."""
    with sockets.listen("0.0.0.0", 0, "x") as four:
        port = four.getsockname()[1]
        with sockets.listen("::", port, "x") as six:
            assert six.getsockname()[1] == port
