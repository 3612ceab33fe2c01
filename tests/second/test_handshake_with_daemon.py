"""The second implementation and the real daemon: who is let in, by psk, clock and proof; and cards inside a session."""

from __future__ import annotations

import secrets
import time

import pytest

from tests.second import card as cards
from tests.second.conftest import Daemons, MakeLink
from tests.second.daemon import DaemonDials, Link, WeDial
from tests.second.keys import LinkKey

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("role", [WeDial, DaemonDials], ids=["initiator", "responder"])
def test_with_a_psk(daemons: Daemons, make_link: MakeLink, role: type[Link], monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = daemons[role]
    monkeypatch.setattr(daemon.second, "psk", secrets.token_bytes(32))
    with daemon.psk(daemon.second.psk):
        link = make_link(role, fresh=True)
        link.connect().up()
        daemon.end()


@pytest.mark.parametrize("hours_off", [-1, 1])
def test_a_clock_that_is_an_hour_off(make_link: MakeLink, hours_off: int, monkeypatch: pytest.MonkeyPatch) -> None:
    link = make_link(WeDial)
    monkeypatch.setattr(link.second, "hours_off", hours_off)
    link.connect().up()


@pytest.mark.slow
def test_what_a_stranger_sees(make_link: MakeLink) -> None:
    """PC8, RD4, RD5, RD7: four faults, one behaviour: not a byte in answer, and FIN between 10 and 15 s."""
    link = make_link(WeDial)
    strangers = {}
    for what in ("clock", "gate", "replay", "auth_I"):
        link.second.hours_off = 2 if what == "clock" else 0
        strangers[what] = link.connect()
    link.second.hours_off = 0
    strangers["gate"].carrier.out[-1] ^= 1
    strangers["replay"].carrier.out[:] = strangers["auth_I"].carrier.out
    begun = time.monotonic()
    for wire in strangers.values():
        wire.deaf = True
    last = strangers["auth_I"]
    last.until(lambda: last.bytes_received == 2240, "M2")
    last.carrier.out += bytes(32)
    for wire in strangers.values():
        wire.flush()
    for what, wire in strangers.items():
        wire.until_ended()
        assert wire.carrier.log == [], what
        assert wire.bytes_received == (2240 if what == "auth_I" else 0), what
        assert time.monotonic() - begun > 9.5, what


def test_an_answer_that_does_not_verify(make_link: MakeLink) -> None:
    """HS6: the daemon closes at once, sends nothing, and says that this is not the pinned peer."""
    link = make_link(DaemonDials)
    wire = link.connect()
    wire.until_received(lambda: wire.carrier.out)
    assert len(wire.carrier.out) == 2240
    wire.carrier.out[-1] ^= 1
    wire.until_ended()
    assert wire.bytes_received == 2337
    link.wait(lambda: (link.daemon.peer_status()["last_error"] or {}).get("code") == "auth", "the error in `status`")


def test_the_daemon_says_which_card_it_holds(link: Link) -> None:
    wire = link.connect().up()
    wire.until(lambda: wire.session.streams.card_have, "CARD_HAVE")
    assert wire.session.streams.card_have == [(link.second.card.serial, link.second.card.hash)]
    assert link.daemon.peer_status()["card"]["acknowledged"] == link.daemon.card.serial


def test_our_next_card_is_taken_up(link: Link) -> None:
    """CD11, CD12; and the new link key serves at once, for whichever hub dials."""
    wire = link.connect().up()
    second, session, now = link.second, wire.session, int(time.time())
    keys = second.keys | {secrets.token_bytes(8): LinkKey.new()}
    following = cards.issue(second.identity, second.name, keys, issued=now, not_after=now + 86400, before=second.card)
    session.streams.send_card(following)
    wire.until(lambda: session.streams.card_acks or session.streams.card_naks, "an answer to the card")
    assert session.streams.card_acks == [(following.serial, following.hash)]
    second.card, second.keys = following, keys
    wire.cut()
    again = link.resume(session)
    (*_, newest) = keys.values()
    assert again.carrier.pair.own == newest


def test_the_daemons_next_card_is_taken_up(link: Link) -> None:
    """It comes while the session is up, without a CARD_HAVE that asks for it."""
    wire = link.connect().up()
    session = wire.session
    known = len(session.streams.peer_cards)
    rotate = link.daemon.begin_command("key", "rotate", "--now")
    wire.until(lambda: len(session.streams.peer_cards) > known, "the daemon's next card")
    wire.until(lambda: rotate.poll() is not None, "the end of the command")
    following = session.streams.peer_cards[-1]
    assert following.serial == link.daemon.card.serial + 1
    link.daemon.card = link.second.peer = following
    # Our CARD_ACK may still be on its way, or on its way to the disk; cut now, the daemon would rightly dial with the
    # key that it knows us to know (LK2).
    link.wait(lambda: link.daemon.peer_status()["card"]["acknowledged"] == following.serial, "our CARD_ACK in force")
    wire.cut()
    again = link.resume(session)
    assert again.carrier.pair.peer == following.newest(int(time.time())).public
