"""Carries a session's ratchet steps over its carrier: records in, jobs out, records out (PROTOCOL.md 6)."""

from __future__ import annotations

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.clock import SessionClock
from hubtunnel.protocol.constants import Record
from hubtunnel.protocol.environment import Environment
from hubtunnel.protocol.events import Job
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.ratchet import Ratchet, Step
from hubtunnel.protocol.records import TrafficKey
from hubtunnel.protocol.schedule import Offer, Secrets

_TURNING = Step.TURNING  # asked for every record


class Stepper:
    """The one step that a session may have in flight. Whatever carrier it began on, it ends with that carrier."""

    def __init__(self, env: Environment, clock: SessionClock, owner: object, established: Established) -> None:
        self.ratchet = Ratchet(
            initiator=established.initiator, root=established.root, th=established.th, d=established.d
        )
        self.exempt = False  # RT9: the first step after a resume comes at once
        self._env = env
        self._clock = clock
        self._owner = owner
        self._job: tuple[Job, Carrier] | None = None

    def begin(self, carrier: Carrier, now: float) -> None:
        """RT4: start a step, unless one is in flight."""
        if self.ratchet.step is not Step.IDLE:
            return
        fresh = carrier.established
        self._issue(self.ratchet.begin(fresh.theirs, self._env.seed(fresh.own)), carrier)
        self._clock.on_step_begun(now)

    def record(self, carrier: Carrier, kind: Record, data: bytes, now: float) -> bool:
        """RK1, RK2 or RK3. True: the step is complete. Raises `ProtocolError` where the carrier must end."""
        fresh = carrier.established
        if kind is Record.RK1:
            if self._clock.too_soon(now) and not self.exempt:
                raise ProtocolError("a ratchet step right after the last one", "bad_record")
            self.exempt = False
            seed = self._env.seed(fresh.own)
            self._issue(self.ratchet.read_rk1(data, fresh.own, fresh.theirs, seed), carrier)
            self._clock.on_step_begun(now)
            return False
        if kind is Record.RK2:
            self._issue(self.ratchet.read_rk2(data, fresh.own, fresh.theirs), carrier)
            return False
        secrets = self.ratchet.read_rk3(data)  # RT8
        carrier.epoch += 1
        carrier.switch_reading(TrafficKey(secrets.t_i, carrier.epoch))
        carrier.switch_now(TrafficKey(secrets.t_r, carrier.epoch))
        carrier.queue(Record.PAD, b"")  # one record at once, so that the initiator forgets the old T_R
        self._clock.on_turned()
        self._clock.on_step_done(now)
        return True

    @property
    def receives_old_epoch(self) -> bool:
        """RT6: whether what comes in now is still of the epoch that this step closes."""
        return self.ratchet.step is _TURNING

    def turned(self, now: float) -> None:
        """RT6: the first record of the new epoch came; the initiator's step is complete."""
        self.ratchet.turned()
        self._clock.on_step_done(now)

    def take(self, job: Job) -> Carrier | None:
        """The carrier that a job's result is for; None for a result that came too late."""
        if self._job is None or self._job[0] is not job:
            return None
        carrier = self._job[1]
        self._job = None
        return carrier

    def result(self, carrier: Carrier, result: object) -> bool:
        """Go on with a job's result. True: the initiator has turned its sending side: a new root is in force."""
        if isinstance(result, BaseException):
            raise ProtocolError(f"a ratchet step failed: {type(result).__name__}", "bad_ratchet")
        if isinstance(result, Offer):
            carrier.queue(Record.RK1, self.ratchet.offer_ready(result))
            carrier.silent = False
            return False
        if isinstance(result, tuple):
            carrier.queue(Record.RK2, self.ratchet.answer_ready(*result))  # RT7
            return False
        assert result is None or isinstance(result, Secrets)
        rk3, secrets = self.ratchet.verified(result)  # RT6
        carrier.epoch += 1
        carrier.queue(Record.RK3, rk3)
        carrier.queue_switch(TrafficKey(secrets.t_i, carrier.epoch))
        carrier.expect_epoch(TrafficKey(secrets.t_r, carrier.epoch))
        self._clock.on_turned()
        return True

    def record_while_closing(self, carrier: Carrier, kind: Record, data: bytes, now: float) -> None:
        """7.2, CLOSING: the peer's keys are followed, no step is gone on with. Raises `ProtocolError` as `record`."""
        if kind is Record.RK3:
            self.record(carrier, kind, data, now)
        else:
            self.ratchet.check_allowed(kind)

    def give_up_job(self) -> None:
        """CLOSE was sent: what a job gives has nowhere to go."""
        self._job = None

    def drop(self) -> None:
        """The carrier is gone: so is the step, and what its job will give."""
        self._job = None
        self.ratchet.carrier_lost()

    def _issue(self, job: Job, carrier: Carrier) -> None:
        job.owner = self._owner
        self._job = (job, carrier)
        self._env.jobs.append(job)
