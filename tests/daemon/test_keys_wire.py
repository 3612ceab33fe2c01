"""Cards between two daemons when something went wrong: two copies that sign, a backup, a full disk, a wrong clock."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.daemon import dialler, logs
from hubtunnel.daemon.hub import Hub
from hubtunnel.daemon.logs import log
from hubtunnel.daemon.status import hub_status
from hubtunnel.errors import HubtunnelError
from hubtunnel.identity import lifecycle
from hubtunnel.identity.armour import armour
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.state import State
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    DAY,
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
from tests.identity import making

Heard = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    """Name and fields of every line of the daemons' log. A reload leaves it as it is: written lines pass no filter."""
    lines: Heard = []
    monkeypatch.setattr(logs, "configure", lambda form, level: None)

    def keep(record: logging.LogRecord) -> bool:
        lines.append((record.getMessage(), getattr(record, "fields", {})))
        return True

    log.addFilter(keep)
    yield lines
    log.removeFilter(keep)


def codes(heard: Heard, name: str) -> list[object]:
    return [fields.get("code") for each, fields in heard if each == name]


def last_error(hub: Hub, who: str) -> dict[str, Any]:
    """As `status --json` has it."""
    (found,) = [peer["last_error"] for peer in hub_status(hub)["peers"] if peer["name"] == name_of(who)]
    return dict(found or {"code": "", "text": ""})


def copy_of(place: Place, folder: Path) -> Place:
    """A second copy of a hub's state, identity key and all: a backup that was taken now."""
    shutil.copytree(place.folder / "state", folder / "state")
    return Place(folder, place.who)


def signs(place: Place) -> SignedCard:
    """A card that this copy signs, without any daemon."""
    with State.open(place.folder / "state", write=True) as state:
        return lifecycle.rotate(state, state.identity(), time.time()).card


# --- two copies that sign ---------------------------------------------------------------------------------------


def test_forked_chain_announced_in_a_session(run_loop: RunLoop, tmp_path: Path, heard: Heard) -> None:
    """a took card 2 of a copy of b by hand; b signs another card 2 and announces it in the session that is up."""

    async def scenario() -> None:
        async with Mta() as mta, two(tmp_path, mta.address) as hubs:
            async with talking(hubs.a, "b", mta) as talk:
                held = signs(copy_of(hubs.b_place, tmp_path / "copy"))
                (hubs.a_place.folder / "peers.d" / f"{name_of('b')}.card").write_text(armour(held))
                await hubs.a.reload()
                assert hubs.a.keys.peers[0].cards.latest == held

                await ask(hubs.b, "rotate")
                await until(lambda: "card_fork" in last_error(hubs.a, "b")["text"])
                assert last_error(hubs.a, "b")["code"] == "auth"
                assert "two different cards with serial 2" in last_error(hubs.a, "b")["text"]
                assert "card_fork" in codes(heard, "alarm")
                await until(lambda: codes(heard, "card_refused_by_peer") == ["card_fork"])
                assert "refused our card 2: card_fork" in last_error(hubs.b, "a")["text"]

                assert hubs.a.keys.peers[0].cards.latest == held, "the accepted one stays"
                with State.open(hubs.a_place.folder / "state") as state:
                    cards = state.peer(held.card.idfp)
                    assert cards is not None
                    assert cards.latest == held
                await talk.back(b"220\r\n")  # mail goes on

            # In the next session b hears which card a holds, and it is b that alarms: it announces nothing.
            heard.clear()
            drop(hubs.a, "b")
            await until(lambda: "own_fork" in codes(heard, "alarm"))
            await up(hubs.a, "b")
            assert "two copies of the identity key sign" in last_error(hubs.b, "a")["text"]
            assert hubs.a.keys.peers[0].cards.latest == held

            # The two admins have talked, and it is the card of b's daemon that is the true one.
            pin, card = hubs.b.keys.card.card.idfp, armour(hubs.b.keys.card)
            await ask(hubs.a, "repin", peer=name_of("b"), pin=pin, card=card)
            await until(lambda: accepted(hubs.a, "b") == acknowledged(hubs.b, "a") == 2)
            await ask(hubs.b, "rotate")
            await until(lambda: accepted(hubs.a, "b") == acknowledged(hubs.b, "a") == 3)

    run_loop(scenario())
    refused = [entry.details for entry in trail(Place(tmp_path / "a", "a")) if entry.what == "card refused"]
    assert [details["code"] for details in refused] == ["card_fork"]


def test_copy_that_is_behind_has_its_cards_back_before_it_signs(
    run_loop: RunLoop, tmp_path: Path, heard: Heard
) -> None:
    """CARD_GET over a gap: four cards behind, b is given the newest, signs the one after, and a takes it."""

    async def scenario() -> None:
        async with Mta() as mta:
            a, b = settled(tmp_path, "a"), settled(tmp_path, "b")
            a.add_peer(b, deliver=mta.address)
            async with living(a) as hub_a:
                b.add_peer(a, deliver=mta.address, endpoints=[endpoint_of(hub_a)])
                backup = copy_of(b, tmp_path / "backup")
                async with living(b) as hub_b:
                    await up(hub_b, "a")
                    for _ in range(4):
                        await ask(hub_b, "rotate")
                    await until(lambda: accepted(hub_a, "b") == 5)
                    newest = hub_b.keys.card
                shutil.rmtree(b.folder / "state")
                shutil.copytree(backup.folder / "state", b.folder / "state")
                async with living(b) as hub_b:
                    assert serial(hub_b) == 1
                    await until(lambda: serial(hub_b) == 5)
                    assert hub_b.keys.card.data == newest.data
                    assert (await ask(hub_b, "rotate"))["card"] == 6
                    await until(lambda: accepted(hub_a, "b") == acknowledged(hub_b, "a") == 6)

    run_loop(scenario())
    assert codes(heard, "alarm") == ["own_cards_behind"]
    whats = [entry.what for entry in trail(Place(tmp_path / "b", "b"))]
    assert whats.index("own card taken back") < whats.index("rotated")
    assert "card refused" not in [entry.what for entry in trail(Place(tmp_path / "a", "a"))]


# --- another hub's link key in a card ---------------------------------------------------------------------------


def test_another_hubs_link_key_in_a_pinned_card_is_met_with_silence(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """b, whom a has pinned, lists c's key as its own and names c's address: c, who knows a, gives no answer to that."""
    monkeypatch.setattr(dialler, "HANDSHAKE_TIMEOUT", 1.0)

    async def scenario() -> None:
        async with Mta() as mta:
            a, c = settled(tmp_path, "a"), settled(tmp_path, "c")
            c.add_peer(a, deliver=mta.address)
            foreign = c.card.card.link_keys[0]
            lying = SignedCard.sign(making.card("b", issued=c.begin, link_keys=(foreign,)), making.identity("b"))
            async with living(c) as hub_c:
                file = a.add_peer("b", card=lying, endpoints=[endpoint_of(hub_c)], deliver=mta.address)
                async with living(a) as hub_a:
                    await until(lambda: last_error(hub_a, "b")["code"] == "silent")
                    assert hub_c.services.knocks.total["unknown_hint"] >= 1
                    assert not link(hub_c, "a").core.sessions
                    assert not link(hub_c, "a").wire_out

                    # The control: with c under its own name and key the same hubs have a session at once.
                    for path in (file, file.with_suffix(".card")):
                        path.unlink()
                    a.add_peer(c, endpoints=[endpoint_of(hub_c)], deliver=mta.address)
                    await hub_a.reload()
                    await up(hub_a, "c")
                    assert keys_in_use(hub_a, "c")[1] == foreign.id

    run_loop(scenario())


# --- a disk that is full ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs of half a megabyte."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> Path:
    """Leave no room at all."""
    path = folder / "filler"
    with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    return path


@pytest.mark.root
def test_full_disk_under_a_running_daemon(run_loop: RunLoop, tmp_path: Path, heard: Heard) -> None:
    """Nothing can be signed or taken, which is said; old keys and cards stay, mail goes on; with room, all of it is."""

    async def scenario(disk: Path) -> None:
        async with Mta() as mta:
            a, b = settled(disk, "a"), settled(tmp_path, "b")
            b.add_peer(a, deliver=mta.address)
            async with living(b) as hub_b:
                a.add_peer(b, deliver=mta.address, endpoints=[endpoint_of(hub_b)])
                async with living(a) as hub_a:
                    await up(hub_a, "b")
                    await until(lambda: acknowledged(hub_a, "b") and link(hub_a, "b").keys.known.used)
                    async with talking(hub_a, "b", mta) as talk:
                        filler = fill(disk)
                        with pytest.raises(HubtunnelError, match="No space left on device"):
                            await ask(hub_a, "rotate", at_once=True)
                        await ask(hub_b, "rotate")  # a card for a, which it cannot keep
                        await until(lambda: any(name == "card_not_stored" for name, _ in heard))
                        await until(lambda: "refused our card 2" in last_error(hub_b, "a")["text"])
                        assert (serial(hub_a), accepted(hub_a, "b"), accepted(hub_b, "a")) == (1, 1, 1)
                        with State.open(a.folder / "state") as state:
                            found = {path.stem for path in state.link_key_files()}
                        assert found == {key.id.hex() for key in hub_a.keys.card.card.link_keys}
                        await talk.back(b"220\r\n")

                        filler.unlink()
                        await ask(hub_a, "rotate", at_once=True)
                        await until(lambda: accepted(hub_b, "a") == 2)
                        drop(hub_a, "b")
                    await until(lambda: accepted(hub_a, "b") == 2)

    with small_disk(tmp_path / "disk") as disk:
        run_loop(scenario(disk))
        assert "rotated" in [entry.what for entry in trail(Place(disk / "a", "a"))]


# --- a clock that is a day off ----------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-DAY, DAY], ids=["behind", "ahead"])
def test_clock_a_day_off(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    """No session, and a text that names the clock; what was signed meanwhile is taken once the clock is right."""
    monkeypatch.setattr(dialler, "HANDSHAKE_TIMEOUT", 1.0)

    async def scenario() -> None:
        wrong, right = Clock(), Clock()
        now = int(time.time())
        async with Mta() as mta:
            a = Place(tmp_path / "a", "a", begin=now - 3 * DAY, end=now + 180 * DAY).make()
            b = Place(tmp_path / "b", "b", begin=now - 3 * DAY, end=now + 180 * DAY).make()
            b.add_peer(a, deliver=mta.address)
            async with living(b, right) as hub_b:
                a.add_peer(b, deliver=mta.address, endpoints=[endpoint_of(hub_b)])
                wrong.ahead = off
                async with living(a, wrong) as hub_a:
                    dials = link(hub_a, "b").dialler
                    await until(lambda: dials.failure is not None)
                    assert dials.failure is not None
                    assert dials.failure.reason.value == "silent"
                    assert "a clock may be off by an hour (ours " in dials.failure.text
                    assert (await ask(hub_a, "rotate"))["card"] == 2
                    assert not link(hub_b, "a").core.sessions
                    await advance(wrong, -off, hub_a)
                    dials.promising()
                    await until(lambda: accepted(hub_b, "a") == acknowledged(hub_a, "b") == 2)

    run_loop(scenario())
