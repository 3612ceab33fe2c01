"""What must not pass, and what comes back: stolen keys, forked chains, restored backups, new identities, other psks."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from pathlib import Path

import pytest

from hubtunnel.daemon import dialler
from hubtunnel.daemon.hub import Hub
from hubtunnel.errors import HubtunnelError, Reason
from hubtunnel.identity import acknowledged as records
from hubtunnel.identity import keyfiles, lifecycle
from hubtunnel.identity.armour import armour
from hubtunnel.identity.card import Card, SignedCard, link_public
from hubtunnel.identity.state import State, StateError
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    Mta,
    Place,
    drop,
    endpoint_of,
    link,
    name_of,
    talking,
    until,
    up,
)
from tests.daemon.living import accepted, acknowledged, ask, keys_in_use, living, serial, settled, trail, two
from tests.identity.making import identity, link_key


def test_revocation_costs_no_stream(run_loop: RunLoop, tmp_path: Path) -> None:
    """The session moves off the key first; when the command returns, nothing rests on it at either hub."""

    async def scenario() -> None:
        async with Mta() as mta, two(tmp_path, mta.address) as hubs:
            async with talking(hubs.b, "a", mta) as talk:
                stolen = keys_in_use(hubs.b, "a")[0]
                result = await ask(hubs.b, "revoke", key=stolen.hex())
                assert result["revoked"] == stolen.hex()
                assert stolen not in keys_in_use(hubs.a, "b")
                assert stolen not in keys_in_use(hubs.b, "a")
                await until(lambda: accepted(hubs.a, "b") == serial(hubs.b))
                assert stolen in hubs.a.keys.peers[0].cards.latest.card.revoked
                assert not any(context.theirs.id == stolen for context in link(hubs.a, "b").contexts)
                await talk.back(b"220\r\n")
            assert not (hubs.b_place.folder / "state" / "keys" / f"{stolen.hex()}.key").exists()

    run_loop(scenario())


async def _thief(folder: Path, victim: Place, target: Hub) -> Place:
    """Who has the victim's link key and cards, but not its identity key."""
    place = Place(folder, victim.who)
    shutil.copytree(victim.folder, folder)
    (folder / "state" / "identity.key").unlink()
    for path in (folder / "peers.d").glob("*.toml"):
        lines = path.read_text().splitlines()
        endpoint = f'endpoints = ["{endpoint_of(target)}"]'
        path.write_text("\n".join(endpoint if line.startswith("endpoints") else line for line in lines) + "\n")
    return place


def test_stolen_link_key(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves its thief until it is revoked: then his session is cut at once, no new one comes about, and no card
    of his was ever taken."""
    monkeypatch.setattr(dialler, "HANDSHAKE_TIMEOUT", 2.0)  # after which he gives up

    async def scenario() -> None:
        async with Mta() as mta:
            a, b = settled(tmp_path, "a"), settled(tmp_path, "b")
            a.add_peer(b, deliver=mta.address)
            async with living(a) as hub_a:
                b.add_peer(a, deliver=mta.address, endpoints=[endpoint_of(hub_a)])
                async with living(b) as hub_b:
                    await up(hub_b, "a")
                stolen = b.card.card.link_keys[0].id
                thief = await _thief(tmp_path / "thief", b, hub_a)
                # His own attempt to last: a card with a key of his, signed by an identity of his.
                own = link_key("thief", 1, begin=b.begin, end=b.end)
                forged = SignedCard.sign(
                    Card.build(
                        name=name_of("b"),
                        serial=2,
                        previous=b.card.card.hash,
                        issued=b.card.card.issued,
                        identity=identity("thief").public,
                        link_keys=(link_public(own),),
                    ),
                    identity("thief"),
                )
                with State.open(thief.folder / "state", write=True) as state:
                    state.add_link_key(own)
                    state.add_card(forged)
                async with living(thief) as hub_t:
                    await up(hub_t, "a")
                    assert stolen in keys_in_use(hub_a, "b")
                    await until(lambda: any(entry.what == "card refused" for entry in trail(a)))
                    assert link(hub_a, "b").last_error is not None
                    assert accepted(hub_a, "b") == 1
                    with State.open(b.folder / "state", write=True) as state:
                        lifecycle.revoke(state, state.identity(), time.time(), stolen)
                        newest = state.cards()[-1]
                    # The thief holds the session, so b cannot tell a by itself: its admin gives a the card.
                    (a.folder / "peers.d" / "mx.b.example.card").write_text(armour(newest))
                    await hub_a.reload()
                    await until(lambda: not link(hub_a, "b").core.sessions)
                    assert not any(context.theirs.id == stolen for context in link(hub_a, "b").contexts)
                    async with living(b) as hub_b:
                        await up(hub_b, "a")
                        await until(lambda: keys_in_use(hub_a, "b")[1] == keys_in_use(hub_b, "a")[0] != b"")
                        assert stolen not in keys_in_use(hub_a, "b")
                        his = link(hub_t, "a").dialler
                        his.promising()
                        # Its dial of the moment at which the keys went was broken off; this one is left without a word.
                        await until(lambda: his.failure is not None and his.failure.reason is Reason.SILENT, 25.0)
                        assert link(hub_b, "a").core.ready

    run_loop(scenario())


def test_forked_chain_is_an_alarm(run_loop: RunLoop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second copy of the identity key signs another card 2: refused at the peer, and the one before stays."""

    async def scenario() -> None:
        async with Mta() as mta, two(tmp_path, mta.address) as hubs:
            await ask(hubs.b, "rotate")
            await until(lambda: accepted(hubs.a, "b") == 2)
            held = hubs.a.keys.peers[0].cards.latest
            other = SignedCard.sign(
                Card.build(
                    name=name_of("b"),
                    serial=2,
                    previous=hubs.b_place.card.card.hash,
                    issued=held.card.issued,
                    identity=identity("b").public,
                    link_keys=(link_public(link_key("b", 7, begin=hubs.b_place.begin, end=hubs.b_place.end)),),
                ),
                identity("b"),
            )
            path = hubs.a_place.folder / "peers.d" / "mx.b.example.card"
            path.write_text(armour(other))
            await hubs.a.reload()
            assert hubs.a.keys.peers[0].cards.latest == held
            assert "alarm" in [record.getMessage() for record in caplog.records]

    run_loop(scenario())
    refused = [entry for entry in trail(Place(tmp_path / "a", "a")) if entry.what == "card refused"]
    assert [entry.details["code"] for entry in refused] == ["card_fork"]


def test_restored_backup_takes_its_cards_back_before_it_signs(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta:
            a, b = settled(tmp_path, "a"), settled(tmp_path, "b")
            b.add_peer(a, deliver=mta.address)
            async with living(b) as hub_b:
                a.add_peer(b, deliver=mta.address, endpoints=[endpoint_of(hub_b)])
                async with living(a) as hub_a:
                    await up(hub_a, "b")
                shutil.copytree(a.folder / "state", tmp_path / "backup")
                async with living(a) as hub_a:
                    await up(hub_a, "b")
                    await ask(hub_a, "rotate")
                    await ask(hub_a, "rotate")
                    await until(lambda: accepted(hub_b, "a") == 3)
                    newest = hub_a.keys.card
                shutil.rmtree(a.folder / "state")
                shutil.copytree(tmp_path / "backup", a.folder / "state")
                async with living(a) as hub_a:
                    await up(hub_a, "b")
                    await until(lambda: serial(hub_a) == 3)
                    assert hub_a.keys.card.data == newest.data
                    await ask(hub_a, "rotate")
                    await until(lambda: accepted(hub_b, "a") == 4)

    run_loop(scenario())
    whats = [entry.what for entry in trail(Place(tmp_path / "a", "a"))]
    assert whats.index("own card taken back") < whats.index("rotated")


def test_nothing_is_signed_while_a_peer_holds_more(run_loop: RunLoop, tmp_path: Path) -> None:
    """What a peer said before counts also while it is away, until its card is back."""

    async def scenario() -> None:
        a, b = settled(tmp_path, "a"), settled(tmp_path, "b")
        a.add_peer(b)
        with State.open(a.folder / "state", write=True) as state:
            records.note_newer(state, identity("b").public.idfp, 5)
        async with living(a) as hub_a:
            with pytest.raises(HubtunnelError, match="holds our card 5"):
                await ask(hub_a, "rotate")
            await until(lambda: hub_a.keeper.warnings)
            assert serial(hub_a) == 1

    run_loop(scenario())


def test_identity_rotates_under_a_stream(run_loop: RunLoop, tmp_path: Path) -> None:
    """The peer takes the new identity from the card that both signed; session and dials go on."""

    async def scenario() -> None:
        async with Mta() as mta, two(tmp_path, mta.address) as hubs:
            before = hubs.a.keys.idfp
            async with talking(hubs.a, "b", mta) as talk:
                await ask(hubs.a, "rotate", identity=True)
                assert hubs.a.keys.idfp != before
                await until(lambda: link(hubs.b, "a").keys.idfp == hubs.a.keys.idfp)
                await until(lambda: acknowledged(hubs.a, "b") == 2)
                await ask(hubs.b, "rotate", at_once=True)  # makes a dial: under the new identity
                used = keys_in_use(hubs.a, "b")
                await until(lambda: keys_in_use(hubs.a, "b") not in (used, (b"", b"")) or used[1] != b"")
                await until(lambda: len(link(hubs.a, "b").core.sessions) == 1 and link(hubs.a, "b").core.ready)
                await talk.back(b"220\r\n")
            link(hubs.a, "b").abort()
            await until(lambda: link(hubs.a, "b").core.sessions and link(hubs.a, "b").core.sessions[0].resumed)
            await up(hubs.a, "b")

    run_loop(scenario())


def test_psk_changes(run_loop: RunLoop, tmp_path: Path) -> None:
    """Set at one hub, the session waits; set at the other one too, it goes on, streams and all."""

    async def scenario() -> None:
        async with (
            Mta() as mta,
            two(tmp_path, mta.address) as hubs,
            talking(hubs.a, "b", mta) as talk,
        ):
            for hub, place, who in ((hubs.b, hubs.b_place, "a"), (hubs.a, hubs.a_place, "b")):
                assert link(hub, who).core.sessions
                path = place.folder / "peers.d" / f"{name_of(who)}.toml"
                secret = path.with_suffix(".psk")
                secret.write_text(hashlib.sha256(b"psk").hexdigest() + "\n")
                secret.chmod(0o600)
                path.write_text(f'psk_file = "{secret.name}"\n' + path.read_text())
                await hub.reload()
            await until(lambda: link(hubs.a, "b").core.ready, 40.0)
            await talk.back(b"220\r\n")

    run_loop(scenario())


def test_card_that_cannot_be_stored_is_sent_again(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the peer: its accepted card stays, ours is refused for now, and taken with the next session."""

    async def scenario() -> None:
        async with Mta() as mta, two(tmp_path, mta.address) as hubs:
            real = State.set_peer

            def full(state: State, pin: bytes, cards: object) -> None:
                raise StateError(f"{state.peer_path(pin)}: cannot be written: No space left on device")

            monkeypatch.setattr(State, "set_peer", full)
            await ask(hubs.a, "rotate")
            await until(lambda: link(hubs.a, "b").last_error is not None)
            assert accepted(hubs.b, "a") == 1
            monkeypatch.setattr(State, "set_peer", real)
            drop(hubs.a, "b")
            await until(lambda: accepted(hubs.b, "a") == 2)

    run_loop(scenario())


def test_locked_identity_is_left_alone(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a passphrase nothing rotates by itself, and who is about to be cut off is said."""
    monkeypatch.setattr(keyfiles, "OPSLIMIT", 1)
    monkeypatch.setattr(keyfiles, "MEMLIMIT", keyfiles.MEMLIMIT_MIN)

    async def scenario() -> None:
        now = int(time.time())
        a = Place(tmp_path / "a", "a", begin=now - 170 * 86400, end=now + 6 * 86400).make()
        with State.open(a.folder / "state", write=True) as state:
            keyfiles.write_identity(state.identity_path, identity("a"), b"secret", replace=True)
        async with living(a) as hub_a:
            await until(lambda: hub_a.keeper.warnings)
            assert "the last link key of this hub ends in 5 days" in hub_a.keeper.warnings[0]
            assert serial(hub_a) == 1
            await asyncio.sleep(0)

    run_loop(scenario())
