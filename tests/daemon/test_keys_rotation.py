"""Link keys that live by themselves: announced, used when their time comes, and replaced under running streams."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from hubtunnel.config import Peer
from hubtunnel.daemon import dialler, keeper, moves
from hubtunnel.identity import acknowledged as records
from hubtunnel.identity import credentials, keyfiles
from hubtunnel.identity.armour import armour_all
from hubtunnel.identity.state import State
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    DAY,
    HOUR,
    TIMES,
    Mta,
    Place,
    endpoint_of,
    link,
    talking,
    until,
    up,
)
from tests.daemon.living import (
    Clock,
    accepted,
    acknowledged,
    advance,
    ask,
    keys_in_use,
    living,
    serial,
    settled,
    trail,
    two,
)
from tests.identity.making import identity, signed


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks leap by days here: a dial may fall between the leap and the moment at which the other hub has seen it."""
    monkeypatch.setattr(dialler, "HANDSHAKE_TIMEOUT", 2.0)
    monkeypatch.setattr(moves, "KEYS_AGAIN", 1.0)


def test_rotation_under_a_stream(run_loop: RunLoop, tmp_path: Path) -> None:
    """`key rotate --now` at both hubs in turn: sessions move to the new keys, the conversation goes on."""

    async def scenario() -> None:
        async with Mta() as mta, two(tmp_path, mta.address) as hubs:
            session = link(hubs.a, "b").core.sessions[0]
            async with talking(hubs.a, "b", mta) as talk:
                for n, (mine, theirs, who) in enumerate([(hubs.a, hubs.b, "a"), (hubs.b, hubs.a, "b")] * 2):
                    before = keys_in_use(hubs.a, "b")
                    made = bytes.fromhex((await ask(mine, "rotate", at_once=True))["made"][0]["id"])
                    await until(lambda made=made: made in keys_in_use(hubs.a, "b"))
                    await until(lambda: keys_in_use(hubs.b, "a") == keys_in_use(hubs.a, "b")[::-1])
                    assert keys_in_use(hubs.a, "b") != before
                    assert accepted(theirs, who) == serial(mine)
                    await talk.there(b"EHLO %d\r\n" % n)
                    await talk.back(b"250\r\n")
            assert link(hubs.a, "b").core.sessions == [session]
            assert session.resumed >= 4

    run_loop(scenario())
    whats = [entry.what for entry in trail(Place(tmp_path / "b", "b"))]
    assert whats.count("card accepted") >= 3  # a's first and the two that came in the session
    assert whats.count("rotated") == 2


def test_both_rotate_at_the_same_moment(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, two(tmp_path, mta.address) as hubs:
            async with talking(hubs.a, "b", mta) as talk:
                a, b = await asyncio.gather(ask(hubs.a, "rotate", at_once=True), ask(hubs.b, "rotate", at_once=True))
                wanted = (bytes.fromhex(a["made"][0]["id"]), bytes.fromhex(b["made"][0]["id"]))
                await until(lambda: keys_in_use(hubs.a, "b") == wanted)
                await talk.back(b"220\r\n")
            assert len(link(hubs.a, "b").core.sessions) == 1

    run_loop(scenario())


def test_rotates_by_itself_when_due(run_loop: RunLoop, tmp_path: Path) -> None:
    """A month goes by: the next key is used, another one is made and announced, and `key list` would show it."""

    async def scenario() -> None:
        clock = Clock()
        async with Mta() as mta, two(tmp_path, mta.address, clock) as hubs:
            before, ahead = keys_in_use(hubs.a, "b")[0], hubs.a_place.ahead[0]
            assert serial(hubs.a) == 1
            await advance(clock, 30 * DAY + HOUR, hubs.b, hubs.a)
            await until(lambda: serial(hubs.a) == 2 and acknowledged(hubs.a, "b") == 2)
            await until(lambda: keys_in_use(hubs.a, "b")[0] == ahead.id)
            assert before != ahead.id
            newest = hubs.a.keys.card.card.link_keys[-1]
            assert newest.not_before > clock()

    run_loop(scenario())
    (entry,) = [entry for entry in trail(Place(tmp_path / "a", "a")) if entry.what == "rotated"]
    assert "by itself" in entry.user


def test_while_a_peer_is_waited_for_nothing_is_read_again(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation that is due waits for minutes for a peer that is away: of hundreds, each look would read the files."""
    monkeypatch.setattr(keeper, "ASK_EVERY", 0.001)
    looks: list[float] = []
    plan = keeper.plan

    def counted(state: State, peers: tuple[Peer, ...], known: records.Records, now: float) -> keeper.Plan:
        looks.append(now)
        return plan(state, peers, known, now)

    monkeypatch.setattr(keeper, "plan", counted)

    async def scenario() -> None:
        clock, a = Clock(), settled(tmp_path, "a")
        a.add_peer("b", card=signed("b"))
        async with living(a, clock) as hub:
            await until(lambda: looks)
            await advance(clock, 30 * DAY + HOUR, hub)
            asked = 0
            may_sign = hub.keeper._may_sign

            def counted_too() -> bool:
                nonlocal asked
                asked += 1
                return may_sign()

            monkeypatch.setattr(hub.keeper, "_may_sign", counted_too)
            await until(lambda: asked > 50)
            assert len(looks) <= 3
            assert serial(hub) == 1
            hub.keeper.told_grace = 0.0  # long enough
            await until(lambda: serial(hub) == 2)

    run_loop(scenario())


@pytest.mark.parametrize("spoilt", [False, True], ids=["edited", "half-edited"])
@pytest.mark.parametrize("who", ["daemon", "command"])
def test_rotation_takes_up_keys_and_no_edit(run_loop: RunLoop, tmp_path: Path, who: str, spoilt: bool) -> None:
    """What stands in the files and was not reloaded is an operator's unfinished work: it neither counts nor hinders."""

    async def scenario() -> None:
        clock, a = Clock(), settled(tmp_path, "a")
        first = signed("b")
        a.add_peer("b", card=first)
        async with living(a, clock, grace=0.0) as hub:
            before = hub.config
            a.write("nonsense = 1\n" if spoilt else "", times=TIMES.replace('hold = "5s"', 'hold = "9s"'))
            a.add_peer("b", card=signed("b", first))
            a.add_peer(Place(tmp_path / "c", "c"))
            if who == "daemon":
                await advance(clock, 30 * DAY + HOUR, hub)
            else:
                assert not (await ask(hub, "rotate"))["warnings"]
            await until(lambda: serial(hub) == 2)
            assert hub.config is before
            assert list(hub.links) == ["mx.b.example"]
            assert accepted(hub, "b") == 1
            if not spoilt:  # the control: with a reload all of it counts
                await hub.reload()
                assert hub.config.session.hold == 9
                assert list(hub.links) == ["mx.b.example", "mx.c.example"]
                assert accepted(hub, "b") == 2

    run_loop(scenario())


def test_rotates_by_itself_with_the_passphrase_that_systemd_gave(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control, without it, is `test_locked_identity_is_left_alone`."""
    monkeypatch.setattr(keyfiles, "OPSLIMIT", 1)
    monkeypatch.setattr(keyfiles, "MEMLIMIT", keyfiles.MEMLIMIT_MIN)
    monkeypatch.setenv(credentials.FOLDER, str(tmp_path))
    given = tmp_path / credentials.IDENTITY_PASSPHRASE
    given.touch(0o600)
    given.write_text("secret\n")

    async def scenario() -> None:
        now = int(time.time())
        a = Place(tmp_path / "a", "a", begin=now - 170 * DAY, end=now + 6 * DAY).make()
        with State.open(a.folder / "state", write=True) as state:
            keyfiles.write_identity(state.identity_path, identity("a"), b"secret", replace=True)
        async with living(a) as hub_a:
            await until(lambda: serial(hub_a) == 2)
            assert keyfiles.is_locked(a.folder / "state" / "identity.key")

    run_loop(scenario())


def test_peer_that_was_away_learns_the_chain_that_it_missed(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta:
            a, b = settled(tmp_path, "a"), settled(tmp_path, "b")
            b.add_peer(a, deliver=mta.address)
            async with living(b) as hub_b:
                a.add_peer(b, deliver=mta.address, endpoints=[endpoint_of(hub_b)])
                for _ in range(3):
                    await ask(hub_b, "rotate", at_once=True)
                assert serial(hub_b) == 4
                async with living(a) as hub_a:
                    await up(hub_a, "b")
                    await until(lambda: accepted(hub_a, "b") == 4 and acknowledged(hub_b, "a") == 4)
                    newest = hub_b.keys.card.card.link_keys
                    now = time.time()
                    best = [key for key in newest if key.not_before <= now][-1]
                    await until(lambda: keys_in_use(hub_a, "b")[1] == best.id)
                    pin, state = link(hub_b, "a").peer.pin, State.open(b.folder / "state")
                    await until(lambda: records.read(state, pin).used == best.id.hex())
                    assert records.read(state, pin).serial == 4

    run_loop(scenario())


def test_a_week_of_daily_keys(run_loop: RunLoop, tmp_path: Path) -> None:
    """Each key is used in its window and deleted a day after it, and the conversation stays."""

    async def scenario() -> None:
        clock = Clock()
        async with Mta() as mta, two(tmp_path, mta.address, clock) as hubs:
            issued = await ask(hubs.a, "issue", every=float(DAY), count=7)
            await until(lambda: acknowledged(hubs.a, "b") == 2)
            ids = [bytes.fromhex(key["id"]) for key in issued["made"]]
            used = []
            async with talking(hubs.a, "b", mta) as talk:
                for n, key in enumerate(ids):
                    await until(lambda key=key: keys_in_use(hubs.a, "b")[0] == key)
                    used.append(key)
                    await talk.back(b"%d" % n)
                    await advance(clock, DAY, hubs.b, hubs.a)
                await advance(clock, 2 * DAY, hubs.b, hubs.a)
                folder = hubs.a_place.folder / "state" / "keys"
                await until(lambda: not any((folder / f"{key.hex()}.key").exists() for key in ids))
                await talk.back(b"e")
            assert used == ids

    run_loop(scenario())
    deleted = [e.details["key"] for e in trail(Place(tmp_path / "a", "a")) if e.what == "deleted"]
    assert len(deleted) >= 7


def test_windows_that_no_longer_overlap(run_loop: RunLoop, tmp_path: Path) -> None:
    """A hub that was away too long: both say what they see, and a newer card by hand brings it back."""

    async def scenario() -> None:
        now = time.time()
        async with Mta() as mta:
            a = settled(tmp_path, "a")
            b = Place(tmp_path / "b", "b", begin=int(now) - 90 * DAY, end=int(now) - 10 * DAY).make()
            b.add_peer(a, deliver=mta.address)
            async with living(b) as hub_b:
                a.add_peer(b, deliver=mta.address, endpoints=[endpoint_of(hub_b)])
                await ask(hub_b, "rotate", at_once=True)
                async with living(a) as hub_a:
                    dialler = link(hub_a, "b").dialler
                    await until(lambda: dialler.failure is not None)
                    assert dialler.failure is not None
                    assert "peer update" in dialler.failure.text
                    # And on the other side, in `status` and in the log:
                    said = "mx.a.example knows our card 1 only, and the last link key of it has ended"
                    await until(lambda: any(said in warning for warning in hub_b.keeper.warnings))
                    assert "`hubtunnel peer update`" in hub_b.keeper.warnings[-1]
                    path = a.folder / "peers.d" / "mx.b.example.card"
                    path.write_text(armour_all(hub_b.keys.cards))
                    await hub_a.reload()
                    await up(hub_a, "b")

    run_loop(scenario())
