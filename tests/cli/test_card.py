"""`card`: what is given to another hub's admin."""

from __future__ import annotations

import json

from hubtunnel.identity.armour import dearmour
from hubtunnel.identity.fingerprint import from_text, to_words
from hubtunnel.identity.state import State
from tests.cli.hubs import Hub, spawn


def test_card_is_the_one_in_the_state(a: Hub) -> None:
    (printed,) = dearmour(spawn("card", "--config", a.config).out)
    with State.open(a.folder / "state") as state:
        assert printed.data == state.cards()[-1].data


def test_fingerprint_as_text_and_words(a: Hub) -> None:
    text, words = a.run("card", "--fingerprint").out.splitlines()
    (printed,) = dearmour(a.card.read_text())

    assert from_text(text) == printed.card.idfp
    assert words == to_words(printed.card.idfp)
    assert text in a.made
    assert words in a.made
    assert f"# fingerprint: {text}" in a.card.read_text()


def test_json(a: Hub) -> None:
    facts = json.loads(a.run("card", "--json").out)

    assert (facts["name"], facts["serial"]) == (a.name, 1)
    assert (facts["fingerprint"], facts["words"]) == (a.fingerprint, a.words)
    assert dearmour(facts["card"])[0].card.hash.hex() == facts["hash"]
    assert [set(key) for key in facts["link_keys"]] == [{"id", "not_before", "not_after"}] * 2


def test_mistakes_in_peers_do_not_stand_in_its_way_but_those_of_the_hub_do(a: Hub) -> None:
    (a.folder / "peers.d" / "x.toml").write_text("not TOML")
    assert a.run("card").out == a.card.read_text()
    a.config.write_text(a.config.read_text() + "\n[stat]\n")
    result = a.run("card")
    assert result.status == 2
    assert "unknown section" in result.err


def test_no_private_key_in_any_output(a: Hub, b: Hub) -> None:
    a.run("peer", "add", b.card, "--fingerprint", b.fingerprint)
    with State.open(a.folder / "state") as state:
        identity, keys = state.identity(), state.link_keys()[0]
    private = [identity.ed25519_seed, identity.mldsa65_seed]
    private += [half for key in keys for half in (key.x25519_private, key.mlkem_seed)]
    shown = a.made
    for command in (
        "card",
        "card --json",
        "card --fingerprint",
        "check",
        "check --json",
        "peer list",
        f"peer show {b.name}",
    ):
        shown += a.run(*command.split()).out

    assert all(secret.hex() not in shown for secret in private)
