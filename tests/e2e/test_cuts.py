"""The carrier is cut in the middle of messages, at a counted byte, again and again: no SMTP session may notice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.e2e.carriers import WIRE, cuttable_tunnel, plain_wire, text_of
from tests.e2e.forward import Direction, Forwarder
from tests.e2e.lab import TUNNEL, Laboratory, Site
from tests.e2e.letters import Letter, expected_arrivals, make_letter, make_letters
from tests.e2e.processes import wait_until
from tests.e2e.smtp_client import SmtpClient, UnexpectedReplyError

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

CUTS = 10
BATCH = 20
"""Letters each way that are on their way at each cut."""

LARGE = 7
"""The shape of letter that is far longer than what passes between two cuts."""


def octets_before_cut(number: int) -> int:
    """More than the dialogues of a batch, less than one large letter, and never the same place in a record."""
    return 50_000 + 7_919 * number


class Witness:
    """An SMTP session straight to the tunnel that stays open through all cuts, each time in the middle of a message."""

    def __init__(self, site: Site, other: Site, name: str) -> None:
        self.letters = [
            make_letter(f"{name}{n}", shape=LARGE, sender_domain=site.domain, domain=other.domain) for n in range(CUTS)
        ]
        self._waiting = iter(self.letters)
        self._rest = b""
        self.client = SmtpClient(site.namespace, TUNNEL)

    def begin(self) -> None:
        self._rest = self.client.begin(next(self._waiting))

    def finish(self) -> None:
        self.client.finish(self._rest)


def _mta_has_connected(site: Site) -> bool:
    """A connection to the tunnel stands beside the witness's."""
    return site.namespace.established(*TUNNEL) > 1


def cut_amid(
    lab: Laboratory,
    wire: Forwarder,
    number: int,
    batches: Sequence[tuple[Site, Sequence[Letter]]],
    sites: Sequence[Site],
) -> None:
    """Have the MTAs open sessions, let a counted number of bytes pass, and reset the carrier at that byte.

    The carrier is frozen meanwhile, so no session can be over before the count begins. Fails unless, at the cut, each
    of `sites` has a session of its MTA open beside the witness.
    """
    open_sessions: list[int] = []

    def count_sessions() -> None:
        open_sessions.extend(site.namespace.established(*TUNNEL) for site in sites)

    wire.freeze()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda batch: lab.submit(*batch), batches))
    for site in sites:
        wait_until(
            partial(_mta_has_connected, site),
            f"the MTA of {site.domain} to connect to the tunnel",
            detail=lab.explain,
        )
    before = wire.cuts
    direction = Direction.OUTWARD if number % 2 == 0 else Direction.INWARD
    wire.cut_after(direction, octets_before_cut(number), count_sessions)
    wait_until(lambda: wire.cuts == before + 1, f"cut {number}", detail=lab.explain)
    assert min(open_sessions) > 1, open_sessions


@pytest.mark.parametrize("loop_name", ["uvloop", "asyncio"])
def test_no_session_notices_ten_cuts(lab: Laboratory, loop_name: str) -> None:
    """Two hundred letters each way, and a session each way that is half through a message at every one of ten cuts."""
    to_b = make_letters(CUTS * BATCH, prefix="a", sender_domain=lab.a.domain, domains=lab.b.domains)
    to_a = make_letters(CUTS * BATCH, prefix="b", sender_domain=lab.b.domain, domains=lab.a.domains)
    with cuttable_tunnel(lab, loop_name=loop_name) as (carrier, wire):
        session = carrier.hubs[0].peer_status()["session"]["id"]
        witnesses = [Witness(lab.a, lab.b, "wa"), Witness(lab.b, lab.a, "wb")]
        with witnesses[0].client, witnesses[1].client:
            for number in range(CUTS):
                if number % 2 == 0:
                    # A carrier that held for a minute is replaced at once. These hold for a second: endpoints that
                    # changed make the next dial as prompt, and are put in force with all sessions open.
                    fallback = text_of((WIRE[0], WIRE[1] + 1 + number))
                    carrier.hubs[0].move_peer(carrier.hubs[1], text_of(WIRE), fallback)
                for witness in witnesses:
                    witness.begin()
                part = slice(number * BATCH, (number + 1) * BATCH)
                cut_amid(lab, wire, number, [(lab.a, to_b[part]), (lab.b, to_a[part])], [lab.a, lab.b])
                for witness in witnesses:
                    witness.finish()
        to_b += witnesses[0].letters
        to_a += witnesses[1].letters
        lab.wait_for_arrivals(lab.b, to_b)
        lab.wait_for_arrivals(lab.a, to_a)
        lab.wait_until_quiet()
        carrier.wait_until_idle()
        for hub in carrier.hubs:
            status = hub.peer_status()
            assert status["session"]["id"] == session
            assert status["session"]["resumed"] >= CUTS
            assert status["streams"]["reset"] == 0

    assert wire.cuts == CUTS
    assert lab.arrivals(lab.b) == expected_arrivals(to_b)
    assert lab.arrivals(lab.a) == expected_arrivals(to_a)
    assert lab.trouble() == []


def test_the_same_cut_is_noticed_where_nothing_resumes(lab: Laboratory) -> None:
    """The control: through a plain carrier the witness and the MTA both see their sessions break."""
    letters = make_letters(BATCH, prefix="a", sender_domain=lab.a.domain, domains=lab.b.domains)
    with plain_wire(lab) as wire:
        witness = Witness(lab.a, lab.b, "wa")
        witness.begin()
        cut_amid(lab, wire, 0, [(lab.a, letters)], [lab.a])
        with pytest.raises((OSError, UnexpectedReplyError)):
            witness.finish()
        witness.client.abort()
        wait_until(lambda: "lost connection" in " ".join(lab.trouble()), "Postfix to complain", detail=lab.explain)
