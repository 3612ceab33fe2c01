"""Sockets that a supervisor holds: taken over, and no connection is refused while the daemon restarts."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hubtunnel.daemon import activation
from hubtunnel.daemon.control import ControlUnavailable, request
from hubtunnel.daemon.pool import SocketPool, key_of
from hubtunnel.errors import ConfigError
from tests.daemon.hubs import PATIENCE, Place, free_port

# What a supervisor does between fork and exec: the sockets come to stand from descriptor 3 on, and the process' own
# number stands in the environment.
EXEC = (
    "import os, sys\n"
    "fds = [int(fd) for fd in sys.argv[1].split(',') if fd]\n"
    "held = [os.dup(fd) for fd in fds]\n"
    "high = [os.dup2(fd, 100 + n) for n, fd in enumerate(held)]\n"
    "for n, fd in enumerate(high): os.dup2(fd, 3 + n)\n"
    "os.environ['LISTEN_PID'] = str(os.getpid())\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'hubtunnel', *sys.argv[2:]])\n"
)


class Supervisor:
    """Holds sockets, and starts daemons on one place with them, one after the other."""

    def __init__(self, place: Place, socks: list[socket.socket], loop: str) -> None:
        self.place = place
        self.process: subprocess.Popen[bytes] | None = None
        self._socks = socks
        self._loop = loop

    def start(self) -> None:
        fds = [sock.fileno() for sock in self._socks]
        arguments = ["--config", str(self.place.config), "run", "--loop", self._loop]
        with open(self.place.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", EXEC, ",".join(map(str, fds)), *arguments],
                pass_fds=fds,
                stderr=log,
                env={**os.environ, "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": ":".join(["hubtunnel"] * len(fds))},
            )

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return (self.place.folder / "log").read_text()


def until(fact: object, what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def state_of(place: Place) -> str:
    try:
        status = request(place.folder / "control.sock", "status", timeout=PATIENCE)["status"]
    except ControlUnavailable:
        return "absent"
    return str(status["peers"][0]["state"])


class Greeter:
    """The MTA behind the far hub: 220 to everybody, 221 to what comes then."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(PATIENCE)
                try:
                    connection.sendall(b"220 far\r\n")
                    if connection.recv(99):
                        connection.sendall(b"221 bye\r\n")
                except OSError:
                    continue

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def bound(stack: ExitStack, port: int) -> socket.socket:
    sock = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=512))
    sock.setblocking(False)
    return sock


def greeting(address: tuple[str, int]) -> bytes:
    """One SMTP session as short as it can be; a refused connection raises."""
    with socket.create_connection(address, PATIENCE) as client:
        first = client.recv(999)
        client.sendall(b"QUIT\r\n")
        return first


@pytest.mark.e2e
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_restart_refuses_no_connection(stack: ExitStack, tmp_path: Path, loop: str) -> None:
    """One connection after the other, without a pause, while the daemon is restarted three times: each is greeted."""
    mta = Greeter()
    stack.callback(mta.close)
    carriers, mail, port_b = free_port(), free_port(), free_port()
    a = Place(tmp_path / "a", "a").make(listen=f"127.0.0.1:{carriers}", times='drain = "5s"\nhold = "20s"\n')
    b = Place(tmp_path / "b", "b").make(listen=f"127.0.0.1:{port_b}")
    b.add_peer(a, deliver=mta.address)
    path = a.add_peer(b, endpoints=[f"127.0.0.1:{port_b}"])
    path.write_text(path.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{mail}"'))
    far = Supervisor(b, [], loop)
    near = Supervisor(a, [bound(stack, carriers), bound(stack, mail)], loop)
    for hub in (far, near):
        stack.callback(hub.kill)
        hub.start()
    until(lambda: state_of(a) == "up", "the peer to come up")
    said: list[bytes | OSError] = []
    done = threading.Event()

    def connect_again_and_again() -> None:
        while not done.is_set():
            try:
                said.append(greeting(("127.0.0.1", mail)))
            except OSError as exc:
                said.append(exc)

    clients = [threading.Thread(target=connect_again_and_again) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        for _ in range(3):
            before = len(said)
            assert near.process is not None
            near.process.send_signal(signal.SIGTERM)
            assert near.wait() == 0
            assert state_of(a) == "absent"
            with socket.create_connection(("127.0.0.1", carriers), PATIENCE):
                pass  # whoever dials us waits as well
            near.start()
            until(lambda before=before: len(said) > before + 20, "mail to go on")
    finally:
        done.set()
        for client in clients:
            client.join()
    assert set(map(str, said)) == {str(b"220 far\r\n")}


@pytest.mark.e2e
def test_the_same_without_a_supervisor_refuses_some(stack: ExitStack, tmp_path: Path) -> None:
    """The control: sockets of the daemon's own are gone while it is."""
    mail = free_port()
    a = Place(tmp_path / "a", "a").make()
    path = a.add_peer(Place(tmp_path / "b", "b"))
    path.write_text(path.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{mail}"'))
    near = Supervisor(a, [], "uvloop")
    stack.callback(near.kill)
    near.start()
    until(lambda: state_of(a) != "absent", "the daemon")
    socket.create_connection(("127.0.0.1", mail), PATIENCE).close()
    assert near.process is not None
    near.process.send_signal(signal.SIGTERM)
    near.wait()
    with pytest.raises(ConnectionRefusedError):
        greeting(("127.0.0.1", mail))


@pytest.mark.e2e
def test_a_socket_that_no_peer_wants(stack: ExitStack, tmp_path: Path) -> None:
    """Nobody is left hanging at it, and the log says what to do. A reload that wants it takes it."""
    unwanted = free_port()
    a = Place(tmp_path / "a", "a").make()
    path = a.add_peer(Place(tmp_path / "b", "b"))
    near = Supervisor(a, [bound(stack, unwanted)], "uvloop")
    stack.callback(near.kill)
    near.start()
    until(lambda: state_of(a) != "absent", "the daemon")
    until(lambda: "socket_unused" in near.log, "the warning")
    assert f"127.0.0.1 port {unwanted}" in near.log
    with socket.create_connection(("127.0.0.1", unwanted), PATIENCE) as client:
        assert client.recv(99) == b""
    path.write_text(path.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{unwanted}"'))
    request(a.folder / "control.sock", "reload", timeout=PATIENCE)
    with socket.create_connection(("127.0.0.1", unwanted), PATIENCE) as client:
        until(lambda: request(a.folder / "control.sock", "status")["status"]["peers"][0]["streams"]["open"], "a client")
        path.unlink()
        request(a.folder / "control.sock", "reload", timeout=PATIENCE)
        assert client.recv(99).startswith(b"421 ")
    with socket.create_connection(("127.0.0.1", unwanted), PATIENCE) as client:
        assert client.recv(99) == b""


@pytest.mark.e2e
def test_systemd_socket_activate(stack: ExitStack, tmp_path: Path) -> None:
    """systemd's own tool: it listens, starts the daemon at the first connection, and that one is served."""
    tool = shutil.which("systemd-socket-activate")
    if tool is None:
        pytest.skip("needs systemd-socket-activate")
    mail, carriers = free_port(), free_port()
    a = Place(tmp_path / "a", "a").make(listen=f"127.0.0.1:{carriers}", times='hold = "100ms"\n')
    path = a.add_peer(Place(tmp_path / "b", "b"))
    path.write_text(path.read_text().replace('listen = "127.0.0.1:0"', f'listen = "127.0.0.1:{mail}"'))
    with open(a.folder / "log", "ab") as log:
        process = subprocess.Popen(
            [
                *(tool, "-l", f"127.0.0.1:{carriers}", "-l", f"127.0.0.1:{mail}", "--fdname=carriers:mail"),
                *(sys.executable, "-m", "hubtunnel", "--config", str(a.config), "run"),
            ],
            stdout=log,
            stderr=log,
        )
    stack.callback(process.wait)
    stack.callback(process.kill)

    def listens() -> bool:
        return f"Listening on 127.0.0.1:{mail}" in (a.folder / "log").read_text()

    until(listens, "systemd-socket-activate")
    assert state_of(a) == "absent"
    assert greeting(("127.0.0.1", mail)).startswith(b"421 4.4.1 hubtunnel: mx.b.example: never: ")
    status = request(a.folder / "control.sock", "status", timeout=PATIENCE)["status"]
    assert status["listen"] == [f"127.0.0.1:{carriers}"]
    assert status["pid"] == process.pid
    assert "socket_unused" not in (a.folder / "log").read_text()


# --- what is handed over ---------------------------------------------------------------------------------------


@pytest.fixture
def from_here(monkeypatch: pytest.MonkeyPatch) -> int:
    """Descriptors that are handed over begin here, where this process has nothing else."""
    first = 900
    monkeypatch.setattr(activation, "FIRST", first)
    return first


def handed(sock: socket.socket, number: int) -> None:
    os.dup2(sock.fileno(), number)


def environment(count: int, **more: str) -> dict[str, str]:
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count), "OTHER": "stays", **more}


def test_taken_once_and_not_passed_on(from_here: int) -> None:
    environ = environment(1, LISTEN_FDNAMES="hubtunnel")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        handed(sock, from_here)
        (taken,) = activation.take(environ)
        with taken:
            assert taken.getsockname() == sock.getsockname()
            assert not taken.get_inheritable()
            assert not taken.getblocking()
    assert environ == {"OTHER": "stays"}
    assert activation.take(environ) == []


@pytest.mark.parametrize("change", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": "x"}, {"LISTEN_FDS": ""}])
def test_meant_for_another_process(change: dict[str, str]) -> None:
    assert activation.take({**environment(1), **change}) == []


def test_all_that_is_of_another_kind_is_named(from_here: int) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as good,
        socket.socket() as silent,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
    ):
        for number, sock in enumerate((good, silent, datagrams)):
            handed(sock, from_here + number)
        with pytest.raises(ConfigError) as caught:
            activation.take(environment(4, LISTEN_FDNAMES="a:b:c"))
    assert caught.value.problems == [
        f"descriptor {from_here + 1} (b) from the supervisor is no listening TCP socket",
        f"descriptor {from_here + 2} (c) from the supervisor is no listening TCP socket",
        f"descriptor {from_here + 3} (unknown) from the supervisor: Bad file descriptor",
    ]
    for number in range(3):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(from_here + number)


def test_an_ipv6_socket_that_takes_ipv4_too_is_named() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as both:
        port = both.getsockname()[1]
        pool = SocketPool([both])
        with pytest.raises(ConfigError) as caught:
            pool.bind_missing({key_of(("::", port), ""): "x", key_of(("0.0.0.0", port), ""): "x: listen"})
        assert "BindIPv6Only=ipv6-only" in caught.value.problems[0]
        pool.close()


def test_addresses_are_compared_as_addresses() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as sock:
        pool = SocketPool([sock.dup()])
        key = key_of(("0:0:0:0:0:0:0:1", sock.getsockname()[1]), "")
        pool.bind_missing({key: "x"})
        assert pool.unused() == {}
        pool.keep_only({})
        assert len(pool.unused()) == 1
        pool.close()
