"""Real hubs in this process: real state folders, real sockets on loopback, no shortcuts through the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hubtunnel.config import load
from hubtunnel.daemon import logs
from hubtunnel.daemon.hub import Hub
from hubtunnel.daemon.link import PeerLink
from hubtunnel.daemon.notify import Notifier
from hubtunnel.identity.armour import armour_all
from hubtunnel.identity.card import NO_CARD, Card, SignedCard, link_public
from hubtunnel.identity.fingerprint import to_text
from hubtunnel.identity.pins import load_hub
from hubtunnel.identity.state import State
from hubtunnel.protocol.pair import LinkSecret
from tests.conftest import RESERVED
from tests.identity.making import identity, link_key

HOUR = 3600
DAY = 24 * HOUR
PATIENCE = 30.0  # seconds that anything may take which is expected to happen; nothing ever waits for it to be over

# Short, so that a test of what happens when a time is over does not take that time.
TIMES = 'linger = "20s"\nhold = "5s"\nkeepalive = "15s"\ndrain = "5s"\n'


def name_of(who: str) -> str:
    return f"mx.{who}.example"


def signed_card(who: str, begin: int, end: int, *, number: int = 0, ahead: tuple[LinkSecret, ...] = ()) -> SignedCard:
    """The first card of `who`, with one link key of that window, and those made ahead."""
    key = link_key(who, number, begin=begin, end=end)
    fields: dict[str, Any] = {
        "name": name_of(who),
        "serial": 1,
        "previous": NO_CARD,
        "issued": begin,  # the same whenever it is asked for: two cards of one serial would be a fork
        "identity": identity(who).public,
        "link_keys": (link_public(key), *map(link_public, ahead)),
    }
    return SignedCard.sign(Card.build(**fields), identity(who))


@dataclass
class Place:
    """A hub's folder, from which any number of daemons can be started one after another."""

    folder: Path
    who: str
    begin: int = field(default_factory=lambda: int(time.time()) - 2 * HOUR)
    end: int = field(default_factory=lambda: int(time.time()) + 100 * 24 * HOUR)
    number: int = 0
    ahead: tuple[LinkSecret, ...] = ()

    @property
    def config(self) -> Path:
        return self.folder / "hubtunnel.toml"

    @property
    def card(self) -> SignedCard:
        return signed_card(self.who, self.begin, self.end, number=self.number, ahead=self.ahead)

    def make(self, settings: str = "", *, listen: str = "127.0.0.1:0", times: str = TIMES) -> Place:
        """State and configuration. `settings` are further sections."""
        self.folder.mkdir(parents=True)
        with State.create(self.folder / "state") as state:
            state.add_identity(identity(self.who))
            for key in (link_key(self.who, self.number, begin=self.begin, end=self.end), *self.ahead):
                state.add_link_key(key)
            state.add_card(self.card)
        self.write(settings, listen=listen, times=times)
        (self.folder / "peers.d").mkdir()
        return self

    def write(self, settings: str = "", *, listen: str = "127.0.0.1:0", times: str = TIMES) -> None:
        """The hub's own configuration file."""
        text = f'name = "{name_of(self.who)}"\nstate = "state"\nlisten = ["{listen}"]\n[session]\n{times}{settings}'
        self.config.write_text(text)

    def add_peer(
        self,
        other: Place | str,
        *,
        card: SignedCard | None = None,
        endpoints: list[str] | None = None,
        deliver: tuple[str, int] | None = None,
        proxy: str = "none",
        extra: str = "",
        probe: bool = False,
    ) -> Path:
        """`peers.d/NAME.toml` and the card. The MTAs of most tests say what the test says, and nothing to a probe."""
        who = other if isinstance(other, str) else other.who
        if card is None and isinstance(other, Place):
            card = other.card
        path = self.folder / "peers.d" / f"{name_of(who)}.toml"
        lines = [
            f'name = "{name_of(who)}"',
            f'pin = "{to_text(identity(who).public.idfp)}"',
            f"endpoints = {endpoints or []}".replace("'", '"'),
            'listen = "127.0.0.1:0"',
            extra,
            "[deliver]",
            f'proxy_protocol = "{proxy}"',
            f"probe = {str(probe).lower()}",
        ]
        if deliver is not None:
            lines.append(f'address = "{deliver[0]}:{deliver[1]}"')
        path.write_text("\n".join(lines) + "\n")
        if card is not None:
            path.with_suffix(".card").write_text(armour_all([card]))
        return path


@contextlib.asynccontextmanager
async def running(place: Place) -> AsyncIterator[Hub]:
    """A daemon on this place, started as `hubtunnel run` does, but for signals."""
    config = load(place.config)
    with State.open(config.state, write=True) as state:
        hub = Hub(config, load_hub(config, state), state, notifier=Notifier({}))
        try:
            await hub.start()
            yield hub
        finally:
            await hub.end()


def link(hub: Hub, who: str) -> PeerLink:
    return hub.links[name_of(who)]


def endpoint_of(hub: Hub) -> str:
    """Where the hub listens for carriers."""
    host, port = hub.gate.addresses[0]
    return f"{host}:{port}"


def mail_port(hub: Hub, who: str) -> tuple[str, int]:
    """Where the hub takes mail for a peer."""
    address = link(hub, who).local.address
    assert address is not None
    return address


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something that is expected; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was expected did not happen"
        await asyncio.sleep(0.005)


async def up(hub: Hub, who: str) -> None:
    """Wait until streams can be opened."""
    await until(lambda: link(hub, who).core.ready)


def drop(hub: Hub, who: str) -> None:
    """End the session with a peer; the hubs begin another."""
    link(hub, who).core.close(1, link(hub, who).now())
    link(hub, who).touch()


def free_port() -> int:
    """A port where nobody listens, and which the kernel gives to nobody else as long as the test runs."""
    return RESERVED.reserve()


@dataclass
class Pair:
    """Two hubs that are up; `a` dialled `b`."""

    a: Hub
    b: Hub
    a_place: Place
    b_place: Place


@contextlib.asynccontextmanager
async def pair(
    folder: Path,
    deliver: tuple[str, int],
    *,
    settings: str = "",
    b_settings: str | None = None,
    times: str = TIMES,
    a_endpoint: Callable[[str], str] = lambda endpoint: endpoint,
    proxy: str = "none",
    extra: str = "",
) -> AsyncIterator[Pair]:
    """Hubs a and b with a session between them. What comes out at either end goes to `deliver`.

    `settings` are both hubs', unless b has others.
    """
    a = Place(folder / "a", "a").make(settings, times=times)
    b = Place(folder / "b", "b").make(settings if b_settings is None else b_settings, times=times)
    b.add_peer(a, deliver=deliver, proxy=proxy, extra=extra)
    async with running(b) as hub_b:
        a.add_peer(b, deliver=deliver, endpoints=[a_endpoint(endpoint_of(hub_b))], proxy=proxy, extra=extra)
        async with running(a) as hub_a:
            await up(hub_a, "b")
            await up(hub_b, "a")
            yield Pair(hub_a, hub_b, a, b)


# --- MTAs ------------------------------------------------------------------------------------------------------


class Mta:
    """Listens as a local MTA does; hands out the connections that come, in order."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._all: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Mta:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._all:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @property
    def address(self) -> tuple[str, int]:
        assert self._server is not None
        name = self._server.sockets[0].getsockname()
        return name[0], name[1]

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._all.append(writer)
        self.connections.put_nowait((reader, writer))

    async def next(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(PATIENCE):
            return await self.connections.get()


@contextlib.asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection as our MTA makes it."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """Everything up to a clean end; a reset raises `ConnectionResetError`."""
    async with asyncio.timeout(PATIENCE):
        return await reader.read(-1)


async def read_exactly(reader: asyncio.StreamReader, n: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await reader.readexactly(n)


@dataclass(frozen=True)
class Talk:
    """A conversation of two mail servers: the end at ours, and the far one at the peer's."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    far_reader: asyncio.StreamReader
    far_writer: asyncio.StreamWriter

    async def there(self, data: bytes) -> None:
        """What our mail server says comes out at the peer's."""
        self.writer.write(data)
        assert await read_exactly(self.far_reader, len(data)) == data

    async def back(self, data: bytes) -> None:
        """What the peer's mail server says comes out at ours."""
        self.far_writer.write(data)
        assert await read_exactly(self.reader, len(data)) == data


@contextlib.asynccontextmanager
async def talking(hub: Hub, who: str, mta: Mta) -> AsyncIterator[Talk]:
    """A conversation that `hub`'s mail server begins with that of a peer, which is `mta`."""
    async with connected(mail_port(hub, who)) as near:
        yield Talk(*near, *await mta.next())


def quiet() -> None:
    """No log on the terminal."""
    logs.configure("text", "critical")
