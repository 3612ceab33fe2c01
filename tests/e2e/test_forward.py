"""The forwarders leave nothing open, however a connection of theirs begins or they end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Iterator
from typing import cast

from tests.e2e.forward import Address, Forwarder, LoopThread, _linger_zero, proxy_v2
from tests.e2e.namespaces import Namespace

NOWHERE: Address = ("127.0.0.1", 0)


class Here:
    """The namespace that the test is in."""

    def open_socket(self) -> socket.socket:
        return socket.socket()

    def listen(self, host: str, port: int) -> socket.socket:
        self.listener = socket.create_server((host, port))
        return self.listener

    @property
    def address(self) -> Address:
        """Where it listens."""
        return cast(Address, self.listener.getsockname())


@contextlib.contextmanager
def target() -> Iterator[socket.socket]:
    """A server that the kernel answers for."""
    with socket.create_server(NOWHERE) as listener:
        listener.settimeout(10)
        yield listener


def test_a_connection_that_comes_with_the_end_is_closed() -> None:
    here = Here()
    with target() as server, socket.socket() as client:
        with LoopThread() as loop:
            forwarder = Forwarder(loop, inside=cast(Namespace, here), listen=NOWHERE, target=server.getsockname())

            async def come_and_end() -> None:
                """What is accepted in this turn of the loop is cancelled in the next, before anybody has it."""
                client.connect(here.address)
                await asyncio.sleep(0)
                forwarder.serving.cancel()

            loop.run(come_and_end())
        gc.collect()
        client.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_who_comes_and_goes_with_a_reset_ends_nothing_else() -> None:
    """A mail server that gives up at once has no address any more when it is accepted."""
    here = Here()
    with target() as server, LoopThread() as loop:
        Forwarder(loop, inside=cast(Namespace, here), listen=NOWHERE, target=server.getsockname(), preface=proxy_v2)

        async def come_and_go() -> None:
            """Nothing is accepted while this runs."""
            with socket.create_connection(here.address) as client:
                _linger_zero(client)

        loop.run(come_and_go())
        with socket.create_connection(here.address, timeout=10) as client:
            header = proxy_v2(client.getsockname(), client.getpeername())
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            said = _all_of(server)
            while not said.endswith(b"hello"):  # of the first one, if it got so far
                said = _all_of(server)
            assert said == header + b"hello"
    gc.collect()


def _all_of(server: socket.socket) -> bytes:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(10)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(1024):
                said += more
        return said
