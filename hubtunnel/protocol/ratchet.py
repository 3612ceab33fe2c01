"""Roots and the ratchet step: the same key exchange again, inside the session (PROTOCOL.md 6).

initiator   IDLE ──begin──► OFFERING ──job──► OFFERED ──RK2──► VERIFYING ──job──► IDLE (n+1)
responder   IDLE ──RK1───► ANSWERING ──job──► ANSWERED ──RK3──► IDLE (n+1)
either      any ──carrier lost──► IDLE        (the responder keeps a pending root; nothing else survives)
"""

from __future__ import annotations

from enum import Enum

from hubtunnel import crypto
from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import schedule
from hubtunnel.protocol.constants import Record
from hubtunnel.protocol.events import Job
from hubtunnel.protocol.pair import LinkPublic, LinkSecret
from hubtunnel.protocol.schedule import Offer, Secrets


class Step(Enum):
    """Where a ratchet step is."""

    IDLE = "idle"
    OFFERING = "offering"
    OFFERED = "offered"
    VERIFYING = "verifying"
    TURNING = "turning"
    ANSWERING = "answering"
    ANSWERED = "answered"


class Input(Enum):
    """What moves a ratchet step."""

    BEGIN = "begin"
    OFFER_READY = "offer_ready"
    RK2 = "RK2"
    VERIFIED = "verified"
    TURNED = "turned"
    RK1 = "RK1"
    ANSWER_READY = "answer_ready"
    RK3 = "RK3"


# The tables of PROTOCOL.md 6; a pair that is missing ends the carrier.
INITIATOR: dict[tuple[Step, Input], Step] = {
    (Step.IDLE, Input.BEGIN): Step.OFFERING,
    (Step.OFFERING, Input.OFFER_READY): Step.OFFERED,
    (Step.OFFERED, Input.RK2): Step.VERIFYING,
    (Step.VERIFYING, Input.VERIFIED): Step.TURNING,
    (Step.TURNING, Input.TURNED): Step.IDLE,
}
RESPONDER: dict[tuple[Step, Input], Step] = {
    (Step.IDLE, Input.RK1): Step.ANSWERING,
    (Step.ANSWERING, Input.ANSWER_READY): Step.ANSWERED,
    (Step.ANSWERED, Input.RK3): Step.IDLE,
}


class Ratchet:
    """The roots of one session and the step in flight.

    `roots` holds what RESUME may name: one root at the initiator, at most two at the responder. `index` is that of the
    root under which the session runs now.
    """

    __slots__ = ("_offer", "_pending", "_rk1", "_table", "confirming", "d", "index", "initiator", "roots", "step", "th")

    def __init__(self, *, initiator: bool, root: bytes, th: bytes, d: bytes) -> None:
        self.initiator = initiator
        self.index = 0
        self.roots: dict[int, bytes] = {0: root}
        self.th = th
        self.d = d
        self.step = Step.IDLE
        self.confirming = False  # RS9: RESUMED was sent, the initiator's next record has not come yet
        self._table = INITIATOR if initiator else RESPONDER
        self._offer: Offer | None = None
        self._pending: Secrets | None = None
        self._rk1 = b""

    def _move(self, event: Input) -> None:
        self.step = self._next(event)

    def _next(self, event: Input) -> Step:
        try:
            return self._table[self.step, event]
        except KeyError:
            raise ProtocolError(f"{event.value} while the ratchet is {self.step.value}", "bad_record") from None

    def check_allowed(self, kind: Record) -> None:
        """Raise `ProtocolError` for a record that the tables of section 6 do not allow now."""
        self._next(Input(kind.name))

    # --- initiator ------------------------------------------------------------------------------------------

    def begin(self, theirs: LinkPublic, seed: bytes) -> Job:
        """RT4: make RK1."""
        self._move(Input.BEGIN)
        return Job(self, lambda: schedule.make_offer(seed, theirs))

    def offer_ready(self, offer: Offer) -> bytes:
        """RT4: RK1, to be sent in epoch n."""
        self._move(Input.OFFER_READY)
        self._offer = offer
        self._rk1 = offer.public
        return offer.public

    def read_rk2(self, rk2: bytes, own: LinkSecret, theirs: LinkPublic) -> Job:
        """RT6: verify the answer."""
        self._move(Input.RK2)
        offer, self._offer = self._offer, None
        assert offer is not None
        chain, h1 = self._chain_and_hash(self._rk1)
        return Job(self, lambda: schedule.complete_offer(offer, own, theirs, chain, h1, rk2))

    def verified(self, secrets: Secrets | None) -> tuple[bytes, Secrets]:
        """RT6: (RK3, keys); root n is deleted here. Raises `ProtocolError` when auth_R was wrong."""
        self._move(Input.VERIFIED)
        if secrets is None:
            raise ProtocolError("RK2 does not verify", "bad_ratchet")
        self._commit(secrets)
        return secrets.auth_i(), secrets

    def turned(self) -> None:
        """RT6: the first record of the new epoch was received: the step is complete."""
        self._move(Input.TURNED)

    # --- responder ------------------------------------------------------------------------------------------

    def read_rk1(self, rk1: bytes, own: LinkSecret, theirs: LinkPublic, seed: bytes) -> Job:
        """RT7: make RK2."""
        self._move(Input.RK1)
        chain, h1 = self._chain_and_hash(rk1)
        return Job(self, lambda: schedule.answer_offer(seed, own, theirs, chain, h1, rk1))

    def answer_ready(self, rk2: bytes, secrets: Secrets) -> bytes:
        """RT7: RK2, to be sent in epoch n; from here on the pending root may be resumed from."""
        self._move(Input.ANSWER_READY)
        self._pending = secrets
        self.roots = {self.index: self.roots[self.index], self.index + 1: secrets.root}
        return rk2

    def read_rk3(self, rk3: bytes) -> Secrets:
        """RT8: verify auth_I; root n is deleted here."""
        secrets = self._pending
        self._move(Input.RK3)
        assert secrets is not None
        if not crypto.equal(secrets.auth_i(), rk3):
            raise ProtocolError("RK3 does not verify", "bad_ratchet")
        self._commit(secrets)
        return secrets

    # --- both -----------------------------------------------------------------------------------------------

    def _chain_and_hash(self, rk1: bytes) -> tuple[bytes, bytes]:
        following = self.index + 1
        chain = schedule.ratchet_chain(self.roots[self.index], self.d, following)
        return chain, schedule.ratchet_hash(self.th, following, rk1)

    def _commit(self, secrets: Secrets) -> None:
        self.index += 1
        self.roots = {self.index: secrets.root}
        self.th = secrets.transcript()
        self._pending = None
        self._rk1 = b""

    def carrier_lost(self) -> None:
        """RS13: a step in flight is dropped; a pending root stays in `roots`."""
        self.step = Step.IDLE
        self._offer = None
        self._pending = None
        self._rk1 = b""

    # --- resume ---------------------------------------------------------------------------------------------

    def resume(self, m: int, root_new: bytes, th_new: bytes, d_new: bytes) -> None:
        """RS7: go on from root m. The responder keeps root m until the initiator's next record; any step is dropped."""
        root_m = self.roots[m]
        following = schedule.resumed_root(root_m, root_new)
        self.carrier_lost()
        self.index = m + 1
        self.th = th_new
        self.d = d_new
        self.confirming = not self.initiator
        self.roots = {m + 1: following} if self.initiator else {m: root_m, m + 1: following}

    def confirmed(self) -> None:
        """RS9: the initiator's next record came: root m goes."""
        self.confirming = False
        self.roots = {self.index: self.roots[self.index]}
