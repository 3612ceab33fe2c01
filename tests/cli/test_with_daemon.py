"""Changes while a real daemon runs: in force when the command returns, or undone."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from hubtunnel.config import load
from hubtunnel.identity.armour import dearmour
from hubtunnel.identity.state import State
from tests.cli.hubs import Hub, Running
from tests.identity import making
from tests.identity.making import tree

pytestmark = pytest.mark.e2e


@pytest.fixture
def daemon(anywhere: Hub) -> Iterator[Running]:
    running = Running(anywhere)
    yield running
    running.end()


def _peers(hub: Hub) -> list[str]:
    return [peer["name"] for peer in json.loads(hub.run("status", "--json").out)["peers"]]


def _free_port() -> int:
    with socket.create_server(("127.0.1.9", 0)) as somebody:
        return int(somebody.getsockname()[1])


def _add(hub: Hub, other: Hub, *arguments: object) -> tuple[int, str]:
    result = hub.run("peer", "add", other.card, "--fingerprint", other.fingerprint, *arguments)
    return result.status, result.out + result.err


@pytest.mark.usefixtures("daemon")
def test_add_and_remove_are_in_force_when_they_return(a: Hub, b: Hub) -> None:
    port = _free_port()
    status, said = _add(a, b, "--listen", f"127.0.1.9:{port}")
    assert status == 0, said
    assert _peers(a) == [b.name]
    with socket.create_connection(("127.0.1.9", port), timeout=5):
        pass
    assert a.run("peer", "remove", b.name).status == 0
    assert _peers(a) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.1.9", port), timeout=5)


@pytest.mark.usefixtures("daemon")
def test_a_newer_card_is_in_force_when_update_returns(a: Hub) -> None:
    first = making.signed("x")
    second = making.signed("x", first)
    card = a.folder.parent / "x.card"
    card.write_text(making.armour_all([first]))
    text = making.to_text(first.card.idfp)
    assert a.run("peer", "add", card, "--fingerprint", text, "--listen", f"127.0.1.9:{_free_port()}").status == 0
    card.write_text(making.armour_all([second]))
    assert a.run("peer", "update", card).status == 0

    (peer,) = json.loads(a.run("status", "--json").out)["peers"]
    assert peer["card"]["accepted"] == 2
    with State.open(a.folder / "state") as state:
        cards = state.peer(first.card.idfp)
    assert cards is not None
    assert cards.latest == second


@pytest.mark.usefixtures("daemon")
def test_what_the_daemon_refuses_is_undone(a: Hub, b: Hub) -> None:
    """A key that is another hub's: the daemon says no, and the folder is as before."""
    assert _add(a, b, "--listen", f"127.0.1.9:{_free_port()}")[0] == 0
    stolen = dearmour(b.card.read_text())[0].card.link_keys
    card = a.folder.parent / "x.card"
    card.write_text(making.armour_all([making.signed("x", link_keys=stolen)]))
    before = tree(a.folder / "peers.d")
    text = making.to_text(making.identity("x").public.idfp)
    result = a.run("peer", "add", card, "--fingerprint", text, "--listen", f"127.0.1.9:{_free_port()}")

    assert result.status == 1
    assert "the daemon refused, nothing was changed" in result.err
    assert "another hub's already" in result.err
    assert tree(a.folder / "peers.d") == before
    assert _peers(a) == [b.name]


@pytest.mark.usefixtures("daemon")
def test_an_address_that_is_taken_is_refused_and_undone(a: Hub, b: Hub) -> None:
    before = tree(a.folder / "peers.d")
    with socket.create_server(("127.0.1.9", 0)) as somebody:
        status, said = _add(a, b, "--listen", f"127.0.1.9:{somebody.getsockname()[1]}")
    assert status == 1, said
    assert "the daemon refused, nothing was changed" in said
    assert tree(a.folder / "peers.d") == before
    assert _peers(a) == []


@pytest.mark.usefixtures("daemon")
def test_reading_works_beside_a_daemon(a: Hub, b: Hub) -> None:
    assert _add(a, b, "--listen", f"127.0.1.9:{_free_port()}")[0] == 0
    for command in ("card", "check", "peer list", f"peer show {b.name}"):
        assert a.run(*command.split()).status == 0, command


def test_after_sigkill_the_state_is_whole_and_free(a: Hub, b: Hub, daemon: Running) -> None:
    assert _add(a, b, "--listen", f"127.0.1.9:{_free_port()}")[0] == 0
    daemon.process.kill()
    daemon.process.wait(20)

    assert a.run("check").status == 0
    assert a.run("peer", "remove", b.name).status == 0
    assert load(a.config).peers == ()
