"""`hubtunnel run` as a process: signals, the commands that ask it, what it refuses to start with."""

from __future__ import annotations

import json
import os
import signal
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
from tests.daemon.hubs import PATIENCE, Place, free_port

pytestmark = pytest.mark.e2e


class Daemon:
    """One process of `hubtunnel run`, started with systemd's socket so that READY can be waited for."""

    def __init__(self, place: Place, *arguments: str) -> None:
        self.place = place
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(place.folder / "notify"))
        self._notify.settimeout(PATIENCE)
        self.log = open(place.folder / "log", "ab")  # noqa: SIM115 - closed in `close`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hubtunnel", "--config", str(place.config), "run", *arguments],
            env={**os.environ, "NOTIFY_SOCKET": str(place.folder / "notify")},
            stderr=self.log,
        )

    def heard(self) -> dict[str, str]:
        """The next message for systemd."""
        return dict(line.split("=", 1) for line in self._notify.recv(9999).decode().splitlines())

    def ready(self) -> Daemon:
        assert self.heard()["READY"] == "1"
        return self

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        return request(self.place.folder / "control.sock", command, timeout=PATIENCE, **arguments)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._notify.close()
        self.log.close()
        (self.place.folder / "notify").unlink()


def hubtunnel(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hubtunnel", "--config", str(place.config), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as entered:
        yield entered


def start(stack: ExitStack, place: Place, *arguments: str) -> Daemon:
    daemon = Daemon(place, *arguments)
    stack.callback(daemon.close)
    return daemon


def up(daemon: Daemon, peer: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while next(p for p in daemon.ask("status")["status"]["peers"] if p["name"] == peer)["state"] != "up":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_two_processes(stack: ExitStack, tmp_path: Path, loop: str) -> None:
    """Real configuration folders, bytes across, then every command that asks a daemon."""
    port_b, mail = free_port(), free_port()
    a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b").make(listen=f"127.0.0.1:{port_b}")
    with socket.create_server(("127.0.0.1", 0)) as mta:
        mta.settimeout(PATIENCE)
        b.add_peer(a, deliver=mta.getsockname())
        path = a.add_peer(b, endpoints=[f"127.0.0.1:{port_b}"])
        path.write_text(path.read_text().replace('"127.0.0.1:0"', f'"127.0.0.1:{mail}"'))
        daemons = [start(stack, place, "--loop", loop) for place in (b, a)]
        for daemon in daemons:
            daemon.ready()
        up(daemons[1], "mx.b.example")
        with socket.create_connection(("127.0.0.1", mail)) as near, mta.accept()[0] as far:
            far.sendall(b"220 b\r\n")
            assert near.recv(99) == b"220 b\r\n"
            near.sendall(b"EHLO a\r\n")
            assert far.recv(99) == b"EHLO a\r\n"
            shown = hubtunnel(a, "status", "--json")
            status = json.loads(shown.stdout)
    assert shown.returncode == 0
    assert status["loop"] == loop
    assert status["peers"][0]["streams"]["open"] == 1
    assert status["peers"][0]["carriers"][0]["endpoint"] == f"127.0.0.1:{port_b}"
    ping = hubtunnel(a, "ping", "mx.b.example", "-c", "1")
    assert ping.returncode == 0
    assert ping.stdout.startswith("mx.b.example: ")
    assert daemons[1].ask("rekey", peer="mx.b.example")["begun"] is True
    unknown = hubtunnel(a, "ping", "mx.z.example")
    assert unknown.returncode == 1
    assert "no peer 'mx.z.example'" in unknown.stderr
    table = hubtunnel(a, "status")
    assert table.returncode == 0
    assert "mx.b.example" in table.stdout
    stopped = hubtunnel(a, "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    assert daemons[1].wait() == 0
    gone = hubtunnel(a, "status")
    assert gone.returncode == 1
    assert "no daemon runs here" in gone.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends(stack: ExitStack, tmp_path: Path, number: signal.Signals) -> None:
    daemon = start(stack, Place(tmp_path / "a", "a").make()).ready()
    daemon.process.send_signal(number)
    assert daemon.heard()["STOPPING"] == "1"
    assert daemon.wait() == 0
    assert not (tmp_path / "a" / "control.sock").exists()


def test_second_signal_ends_at_once(stack: ExitStack, tmp_path: Path) -> None:
    """The first lets a conversation go on; the second breaks it off."""
    port_b, mail = free_port(), free_port()
    times = 'drain = "10m"\n'
    a, b = Place(tmp_path / "a", "a").make(times=times), Place(tmp_path / "b", "b").make(listen=f"127.0.0.1:{port_b}")
    with socket.create_server(("127.0.0.1", 0)) as mta:
        mta.settimeout(PATIENCE)
        b.add_peer(a, deliver=mta.getsockname())
        path = a.add_peer(b, endpoints=[f"127.0.0.1:{port_b}"])
        path.write_text(path.read_text().replace('"127.0.0.1:0"', f'"127.0.0.1:{mail}"'))
        start(stack, b).ready()
        daemon = start(stack, a).ready()
        up(daemon, "mx.b.example")
        with socket.create_connection(("127.0.0.1", mail)) as near, mta.accept()[0] as far:
            near.settimeout(PATIENCE)
            far.sendall(b"220\r\n")
            assert near.recv(99) == b"220\r\n"
            daemon.process.terminate()
            while "STOPPING" not in daemon.heard():
                pass
            far.sendall(b"250\r\n")
            assert near.recv(99) == b"250\r\n"
            daemon.process.terminate()
            with pytest.raises(ConnectionResetError):
                near.recv(99)
            assert daemon.wait() == 0


def test_hangup_reloads(stack: ExitStack, tmp_path: Path) -> None:
    place = Place(tmp_path / "a", "a").make()
    daemon = start(stack, place).ready()
    place.add_peer(Place(tmp_path / "b", "b"))
    daemon.process.send_signal(signal.SIGHUP)
    message = daemon.heard()
    assert message["RELOADING"] == "1"
    assert int(message["MONOTONIC_USEC"]) > 0
    assert daemon.heard() == {"READY": "1", "STATUS": "0 of 1 peers up"}
    place.config.write_text("name = 1\n")
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.heard()["RELOADING"] == "1"
    assert daemon.heard() == {"READY": "1", "STATUS": "0 of 1 peers up"}
    assert len(daemon.ask("status")["status"]["peers"]) == 1


def test_reload_command(stack: ExitStack, tmp_path: Path) -> None:
    """Synchronous, and with the exit status that `ExecReload` passes on."""
    place = Place(tmp_path / "a", "a").make()
    start(stack, place).ready()
    assert hubtunnel(place, "reload").stdout == "reloaded: no peer changed\n"
    place.add_peer(Place(tmp_path / "b", "b"))
    assert hubtunnel(place, "reload").stdout == "reloaded: 1 added\n"
    (place.folder / "peers.d" / "mx.c.example.toml").write_text("nme = 3\n")
    failed = hubtunnel(place, "reload")
    assert failed.returncode == 2
    for part in ("unknown key; did you mean 'name'?", "pin: is missing"):
        assert part in failed.stderr


def test_two_daemons_on_one_state(stack: ExitStack, tmp_path: Path) -> None:
    place = Place(tmp_path / "a", "a").make()
    start(stack, place).ready()
    second = hubtunnel(place, "run")
    assert second.returncode == 2
    assert "another process of hubtunnel is at work on it" in second.stderr


def test_killed_daemon_leaves_nothing_in_the_way(stack: ExitStack, tmp_path: Path) -> None:
    """SIGKILL leaves the control socket's file and the lock's; the next one starts all the same."""
    place = Place(tmp_path / "a", "a").make()
    first = Daemon(place)
    try:
        first.ready()
        first.process.kill()
        first.wait()
        with pytest.raises(ControlUnavailable):
            first.ask("status")
    finally:
        first.close()
    start(stack, place).ready().ask("status")


def test_mistakes_of_the_configuration(tmp_path: Path) -> None:
    place = Place(tmp_path / "a", "a").make('[limits]\nmemory = "1KiB"\nnonsense = 1\n')
    done = hubtunnel(place, "run")
    assert done.returncode == 2
    assert "[limits] memory: must be within" in done.stderr
    assert "[limits] nonsense: unknown key" in done.stderr


def test_address_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = Place(tmp_path / "a", "a").make(listen=f"127.0.0.1:{taken.getsockname()[1]}")
        done = hubtunnel(place, "run")
    assert done.returncode == 1  # systemd tries again: whoever holds it may let go of it
    assert "Address already in use" in done.stderr
    assert "ss -ltnp" in done.stderr


def test_secrets_are_not_in_the_log(stack: ExitStack, tmp_path: Path) -> None:
    """At the most talkative level; the control: what is public does stand there."""
    place = Place(tmp_path / "a", "a").make('[log]\nlevel = "debug"\n')
    psk = tmp_path / "psk"
    psk.write_text(bytes(range(32)).hex())
    psk.chmod(0o600)
    place.add_peer(Place(tmp_path / "b", "b"), extra=f'psk_file = "{psk}"', endpoints=[f"127.0.0.1:{free_port()}"])
    daemon = start(stack, place).ready()
    log = place.folder / "log"
    deadline = time.monotonic() + PATIENCE
    while "dial_failed" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    daemon.process.terminate()
    daemon.wait()
    said = (place.folder / "log").read_text()
    assert "mx.b.example" in said
    assert bytes(range(32)).hex() not in said
    assert "\\x00\\x01\\x02" not in said
