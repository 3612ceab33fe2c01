"""The same commands while a daemon runs: it does them, knows who asked, and they are in force when they return."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubtunnel.daemon.control import request
from hubtunnel.identity import keyfiles
from tests.cli.hubs import Hub, Running, spawn
from tests.conftest import RESERVED

pytestmark = pytest.mark.e2e


@pytest.fixture
def running(tmp_path: Path, b: Hub) -> Iterator[Running]:
    hub = Hub(tmp_path / "d", "d", 0)
    listen = f"127.0.7.4:{RESERVED.reserve()}"
    added = hub.run("peer", "add", b.card, "--fingerprint", b.fingerprint, "--listen", listen)
    assert added.status == 0, added.err
    daemon = Running(hub)
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.end()


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


# --- systemd credentials ------------------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """What systemd would give to the service."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    return folder


@pytest.fixture
def hub(tmp_path: Path, b: Hub) -> Hub:
    """A hub with a peer, and no daemon yet."""
    hub = Hub(tmp_path / "c", "c", 0)
    hub.config.write_text(hub.config.read_text().replace('"127.0.0.1:0"', '"127.0.0.1:29625"'))
    added = hub.run("peer", "add", b.card, "--fingerprint", b.fingerprint, "--listen", "127.0.7.5:29624")
    assert added.status == 0, added.err
    return hub


def test_daemon_that_was_given_the_passphrase_signs_for_whoever_asks(
    hub: Hub, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfiles, "OPSLIMIT", 1)
    monkeypatch.setattr(keyfiles, "MEMLIMIT", keyfiles.MEMLIMIT_MIN)
    secret = "a passphrase of the test"
    assert hub.run("key", "passphrase", "--identity", stdin=f"{secret}\n").status == 0
    assert hub.run("key", "rotate").status == 2, "without the daemon nobody was given anything"
    (given / "identity.passphrase").write_text(f"{secret}\n")
    (given / "identity.passphrase").chmod(0o400)
    daemon = Running(hub, CREDENTIALS_DIRECTORY=str(given))
    try:
        done = hub.run("key", "rotate")
        assert (done.status, done.err) == (0, "")
        assert daemon.status()["card"] == 2
        assert hub.run("key", "passphrase", "--identity").status == 2, "that one has to be typed"
        changed = hub.run("key", "passphrase", "--identity", stdin=f"{secret}\nanother\n")
        assert changed.status == 0, changed.err
        assert "restart the service" in changed.err
        assert hub.run("key", "rotate").status != 0
        assert daemon.status()["card"] == 2
        assert secret not in daemon.log.read_text()
    finally:
        daemon.stop()


def test_pre_shared_key_that_only_the_service_has(hub: Hub, b: Hub, given: Path) -> None:
    assert hub.run("key", "psk", b.name).status == 0
    file = hub.folder / f"peers.d/{b.name}.psk"
    peer = file.with_suffix(".toml")
    (given / file.name).write_bytes(file.read_bytes())
    (given / file.name).chmod(0o400)
    file.unlink()
    peer.write_text(peer.read_text().replace(f'"{file.name}"', f'"credential:{file.name}"'))

    checked = hub.run("check")
    assert checked.status == 0, checked.out
    assert f"systemd credential {file.name}, which only the service has" in checked.out
    assert hub.run("key", "rotate").status == 0, "a command without a daemon does not need it"
    alone = spawn("--config", hub.config, "run")
    assert alone.status == 2, "never without the key that both hubs agreed on"
    assert f"was not given the systemd credential {file.name}" in alone.err

    daemon = Running(hub, CREDENTIALS_DIRECTORY=str(given))
    try:
        assert hub.run("reload").status == 0
        for arguments in ((), ("--set",), ("--replace",)):
            refused = hub.run("key", "psk", b.name, *arguments)
            assert refused.status == 1
            assert "only systemd can replace" in refused.err
        assert hub.run("key", "psk", b.name, "--remove").status == 0
        assert 'psk_file = "' not in peer.read_text().replace('# psk_file = ""', "")
        assert (given / file.name).exists()
    finally:
        daemon.stop()
