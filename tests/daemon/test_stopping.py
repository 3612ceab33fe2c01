"""A hub that stops: what is under way ends first, and nothing that begins meanwhile holds it up."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from hubtunnel.daemon import link as link_module
from hubtunnel.daemon.link import PeerLink
from hubtunnel.daemon.services import Services
from hubtunnel.protocol.events import SessionUp
from tests.conftest import RunLoop
from tests.daemon.hubs import (
    PATIENCE,
    TIMES,
    Mta,
    Place,
    connected,
    endpoint_of,
    link,
    mail_port,
    name_of,
    read_all,
    running,
    until,
    up,
)

LONG = re.sub(r'drain = ".*"', 'drain = "1h"', TIMES)  # whatever ends in these tests ends by itself


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Services, str]]:
    """Every session that became ready: whose, and the peer's name."""
    seen: list[tuple[Services, str]] = []
    real = PeerLink._on_session_up

    def noted(self: PeerLink, happened: SessionUp) -> None:
        seen.append((self.services, self.name))
        real(self, happened)

    monkeypatch.setitem(link_module._HANDLERS, SessionUp, noted)
    return seen


@pytest.mark.parametrize("dials", ["the peer", "the hub"])
def test_a_session_that_begins_meanwhile_does_not_hold_the_end_up(
    run_loop: RunLoop, tmp_path: Path, begun: list[tuple[Services, str]], dials: str
) -> None:
    """b waits for c's conversation. a's session is over at once, and whoever dials it would begin another."""

    async def scenario() -> None:
        a, b, c = (Place(tmp_path / who, who).make(times=LONG) for who in "abc")
        async with Mta() as mta, running(a) as hub_a:
            a.add_peer(b, deliver=mta.address)
            if dials == "the hub":
                await hub_a.reload()
            b.add_peer(c, deliver=mta.address)
            b.add_peer(a, deliver=mta.address, endpoints=[endpoint_of(hub_a)] if dials == "the hub" else [])
            async with running(b) as hub_b:
                if dials == "the peer":
                    a.add_peer(b, deliver=mta.address, endpoints=[endpoint_of(hub_b)])
                    await hub_a.reload()
                c.add_peer(b, deliver=mta.address, endpoints=[endpoint_of(hub_b)])
                async with running(c) as hub_c:
                    await up(hub_b, "a")
                    await up(hub_c, "b")
                    async with connected(mail_port(hub_c, "b")) as (reader, writer):
                        _far_reader, far_writer = await mta.next()
                        with_a = (hub_b.services, name_of("a"))
                        before = begun.count(with_a)
                        draining = asyncio.create_task(hub_b.drain())
                        await until(lambda: not link(hub_a, "b").core.ready)
                        if dials == "the peer":
                            await until(lambda: begun.count(with_a) > before + 1)
                        await until(lambda: link(hub_b, "a").drained)
                        assert not draining.done()
                        far_writer.write(b"250 taken\r\n")
                        far_writer.write_eof()
                        writer.write_eof()
                        assert await read_all(reader) == b"250 taken\r\n"
                        async with asyncio.timeout(PATIENCE):
                            await draining
                        if dials == "the hub":
                            assert begun.count(with_a) == before

    run_loop(scenario())
