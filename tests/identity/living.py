"""A hub whose keys live, with a clock of its own, and a fresh peer that reads its chain from the first card on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubtunnel.config import Config, load
from hubtunnel.identity import operations, windows
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.card import Card, SignedCard, link_public
from hubtunnel.identity.chain import accept_chain
from hubtunnel.identity.state import State
from hubtunnel.identity.trail import Trail
from tests.identity import making
from tests.identity.making import NOW

WHO = Caller(4711, "alice")
HOUR = 3600


def hub(folder: Path, who: str = "a", *, peers: Iterable[str] = ("b",), settings: str = "") -> Path:
    """A hub as `init` makes it at NOW: a link key in use and one ahead. Returns the configuration file."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [
        making.link_key(who, 0, NOW - HOUR, NOW + windows.WINDOW),
        making.link_key(who, 1, NOW + windows.ROTATE, NOW + windows.ROTATE + windows.WINDOW),
    ]
    with State.create(folder / "state") as state:
        state.add_identity(making.identity(who))
        for key in keys:
            state.add_link_key(key)
        state.add_card(making.signed(who, link_keys=tuple(link_public(key) for key in keys)))
    path = folder / "hubtunnel.toml"
    path.write_text(f'name = "mx.{who}.example"\nstate = "state"\nlisten = ["127.0.0.1:2625"]\n{settings}')
    for peer in peers:
        making.add_peer(path, peer, making.signed(peer))
    return path


@contextmanager
def opened(config: Path, *, write: bool = True) -> Iterator[tuple[Config, State]]:
    loaded = load(config)
    with State.open(loaded.state, write=write) as state:
        yield loaded, state


def operate(config: Path, name: str, now: float = NOW, **arguments: Any) -> operations.Result:
    """One operation by its name, as a command without a daemon runs it."""
    with opened(config) as (loaded, state):
        return operations.run(operations.Context(state, loaded, now, WHO), name, arguments)


def newest(config: Path) -> Card:
    return cards(config)[-1].card


def cards(config: Path) -> list[SignedCard]:
    with opened(config, write=False) as (_, state):
        return state.cards()


def check(config: Path, now: float = NOW) -> Card:
    """Everything that must hold of a hub's keys whatever happened. Returns its newest card."""
    with opened(config) as (_, state):
        operations.recover(state, WHO, now)
        chain = state.cards()
        taken = accept_chain(chain[0].card.idfp, None, chain)
        assert [signed.card.serial for signed in taken] == list(range(1, len(chain) + 1))
        card = chain[-1].card
        assert state.has_identity()
        assert state.identity().public.idfp == card.idfp
        private = {key.id: key.public for key in state.link_keys()[0]}
        assert not state.link_keys()[1]
        for key in card.link_keys:
            if key.not_after > now:
                assert private[key.id] == key.public, "a key without its private half is listed"
        assert not set(card.revoked) & {key.id for key in card.link_keys}
        assert Trail(state).verify() is not None
        names = {each["card"] for each in (e.details for e in Trail(state).entries()) if "card" in each}
        assert card.serial in names, "a card that is in force does not stand on the trail"
        unfinished = list(state.folder.rglob(".*"))
        assert not unfinished, "what a crash left was not swept"
        return card


def modes(config: Path) -> set[tuple[str, int]]:
    """Every file of the state that anybody else could read."""
    return {
        (path.name, path.stat().st_mode & 0o777)
        for path in (config.parent / "state").rglob("*")
        if path.is_file() and path.stat().st_mode & 0o077 and path.name != "lock"
    }
