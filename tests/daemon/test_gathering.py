"""What several conversations say at once goes out together, and nobody is kept waiting for it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from hubtunnel.daemon import link as module
from hubtunnel.protocol.constants import FRAME_HEADER_LEN
from tests.conftest import RunLoop
from tests.daemon.hubs import Mta, link, mail_port, pair, talking, until

THREE = 3


@pytest.mark.parametrize(
    ("gather", "records"),
    [
        pytest.param(3600.0, 1, id="while each look finds one more"),
        pytest.param(0.0, 2, id="and no longer than it may"),
    ],
)
def test_who_becomes_ready_meanwhile_shares_the_record(
    run_loop: RunLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gather: float, records: int
) -> None:
    """Each of three mail servers speaks as soon as the hub has read what the one before it said, and not sooner."""
    monkeypatch.setattr(module, "GATHER", gather)

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            near = link(hubs.a, "b")
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(socket.create_connection(mail_port(hubs.a, "b"))) for _ in range(THREE)]
                far = [await mta.next() for _ in range(THREE)]
                waiting = clients[1:]
                touch: Callable[[], None] = near.local.touch

                def read_one_more() -> None:
                    if waiting:
                        waiting.pop(0).send(b"x")
                    touch()

                (session,) = near.core.sessions
                sent = session._send
                before = sent.end
                near.local.touch = read_one_more  # type: ignore[method-assign]
                clients[0].send(b"x")
                await until(lambda: sent.end == before + THREE * (FRAME_HEADER_LEN + 1))
                assert sum(end > before for end, _ in sent._kept) == records
                for reader, _ in far:
                    assert await reader.readexactly(1) == b"x"

    run_loop(scenario())


def test_what_must_leave_now_waits_for_nobody(run_loop: RunLoop, tmp_path: Path) -> None:
    """The acknowledgement of a card leaves before the session is cut that rests on what the card revokes."""

    async def scenario() -> None:
        async with Mta() as mta, pair(tmp_path, mta.address) as hubs:
            near = link(hubs.a, "b")
            async with talking(hubs.a, "b", mta), talking(hubs.a, "b", mta):
                (carrier,) = near.core.carriers
                assert carrier.sending is not None
                before = carrier.sending.counter
                near.core.ping(near.now())
                near.touch()
                assert carrier.sending.counter == before
                near.send_now()
                assert carrier.sending.counter == before + 1

    run_loop(scenario())
