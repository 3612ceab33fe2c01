"""The short form of the search (PROTOCOL.md 5 to 7), and faults put into the core that it must find.

The long form is `python -m tests.protocol.explorer --depth N --json FILE`; results of it are in `results/`.
"""

from __future__ import annotations

import pytest

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.link import Link
from hubtunnel.protocol.ratchet import Input, Ratchet
from hubtunnel.protocol.schedule import Secrets
from hubtunnel.protocol.session import Session
from tests.protocol.explorer import SCENARIOS, Found, Scenario, Search

pytestmark = pytest.mark.interpreted  # worlds are pickled

WIDE = ("everything", "overlapping carriers")  # two steps of these are as many states as three of others


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_interleaving_to_a_small_depth(name: str) -> None:
    """Nothing that can happen in a few steps, in any order, breaks an invariant or leads where no way leads out."""
    result = Search(name, 2 if name in WIDE else 3, replay_every=100).run()
    assert result.complete
    assert result.states > 30
    assert result.transitions > result.states
    assert result.continuations


def found(scenario: Scenario, depth: int) -> str:
    """What a search finds."""
    with pytest.raises(Found) as caught:
        Search("seeded fault", depth, scenario=scenario).run()
    return str(caught.value)


RATCHET = Scenario(True, {"rekey": 1})
LATE = Scenario(True, {"dial": 2, "cut": 2})
OVERLAP = Scenario(True, {"again": 1, "write": 1})


def test_nothing_is_found_without_a_fault() -> None:
    """Control: the searches that find the faults below find nothing in the code as it is."""
    for scenario, depth in ((RATCHET, 9), (LATE, 7), (OVERLAP, 6)):
        assert Search("control", depth, scenario=scenario).run().complete


def test_fault_responder_keeps_no_pending_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """RS9: a responder that forgets the pending root cannot be resumed from once the initiator has turned."""

    def answer_ready(self: Ratchet, rk2: bytes, secrets: Secrets) -> bytes:
        self._move(Input.ANSWER_READY)
        self._pending = secrets
        return rk2

    monkeypatch.setattr(Ratchet, "answer_ready", answer_ready)
    assert "roots of one session differ" in found(RATCHET, 9)


def test_fault_old_dials_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """RS1: without the order of dials a RESUME that arrives late takes the session away from its initiator."""
    original = Link._first_record

    def without_order(self: Link, *arguments: object) -> None:
        self._dials.clear()
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Link, "_first_record", without_order)
    assert "roots of one session differ" in found(LATE, 7)


def test_fault_old_carrier_is_read_after_the_offset_was_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """RS5: bytes of the old carrier that come after RESUME are counted twice."""
    original = Session.drop_carrier

    def left_open(self: Session, code: str, text: str, now: float, *, fault: bool = False) -> None:
        if code == "replaced" and self.initiator:
            self.carrier = None
        else:
            original(self, code, text, now, fault=fault)

    monkeypatch.setattr(Session, "drop_carrier", left_open)
    assert "honest peer" in found(OVERLAP, 6)


def test_fault_nonces_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """RC1: a counter that goes back uses a key and nonce twice."""
    original = Carrier.queue_pong

    def back(self: Carrier, token: bytes) -> None:
        original(self, token)
        if self._key is not None:
            self._key.counter = 0

    monkeypatch.setattr(Carrier, "queue_pong", back)
    assert "used twice" in found(Scenario(False, {"dial": 1}), 4)


def test_fault_drained_session_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """GA4: a session that is drained and never closed keeps the link from ever being ready again."""
    monkeypatch.setattr(Session, "_finish_if_drained", lambda self, now: None)
    assert "no ready link" in found(Scenario(True, {"drain": 1}), 2)


def test_key_steps_of_both_directions_are_out_of_the_searches_reach() -> None:
    """Counters are no part of a state (`canonical`); that is right as long as no way is as long as a key step."""
    longest = max(sum(scenario.allowed.values()) for scenario in SCENARIOS.values())
    assert longest * 10 < c.KEY_STEP_RECORDS
