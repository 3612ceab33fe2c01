"""A daemon that may have few descriptors, and what `status` says of every limit."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.daemon.control import ControlUnavailable, request
from hubtunnel.daemon.limits import Descriptors
from hubtunnel.daemon.strangers import Admission
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    PATIENCE,
    Mta,
    Place,
    connected,
    drop,
    free_port,
    link,
    mail_port,
    pair,
    talking,
    until,
)

DESCRIPTORS = 80
CLIENTS = 150


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


class Poor:
    """A daemon whose hard limit of descriptors is low."""

    def __init__(self, stack: ExitStack, place: Place, loop: str) -> None:
        self._socket = place.folder / "control.sock"
        log = stack.enter_context((place.folder / "log").open("ab"))
        arguments = ["--config", str(place.config), "run", "--loop", loop]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hubtunnel", *arguments],
            stderr=log,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS)),
        )
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)
        self.wait_for(self.answers, "the daemon")

    def answers(self) -> bool:
        try:
            self.status()
        except ControlUnavailable:
            return False
        return True

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = request(self._socket, "status", timeout=PATIENCE)["status"]
        return answer

    def limit(self, name: str) -> dict[str, int]:
        limits: dict[str, dict[str, int]] = self.status()["limits"]
        return limits[name]

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def wait_for(fact: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not fact():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)


def clients(stack: ExitStack, address: tuple[str, int], *, source: bool = False) -> list[socket.socket]:
    """Many connections at once; from an address each where there is a bound per address."""
    made = []
    for number in range(CLIENTS):
        client = stack.enter_context(socket.socket())
        client.settimeout(PATIENCE)
        if source:
            client.bind((f"127.1.1.{number + 1}", 0))
        client.connect(address)
        made.append(client)
    return made


def queued(port: int) -> int:
    """Connections that the kernel has taken for a listener on 127.0.0.1 and nobody has accepted (proc(5), tcp)."""
    listening = f"0100007F:{port:04X} 00000000:0000 0A "
    (line,) = [line for line in Path("/proc/net/tcp").read_text().splitlines() if listening in line]
    return int(line.split()[4].partition(":")[2], 16)


def spins_not(daemon: Poor) -> None:
    before = daemon.cpu()
    time.sleep(1.0)  # the measure itself: processor time of a second
    assert daemon.cpu() - before < 0.3


@pytest.mark.e2e
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_more_connections_of_our_mta_than_descriptors(stack: ExitStack, tmp_path: Path, loop: str) -> None:
    """Those too many are told 421 or closed at once; commands are answered meanwhile, nothing spins, and it goes on."""
    mail = free_port()
    place = Place(tmp_path / "a", "a").make(times='hold = "60s"\n')
    path = place.add_peer(Place(tmp_path / "b", "b"))
    path.write_text(path.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{mail}"'))
    daemon = Poor(stack, place, loop)
    assert daemon.limit("descriptors")["bound"] == DESCRIPTORS
    alone = daemon.limit("descriptors")["used"]
    with ExitStack() as crowd:
        made = clients(crowd, ("127.0.0.1", mail))
        daemon.wait_for(lambda: daemon.limit("descriptors")["refused"] > 20, "refusals")
        spins_not(daemon)
        status = daemon.status()
        assert 30 <= status["peers"][0]["streams"]["open"] < DESCRIPTORS
        assert status["limits"]["descriptors"]["used"] <= DESCRIPTORS
        said = []
        for client in made:
            client.setblocking(False)
            try:
                said.append(client.recv(999))
            except BlockingIOError:  # it waits for the peer, as it should
                continue
            except ConnectionResetError:
                said.append(b"")
        refused = [line for line in said if line]
        assert refused
        assert all(b"told: limit: this process may have 80 descriptors" in line for line in refused)
    # Whoever is closed in the queue is accepted all the same, and the client behind so many is one too many, as it is
    # until their sockets are closed, which is later than their streams' end.
    daemon.wait_for(lambda: queued(mail) == 0, "an end of the queue")
    daemon.wait_for(lambda: daemon.status()["peers"][0]["streams"]["open"] == 0, "an end of the crowd")
    daemon.wait_for(lambda: daemon.limit("descriptors")["used"] <= alone, "an end of the crowd's descriptors")
    with socket.create_connection(("127.0.0.1", mail), PATIENCE):
        daemon.wait_for(lambda: daemon.status()["peers"][0]["streams"]["open"] == 1, "a client afterwards")


@pytest.mark.e2e
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_more_strangers_than_descriptors(stack: ExitStack, tmp_path: Path, loop: str) -> None:
    port = free_port()
    place = Place(tmp_path / "a", "a").make("[limits]\nhandshakes = 1000\n", listen=f"127.0.0.1:{port}")
    place.add_peer(Place(tmp_path / "b", "b"))
    daemon = Poor(stack, place, loop)
    with ExitStack() as crowd:
        clients(crowd, ("127.0.0.1", port), source=True)
        daemon.wait_for(lambda: daemon.limit("descriptors")["refused"] > 20, "refusals")
        spins_not(daemon)
        assert daemon.limit("strangers")["used"] > 20
    daemon.wait_for(lambda: daemon.limit("strangers")["used"] == 0, "an end of the crowd")
    with socket.create_connection(("127.0.0.1", port), PATIENCE):
        daemon.wait_for(lambda: daemon.limit("strangers")["used"] == 1, "a stranger afterwards")


def test_descriptors_are_counted_when_none_is_left_to_count_with() -> None:
    """Then all are in use; `status` has to say so, and not to fail."""
    descriptors = Descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < descriptors.used < descriptors.bound
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        used = descriptors.used
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert used == descriptors.bound


def test_every_limit_is_shown(run_loop: RunLoop, tmp_path: Path) -> None:
    from hubtunnel.daemon.status import hub_status

    async def scenario() -> None:
        settings = '[limits]\nmemory = "16MiB"\nstreams_per_peer = 1\nhandshakes = 8\n'
        async with (
            Mta() as mta,
            pair(tmp_path, mta.address, settings=settings) as hubs,
            connected(mail_port(hubs.a, "b")),
        ):
            await mta.next()
            async with connected(mail_port(hubs.a, "b")) as (reader, _):
                assert b"[limits] streams_per_peer" in await reader.read()
            shown = hub_status(hubs.a)["limits"]
            assert shown["streams"] == {"used": 1, "bound": 1, "refused": 1}
            assert shown["carriers"] == {"used": 1, "bound": 12, "refused": 0}
            assert shown["memory"]["bound"] == 16 << 20
            assert shown["handshakes"] == {"used": 0, "bound": 8, "refused": 0}
            assert shown["strangers"] == {"used": 0, "bound": 4, "refused": 0}
            assert shown["descriptors"]["bound"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]

            def counted() -> bool:  # a thread of the daemon's may have a file open just now
                used: int = hub_status(hubs.a)["limits"]["descriptors"]["used"]
                return used == len(os.listdir("/proc/self/fd")) - 1

            await until(counted)

    run_loop(scenario())


def test_streams_that_the_peer_was_refused_are_counted_here_too(run_loop: RunLoop, tmp_path: Path) -> None:
    from hubtunnel.daemon.status import hub_status

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address, b_settings="[limits]\nstreams_per_peer = 1\n") as hubs:
            async with (
                talking(hubs.a, "b", mta),
                connected(mail_port(hubs.a, "b")) as (reader, _),
            ):
                assert b"limit" in await reader.read()
            assert hub_status(hubs.b)["limits"]["streams"]["refused"] == 1
            far = link(hubs.b, "a").core
            session = far.sessions[0]
            drop(hubs.a, "b")
            await until(lambda: session not in far.sessions)
            assert hub_status(hubs.b)["limits"]["streams"]["refused"] == 1

    run_loop(scenario())


def test_last_descriptors_are_kept_back() -> None:
    class Numbered:
        def __init__(self, number: int) -> None:
            self.number = number

        def fileno(self) -> int:
            return self.number

    descriptors = Descriptors()
    assert not descriptors.short(None)
    assert not descriptors.short(Numbered(descriptors.bound - 33))
    assert descriptors.short(Numbered(descriptors.bound - 32))


def test_strangers_and_peers_are_counted_apart() -> None:
    admission = Admission(4)
    admission.list_addresses("b", ["192.0.2.1"])
    slots = [admission.admit(f"198.51.100.{n}", 0.0) for n in range(3)]
    assert [slot is not None for slot in slots] == [True, True, False]
    assert admission.admit("192.0.2.1", 0.0) is not None
    assert (admission.pending, admission.pending_unknown) == (3, 2)
    assert (admission.refused, admission.refused_unknown) == (1, 1)
