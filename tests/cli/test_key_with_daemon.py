"""The same commands while a daemon runs: it does them, knows who asked, and they are in force when they return."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.daemon.control import ControlUnavailable, request
from tests.cli.hubs import Hub, environment

pytestmark = pytest.mark.e2e


class Running:
    """A hub with its daemon."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.log = hub.folder / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hubtunnel", "--config", str(hub.config), "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )
        self.status()

    def status(self) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while True:
            try:
                answer: dict[str, Any] = request(self.hub.folder / "control.sock", "status")["status"]
                return answer
            except ControlUnavailable:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=20) == 0, self.log.read_text()


@pytest.fixture
def running(tmp_path: Path, b: Hub) -> Iterator[Running]:
    hub = Hub(tmp_path / "d", "d", 0)
    text = hub.config.read_text().replace('"127.0.0.1:0"', '"127.0.0.1:39625"')
    hub.config.write_text(text)
    listen = "127.0.7.4:39624"
    added = hub.run("peer", "add", b.card, "--fingerprint", b.fingerprint, "--listen", listen)
    assert added.status == 0, added.err
    daemon = Running(hub)
    yield daemon
    daemon.stop()


def test_changes_are_the_daemons_and_in_force_at_once(running: Running, b: Hub, tmp_path: Path) -> None:
    hub = running.hub
    assert running.status()["card"] == 1
    done = hub.run("key", "rotate")
    assert (done.status, done.err) == (0, "")
    assert running.status()["card"] == 2
    facts = json.loads(hub.run("key", "list", "--json").out)
    (current,) = [key["id"] for key in facts["keys"] if key["state"] == "current"]
    assert hub.run("key", "revoke", current).status == 0
    assert running.status()["card"] == 3
    assert not (hub.folder / f"state/keys/{current}.key").exists()
    made = hub.run("key", "issue", "--every", "1d", "--count", "3")
    assert made.status == 0, made.err
    assert hub.run("key", "export", tmp_path / "bundle").status == 0
    assert "All of it was here before" in hub.run("key", "import", tmp_path / "bundle").out

    secret = "a passphrase of the test"
    assert hub.run("key", "passphrase", "--identity", stdin=f"{secret}\n").status == 0
    assert hub.run("key", "rotate").status == 2, "nobody to ask"
    assert hub.run("key", "rotate", stdin="wrong\n").status == 1
    assert hub.run("key", "rotate", stdin=f"{secret}\n").status == 0
    assert running.status()["card"] == 5
    psk = hub.run("key", "psk", b.name)
    assert psk.status == 0, psk.err
    key = (hub.folder / f"peers.d/{b.name}.psk").read_text().strip()

    lines = json.loads(hub.run("key", "list", "--trail", "--json").out)
    assert [line["what"] for line in lines if "card" in line["details"]][-4:] == [
        "rotated",
        "revoked",
        "issued",
        "rotated",
    ]
    assert {line["uid"] for line in lines} == {os.getuid()}
    log = running.log.read_text()
    assert "keys_changed operation=revoke" in log
    for hidden in (secret, key):
        assert hidden not in log
        assert hidden not in (hub.folder / "state/trail.jsonl").read_text()
        assert hidden not in Path(f"/proc/{running.process.pid}/cmdline").read_text()


def test_mistake_in_the_configuration_stops_a_change_before_anything_is_signed(running: Running) -> None:
    hub = running.hub
    text = hub.config.read_text()
    hub.config.write_text(text + "\n[nonsense]\n")
    refused = hub.run("key", "rotate")
    hub.config.write_text(text)
    assert refused.status == 2
    assert "nonsense" in refused.err
    assert running.status()["card"] == 1
    assert len(list((hub.folder / "state/cards").iterdir())) == 1


def test_repin_while_the_daemon_runs(running: Running, tmp_path: Path) -> None:
    hub = running.hub
    anew = Hub(tmp_path / "anew", "b", 2626)
    done = hub.run("peer", "repin", anew.name, anew.card, "--fingerprint", anew.fingerprint)
    assert (done.status, done.err) == (0, "")
    shown = json.loads(hub.run("peer", "show", anew.name, "--json").out)
    assert shown["pin"] == anew.fingerprint
    assert shown["card"]["accepted"]["fingerprint"] == anew.fingerprint


def test_caller_cannot_say_that_it_is_somebody_else(running: Running) -> None:
    socket = running.hub.folder / "control.sock"
    request(
        socket,
        "operation",
        name="record",
        arguments={"what": "exported", "details": {}},
        **{"caller uid": 4711},
    )
    lines = json.loads(running.hub.run("key", "list", "--trail", "--json").out)
    assert lines[-1]["uid"] == os.getuid()
