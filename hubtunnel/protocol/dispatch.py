"""Frames of a session to where they belong: greeting, streams, cards, the end (PROTOCOL.md 8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import Frame
from hubtunnel.protocol.environment import Environment
from hubtunnel.protocol.events import PeerGoingAway, SessionUp

if TYPE_CHECKING:
    from hubtunnel.protocol.session import Session


class Dispatcher:
    """Reads the byte stream's frames in order. Everything raised here is a fault that ends the session (FR1)."""

    __slots__ = ("_env", "_parser", "_session")

    def __init__(self, session: Session, env: Environment) -> None:
        self._session = session
        self._env = env
        self._parser = frames.FrameParser()

    def receive(self, plaintext: bytes) -> None:
        """The frames of one DATA record, until one of them ends the session. Raises `ProtocolError`."""
        session = self._session
        receive = session.mux.receive
        for kind, stream, payload in self._parser.feed(plaintext):
            if stream and session.greeted and kind < c.OPTIONAL_FRAME_FROM:  # fast path: mail
                receive(kind, stream, payload)
            else:
                self._frame(kind, payload)
            if not session.up:
                return

    def _frame(self, kind: int, payload: frames.Payload) -> None:
        session = self._session
        if not session.greeted:
            if kind != Frame.HELLO:
                raise ProtocolError("a frame before HELLO")  # FR5
            self._hello(bytes(payload))
        elif kind >= c.OPTIONAL_FRAME_FROM:
            return
        elif kind == Frame.GOAWAY:
            self._goaway(*frames.decode_goaway(bytes(payload)))
        elif kind in (Frame.HELLO, Frame.RECEIPT, Frame.RECEIPT_ACK):
            raise ProtocolError(f"a {Frame(kind).name} frame out of place")  # FR4, FR5
        else:
            session.cards.receive(kind, bytes(payload))

    def _hello(self, payload: bytes) -> None:
        """FR6: what the peer cannot do without, we must have."""
        hello = frames.decode_hello(payload)
        missing = sorted(set(hello.requires) - set(self._env.settings.capabilities))
        if missing:
            lacking = frames.printable(", ".join(missing))
            raise ProtocolError(
                f"the peer (hubtunnel {hello.version}) requires what is lacking here: {lacking}", "required_capability"
            )
        self._session.greeted_by(hello)
        self._env.events.append(SessionUp(self._session, hello.version))

    def _goaway(self, code: int, last: int) -> None:
        """GA1, GA5: our streams above `last` are answered one by one with RESET; there is nothing to be done here."""
        self._session.mux.check_last(last)
        if self._session.goaway_received != code:
            self._session.goaway_received = code
            self._env.events.append(PeerGoingAway(self._session, code))
