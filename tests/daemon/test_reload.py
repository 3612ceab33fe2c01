"""Reload: whole or not at all, and nothing that did not change is touched."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path

import pytest

from hubtunnel.config import Config, load
from hubtunnel.daemon import dialler, logs, sockets
from hubtunnel.daemon import hub as hub_module
from hubtunnel.daemon.hub import Hub
from hubtunnel.errors import ConfigError, HubtunnelError
from hubtunnel.identity.armour import armour_all
from hubtunnel.identity.card import Card, SignedCard, link_public
from hubtunnel.identity.state import State
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    PATIENCE,
    TIMES,
    Mta,
    Place,
    connected,
    endpoint_of,
    free_port,
    link,
    mail_port,
    name_of,
    pair,
    read_all,
    read_exactly,
    running,
    talking,
    until,
    up,
)
from tests.identity.making import identity, link_key


def test_nothing_changed(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            before = link(hubs.b, "a"), mail_port(hubs.b, "a"), endpoint_of(hubs.b)
            assert await hubs.b.reload() == {"added": [], "removed": [], "changed": []}
            assert (link(hubs.b, "a"), mail_port(hubs.b, "a"), endpoint_of(hubs.b)) == before

    run_loop(scenario())


def test_peers_come_and_go_beside_one_that_stays(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a's conversation goes on, on the same carrier, while c is added, used, changed and removed."""
    monkeypatch.setattr(dialler, "HANDSHAKE_TIMEOUT", 0.3)  # c dials before b knows it, and must not wait for long

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            carriers = list(link(hubs.a, "b").core.carriers)
            c = Place(tmp_path / "c", "c").make()
            c.add_peer(hubs.b_place, endpoints=[endpoint_of(hubs.b)])
            async with talking(hubs.a, "b", mta) as talk_a, running(c) as hub_c:
                path = hubs.b_place.add_peer(c, deliver=mta.address)
                assert await hubs.b.reload() == {"added": [name_of("c")], "removed": [], "changed": []}
                await up(hub_c, "b")
                async with talking(hub_c, "b", mta) as talk_c:
                    await talk_c.back(b"220\r\n")
                    path.unlink()
                    assert await hubs.b.reload() == {"added": [], "removed": [name_of("c")], "changed": []}
                    with pytest.raises(ConnectionResetError):
                        await read_all(talk_c.reader)  # a removed peer's sessions are closed at once
                    talk_c.writer.close()
                assert "c" not in str(list(hubs.b.links))
                await until(lambda: not link(hub_c, "b").core.ready)
                await talk_a.back(b"220\r\n")
                await talk_a.there(b"EHLO\r\n")
            assert link(hubs.a, "b").core.carriers == carriers

    run_loop(scenario())


def _spoil(place: Place) -> None:
    place.write(settings='[limits]\nmemory = "1KiB"\nnonsense = 1\n')
    (place.folder / "peers.d" / "mx.x.example.toml").write_text("name = 1\n")


def test_all_mistakes_are_reported_and_nothing_changes(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            before = hubs.b.config
            _spoil(hubs.b_place)
            with pytest.raises(ConfigError) as caught:
                await hubs.b.reload()
            text = "\n".join(caught.value.problems)
            for part in ("[limits] memory", "[limits] nonsense", "mx.x.example.toml: name", "mx.x.example.toml: pin"):
                assert part in text
            assert hubs.b.config is before
            async with connected(mail_port(hubs.a, "b")):
                await mta.next()

    run_loop(scenario())


def test_address_that_cannot_be_bound(run_loop: RunLoop, tmp_path: Path) -> None:
    """Two of them: both are named, and what would have been possible is not done either."""

    async def scenario() -> None:
        async with Mta() as taken, pair(tmp_path, taken.address) as hubs:
            before = endpoint_of(hubs.b)
            place, free = hubs.b_place, free_port()
            port = taken.address[1]
            place.config.write_text(
                place.config.read_text().replace(
                    'listen = ["127.0.0.1:0"]',
                    f'listen = ["127.0.0.1:{port}", "127.0.0.1:{free}", "192.0.2.99:2625"]',
                )
            )
            path = place.folder / "peers.d" / "mx.a.example.toml"
            path.write_text(path.read_text().replace(f'"127.0.0.1:{port}"', f'"127.0.0.1:{free_port()}"'))
            with pytest.raises(ConfigError) as caught:
                await hubs.b.reload()
            assert len(caught.value.problems) == 2
            assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in caught.value.problems[0]
            assert "no interface of this machine has it" in caught.value.problems[1]
            assert endpoint_of(hubs.b) == before
            with pytest.raises(OSError, match=r"Connect call failed|refused"):
                async with connected(("127.0.0.1", free)):
                    pass

    run_loop(scenario())


@pytest.mark.parametrize("key", ["name", "state", "socket"])
def test_what_needs_a_restart(run_loop: RunLoop, tmp_path: Path, key: str) -> None:
    async def scenario() -> None:
        async with running(Place(tmp_path / "a", "a").make()) as hub:
            text = hub.config.path.read_text()
            text = {
                "name": text.replace("mx.a.example", "mx.z.example"),
                "state": text.replace('state = "state"', 'state = "elsewhere"'),
                "socket": text + '[control]\nsocket = "other.sock"\n',
            }[key]
            hub.config.path.write_text(text)
            with pytest.raises(ConfigError, match="needs a restart"):
                await hub.reload()

    run_loop(scenario())


def _listen(place: Place, who: str, port: int) -> None:
    path = place.folder / "peers.d" / f"{name_of(who)}.toml"
    lines = [
        f'listen = "127.0.0.1:{port}"' if line.startswith("listen") else line for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines) + "\n")


async def _listens(hub: Hub, who: str, port: int) -> None:
    assert mail_port(hub, who) == ("127.0.0.1", port)
    async with connected(("127.0.0.1", port)):
        await until(lambda: link(hub, who).local.relays)
    await until(lambda: not link(hub, who).local.relays)


def test_local_addresses_change_and_swap(run_loop: RunLoop, tmp_path: Path) -> None:
    """Two peers swap addresses in one reload: neither is ever unbound."""

    async def scenario() -> None:
        one, two, three = free_port(), free_port(), free_port()
        a = Place(tmp_path / "a", "a").make()
        for who, port in (("b", one), ("c", two)):
            a.add_peer(Place(tmp_path / who, who))
            _listen(a, who, port)
        async with running(a) as hub:
            await _listens(hub, "b", one)
            await _listens(hub, "c", two)
            _listen(a, "b", two)
            _listen(a, "c", one)
            assert await hub.reload() == {"added": [], "removed": [], "changed": [name_of("b"), name_of("c")]}
            await _listens(hub, "b", two)
            await _listens(hub, "c", one)
            _listen(a, "c", three)
            await hub.reload()
            await _listens(hub, "c", three)
            with pytest.raises(OSError, match=r"Connect call failed|refused"):
                async with connected(("127.0.0.1", one)):
                    pass

    run_loop(scenario())


def test_carrier_addresses_change(run_loop: RunLoop, tmp_path: Path) -> None:
    """The hub listens elsewhere; carriers that run stay; the old address is free again."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            carriers = list(link(hubs.a, "b").core.carriers)
            port = free_port()
            hubs.b_place.write(listen=f"127.0.0.1:{port}")
            await hubs.b.reload()
            assert endpoint_of(hubs.b) == f"127.0.0.1:{port}"
            assert link(hubs.a, "b").core.carriers == carriers

    run_loop(scenario())


def test_endpoint_is_corrected(run_loop: RunLoop, tmp_path: Path) -> None:
    """Dialled at once after the reload, whatever back-off had come to."""

    async def scenario() -> None:
        a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b").make()
        b.add_peer(a)
        async with running(b) as hub_b:
            a.add_peer(b, endpoints=[f"127.0.0.1:{free_port()}"])
            async with running(a) as hub_a:
                hub_a.services.random = lambda: 0.999
                await until(lambda: link(hub_a, "b").last_error is not None)
                link(hub_a, "b").dialler._backoff.attempts = 100
                a.add_peer(b, endpoints=[endpoint_of(hub_b)])
                await hub_a.reload()
                await up(hub_a, "b")

    run_loop(scenario())


def test_limits_change(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            hubs.a_place.write('[limits]\nmemory = "16MiB"\nstreams_per_peer = 1\nhandshakes = 4\n', times=TIMES)
            await hubs.a.reload()
            assert hubs.a.services.budget.limit == 16 << 20
            async with connected(mail_port(hubs.a, "b")):
                await mta.next()
                async with connected(mail_port(hubs.a, "b")) as (reader, _):
                    assert (await read_all(reader)).startswith(b"421 4.4.1 hubtunnel: mx.b.example: told: limit:")

    run_loop(scenario())


def test_both_hubs_reload_at_once(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            for _ in range(5):
                await asyncio.gather(hubs.a.reload(), hubs.b.reload(), hubs.a.reload(), hubs.b.reload())
            async with connected(mail_port(hubs.a, "b")):
                await mta.next()

    run_loop(scenario())


def test_link_key_that_the_peer_retired(run_loop: RunLoop, tmp_path: Path) -> None:
    """b's next card, given by hand, leaves a key out: the carrier that rests on it is replaced, and nobody notices."""

    async def scenario() -> None:
        a, b = Place(tmp_path / "a", "a").make(), Place(tmp_path / "b", "b").make()
        first = b.card
        newer = link_key("b", 1, begin=b.begin, end=b.end)
        fields = {"serial": 2, "previous": first.card.hash, "link_keys": (link_public(newer),)}
        second = SignedCard.sign(
            Card.build(name=first.card.name, issued=first.card.issued, identity=identity("b").public, **fields),
            identity("b"),
        )
        with State.open(b.folder / "state", write=True) as state:
            state.add_link_key(newer)
            state.add_card(second)
        async with Mta() as mta:
            b.add_peer(a, deliver=mta.address)
            async with running(b) as hub_b:
                path = a.add_peer(b, card=first, endpoints=[endpoint_of(hub_b)])
                async with running(a) as hub_a:
                    hub_a.services.move_spread = 0.0
                    await up(hub_a, "b")
                    (before,) = link(hub_a, "b").core.carriers
                    assert before.established.theirs.id == first.card.link_keys[0].id
                    async with talking(hub_a, "b", mta) as talk:
                        path.with_suffix(".card").write_text(armour_all([second]))
                        await hub_a.reload()  # b may have sent it by itself before
                        await until(
                            lambda: link(hub_a, "b").core.ready and before not in link(hub_a, "b").core.carriers
                        )
                        (after,) = link(hub_a, "b").core.carriers
                        assert after.established.theirs.id == newer.id
                        await talk.back(b"220\r\n")

    run_loop(scenario())


def test_delivery_changes_at_once_and_under_nobody(run_loop: RunLoop, tmp_path: Path) -> None:
    """What is under way stays with the MTA where it began; the next conversation goes to the new one."""

    async def scenario() -> None:
        async with Mta() as old, Mta() as new, pair(tmp_path, old.address) as hubs:
            carriers = list(link(hubs.a, "b").core.carriers)
            async with connected(mail_port(hubs.a, "b")) as (reader, _):
                _, far_old = await old.next()
                hubs.b_place.add_peer(hubs.a_place, deliver=new.address)
                assert await hubs.b.reload() == {"added": [], "removed": [], "changed": [name_of("a")]}
                async with connected(mail_port(hubs.a, "b")) as (reader_2, _):
                    _, far_new = await new.next()
                    far_new.write(b"220 new\r\n")
                    far_old.write(b"220 old\r\n")
                    assert await read_exactly(reader_2, 9) == b"220 new\r\n"
                    assert await read_exactly(reader, 9) == b"220 old\r\n"
            assert old.connections.empty()
            assert link(hubs.a, "b").core.carriers == carriers

    run_loop(scenario())


def test_log_changes_at_once(run_loop: RunLoop, tmp_path: Path) -> None:
    async def scenario() -> None:
        place = Place(tmp_path / "a", "a").make('[log]\nlevel = "warning"\n')
        async with running(place) as hub:
            logs.configure("text", "warning")
            place.write('[log]\nlevel = "debug"\nformat = "json"\n')
            await hub.reload()
            assert logs.log.level == logging.DEBUG
            assert isinstance(logs.log.handlers[0].formatter, logs.JsonFormatter)

    run_loop(scenario())


def test_what_waits_for_the_next_session_is_named(run_loop: RunLoop, tmp_path: Path) -> None:
    """Times of sessions hold for those begun from now on; times of streams and of the end for all."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            hubs.a_place.write(times=TIMES.replace('keepalive = "15s"', 'keepalive = "7s"\nidle = "11m"'))
            changes = await hubs.a.reload()
            assert changes["later"] == ["[session] keepalive"]
            assert link(hubs.a, "b").core.settings.keepalive == 7
            assert "later" not in await hubs.a.reload()

    run_loop(scenario())


def test_no_descriptors_for_what_is_new(run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing changes, not even in part; with descriptors again the same reload goes through."""
    left = 1

    def duplicate(sock: socket.socket, what: str) -> socket.socket:
        nonlocal left
        left -= 1
        if left < 0:
            raise sockets.ListenError(f"{what}: Too many open files")
        return real(sock, what)

    real = sockets.duplicate

    async def scenario() -> None:
        nonlocal left
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            before, carriers = hubs.b.config, list(link(hubs.a, "b").core.carriers)
            hubs.b_place.add_peer(Place(tmp_path / "c", "c"))
            monkeypatch.setattr(sockets, "duplicate", duplicate)
            with pytest.raises(ConfigError, match="Too many open files"):
                await hubs.b.reload()
            assert hubs.b.config is before
            assert list(hubs.b.links) == [name_of("a")]
            left = 100
            await hubs.b.reload()
            assert sorted(hubs.b.links) == [name_of("a"), name_of("c")]
            async with connected(mail_port(hubs.a, "b")):
                await mta.next()
            assert link(hubs.a, "b").core.carriers == carriers

    run_loop(scenario())


def test_end_waits_for_a_reload_that_is_under_way(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to stop between reading and taking over: the reload is whole, and one that comes later is refused."""
    begun, go_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> Config:
        begun.set()
        assert go_on.wait(PATIENCE)
        return load(path)

    async def scenario() -> None:
        place = Place(tmp_path / "b", "b").make()
        other = Place(tmp_path / "c", "c").make()
        async with running(place) as hub:
            monkeypatch.setattr(hub_module, "load", slowly)
            place.add_peer(other, endpoints=[])
            reloading = asyncio.create_task(hub.reload())
            await asyncio.to_thread(begun.wait)
            ending = asyncio.create_task(hub.end())
            await asyncio.sleep(0)
            go_on.set()
            assert (await reloading)["added"] == [name_of("c")]
            await ending
            with pytest.raises(HubtunnelError, match="stopping"):
                await hub.reload()

    run_loop(scenario())
