"""One hub with two peers: every pair changes keys for itself, and one that is away keeps nobody waiting."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.cli import key_list
from hubtunnel.config import load
from hubtunnel.daemon.hub import Hub
from hubtunnel.errors import UsageError
from hubtunnel.identity.state import State
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    Mta,
    Place,
    Talk,
    endpoint_of,
    link,
    name_of,
    talking,
    until,
    up,
)
from tests.daemon.living import accepted, acknowledged, ask, keys_in_use, living, serial, settled, trail


def listed(place: Place) -> dict[str, Any]:
    """What `key list --json` says of a hub, less what it asks the daemon for."""
    config = load(place.config)
    with State.open(config.state) as state:
        return key_list.facts(key_list.overview(config, state, time.time()))


def known_to(place: Place) -> dict[str, list[str]]:
    """Which peers know which of the hub's link keys."""
    return {key["id"]: [name.split(".")[1] for name in key["known_to"]] for key in listed(place)["keys"]}


def acknowledged_by(place: Place) -> dict[str, int | None]:
    return {peer["name"].split(".")[1]: peer["acknowledged"] for peer in listed(place)["peers"]}


@dataclass
class Three:
    """Places of hubs a, b and c; a's daemon runs, and the others, which both dial it, can be started."""

    a: Place
    b: Place
    c: Place
    hub: Hub
    mta: Mta


@contextlib.asynccontextmanager
async def three(folder: Path) -> AsyncIterator[Three]:
    """a between b and c, which do not know each other."""
    async with Mta() as mta:
        a, b, c = (settled(folder, who) for who in "abc")
        for peer in (b, c):
            a.add_peer(peer, deliver=mta.address)
        async with living(a) as hub:
            for peer in (b, c):
                peer.add_peer(a, deliver=mta.address, endpoints=[endpoint_of(hub)])
            yield Three(a, b, c, hub, mta)


async def goes_on(talk: Talk) -> None:
    """A command and its answer."""
    await talk.there(b"NOOP\r\n")
    await talk.back(b"250\r\n")


def test_each_pair_moves_on_its_own(run_loop: RunLoop, tmp_path: Path) -> None:
    """b acknowledges and moves while c is away; c comes back on the key that it knows, learns the new one and moves."""

    async def scenario() -> None:
        async with three(tmp_path) as hubs:
            a, hub_a = hubs.a, hubs.hub
            old = a.card.card.link_keys[0].id
            async with living(hubs.b) as hub_b:
                async with living(hubs.c):
                    await up(hub_a, "b")
                    await up(hub_a, "c")
                    await until(lambda: acknowledged(hub_a, "b") == acknowledged(hub_a, "c") == 1)
                await until(lambda: not link(hub_a, "c").core.ready)
                async with talking(hub_a, "b", hubs.mta) as talk:
                    made = (await ask(hub_a, "rotate", at_once=True))["made"][0]["id"]
                    new = bytes.fromhex(made)
                    await until(lambda: keys_in_use(hub_b, "a")[1] == new)
                    await until(lambda: link(hub_a, "b").keys.known.used == made)
                    await goes_on(talk)
                    assert (accepted(hub_b, "a"), serial(hub_a)) == (2, 2)

                    # c knows the old key alone, and `key list` says so; it is not taken away from c.
                    assert acknowledged_by(a) == {"b": 2, "c": 1}
                    assert known_to(a)[made] == ["b"]
                    assert known_to(a)[old.hex()] == ["b", "c"]
                    with pytest.raises(UsageError, match=name_of("c")) as refused:
                        await ask(hub_a, "delete", key=old.hex())
                    assert name_of("b") not in str(refused.value)

                    async with living(hubs.c) as hub_c:
                        hub_c.services.move_spread, hub_c.services.random = 1.0, lambda: 1.0
                        await until(lambda: keys_in_use(hub_c, "a")[1] == old)
                        assert keys_in_use(hub_b, "a")[1] == new, "what c does is no matter between a and b"
                        await until(lambda: keys_in_use(hub_c, "a")[1] == new)
                        await until(lambda: link(hub_a, "c").keys.known.used == made)
                        assert accepted(hub_c, "a") == 2
                        assert acknowledged_by(a) == {"b": 2, "c": 2}
                        assert known_to(a)[made] == ["b", "c"]
                        await goes_on(talk)
                        await ask(hub_a, "delete", key=old.hex())
                        assert not (a.folder / "state" / "keys" / f"{old.hex()}.key").exists()

    run_loop(scenario())


def test_revocation_is_in_force_between_all_pairs(run_loop: RunLoop, tmp_path: Path) -> None:
    """When the command returns nothing rests on the key at any hub, and neither peer's conversation broke."""

    async def scenario() -> None:
        async with three(tmp_path) as hubs:
            a, hub_a = hubs.a, hubs.hub
            stolen = a.card.card.link_keys[0].id
            async with living(hubs.b) as hub_b, living(hubs.c) as hub_c:
                for who in "bc":
                    await up(hub_a, who)
                async with talking(hub_a, "b", hubs.mta) as with_b, talking(hub_a, "c", hubs.mta) as with_c:
                    assert {keys_in_use(hub, "a")[1] for hub in (hub_b, hub_c)} == {stolen}
                    await ask(hub_a, "revoke", key=stolen.hex())
                    for who in "bc":
                        assert stolen not in keys_in_use(hub_a, who)
                    for hub in (hub_b, hub_c):
                        await until(lambda hub=hub: accepted(hub, "a") == serial(hub_a))
                        assert stolen in link(hub, "a").keys.cards.latest.card.revoked
                        assert not any(context.theirs.id == stolen for context in link(hub, "a").contexts)
                        await until(lambda hub=hub: stolen not in keys_in_use(hub, "a"))
                    for talk in (with_b, with_c):
                        await goes_on(talk)
                    await until(lambda: acknowledged_by(a) == {"b": serial(hub_a), "c": serial(hub_a)})
                    (line,) = [key for key in listed(a)["keys"] if key["id"] == stolen.hex()]
                    assert (line["state"], line["private"], line["known_to"]) == ("revoked", False, [])

    run_loop(scenario())
    for who in "bc":
        taken = [
            entry.details["serial"] for entry in trail(Place(tmp_path / who, who)) if entry.what == "card accepted"
        ]
        assert taken == [1, 2, 3]
