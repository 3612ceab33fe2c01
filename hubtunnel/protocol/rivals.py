"""Two sessions with one peer: dials that cross, restarts, impostors (PROTOCOL.md 7.7).

Sessions compete that are live and for which no GOAWAY was sent or received. Those of one boot are settled by one hub
alone, the one with the smaller identity fingerprint. Those of different boots mean that the peer restarted, or that
somebody holds its link key: both are asked, and only when both have answered is it an alarm.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubtunnel.protocol import constants as c
from hubtunnel.protocol.constants import Code
from hubtunnel.protocol.environment import Environment
from hubtunnel.protocol.events import Alarm, Notice
from hubtunnel.protocol.session import Phase, Session

NEVER = float("inf")


class Rivals:
    """Which session counts. `boot` is the boot of the peer that we take for the old, known one."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._boot: bytes | None = None
        self._deadline = NEVER
        self._ask_anew = False

    def next_deadline(self) -> float:
        """When somebody who was asked should have answered."""
        return self._deadline

    def preferred(self, sessions: Sequence[Session]) -> Session | None:
        """RV2, RV4: the session that takes new streams: of the known boot if one lives, then the smaller sid."""
        if len(sessions) == 1:  # fast path: asked for each stream, and nearly always so
            return sessions[0] if sessions[0].ready else None
        ready = [s for s in sessions if s.ready]
        if not ready:
            return None
        return min(ready, key=lambda s: (s.peer_boot != self._boot, s.sid))

    def on_resumed(self, session: Session) -> None:
        """RV5: a proven RESUME makes a session of the known boot the old one again; everybody is asked anew."""
        if session.peer_boot == self._boot:
            self._ask_anew = True

    def alone(self, session: Session) -> None:
        """The one session that there is has no rival. (What `settle` comes to, on the path of every record.)"""
        self._deadline = NEVER
        self._ask_anew = False
        if session.peer_boot != self._boot and session.live and not session.leaving:
            self._boot = session.peer_boot

    def settle(self, sessions: list[Session], now: float) -> None:
        """Look at the sessions and do what the rules ask."""
        self._deadline = NEVER
        if not sessions:
            return
        rivals = [s for s in sessions if s.live and not s.leaving]
        self._know_boot(sessions, rivals)
        if self._ask_anew:
            self._ask_anew = False
            for session in rivals:
                session.asked_at, session.answered = None, False
        old = [s for s in rivals if s.peer_boot == self._boot]
        new = [s for s in rivals if s.peer_boot != self._boot]
        if len(old) > 1:
            self._settle_crossing(old, now)
        if new:
            self._settle_boots(sessions, old, new, now)

    def _know_boot(self, sessions: list[Session], rivals: list[Session]) -> None:
        """The known boot stays while any session of it may still live; else it is that of the oldest that may."""
        held = any(s.peer_boot == self._boot and not s.leaving for s in sessions)
        if (self._boot is None or not held) and rivals:
            waiting = [s for s in sessions if s.phase is Phase.LOST and s.heard and not s.leaving]
            self._boot = min((*rivals, *waiting), key=lambda s: s.created_at).peer_boot

    def _settle_crossing(self, rivals: list[Session], now: float) -> None:
        """RV1: one hub decides; the smaller sid stays, provided it answers."""
        if self._env.own_idfp > self._env.peer_idfp:
            return
        keep = min(rivals, key=lambda s: s.sid)
        if keep.answered:
            for session in rivals:
                if session is not keep:
                    session.goaway(Code.SUPERSEDED, now)
        else:
            self._ask(keep, now)

    def _settle_boots(self, sessions: list[Session], old: list[Session], new: list[Session], now: float) -> None:
        """RV3–RV7: another boot of the peer is there."""
        for session in (*old, *new):
            self._ask(session, now)
        answered = [s for s in new if s.answered]
        if not answered:
            return
        if any(s.answered for s in old):
            for session in answered:
                self._env.events.append(
                    Alarm(
                        "two_boots",
                        "two processes answer for this peer with its link key: a second copy of it runs, or the key "
                        "was stolen; the newcomer was refused",
                    )
                )
                session.close(Code.REFUSED, "two boots of one peer", now)
            return
        for session in sessions:
            if session.heard and session.carrier is None and session.peer_boot != answered[-1].peer_boot:
                session.shorten_linger(now)

    def _ask(self, session: Session, now: float) -> None:
        """RV1, RV3, RV6: ask once on each carrier. Who does not answer counts as lost; a newcomer is closed."""
        session.ask(now)
        if session.answered or session.asked_at is None:
            return
        at = session.asked_at + c.PING_ANSWER_TIMEOUT
        if now < at:
            self._deadline = min(self._deadline, at)
        elif session.peer_boot == self._boot:
            session.drop_carrier("silent", "no answer to PING while another session is there", now, fault=True)
        else:
            self._env.events.append(
                Notice("newcomer_silent", "a session of another boot of this peer did not answer and was closed")
            )
            session.close(Code.TIMED_OUT, "no answer to PING", now)
