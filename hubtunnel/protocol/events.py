"""What the core tells the shell, and the work it asks the shell to do for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubtunnel.protocol.carrier import Carrier
    from hubtunnel.protocol.session import Session
    from hubtunnel.protocol.streams import Stream


class Job:
    """Public-key work that takes long enough to disturb an event loop.

    `run()` may be called in any thread: it touches no state of the core. Its result, or the exception that it raised,
    goes back through `finish()` of whoever issued the job, or nowhere when the issuer is gone.
    """

    __slots__ = ("_work", "owner")

    def __init__(self, owner: object, work: Callable[[], object]) -> None:
        self.owner = owner
        self._work = work

    def run(self) -> object:
        """Do the work."""
        return self._work()


# Events of streams are not frozen: to make one would take three times as long, and there is one for every frame.


@dataclass(slots=True, frozen=True, eq=False)
class CarrierClosing:
    """The core is done with a carrier: send what `data_to_send` still has, then close the TCP connection.

    `code` is a short word for logs (``bad_record``, ``superseded``, ``silent``, ``session_closed`` …), `fault` whether
    the peer or the network did something wrong.
    """

    carrier: Carrier
    code: str
    text: str
    fault: bool


@dataclass(slots=True, frozen=True, eq=False)
class SessionUp:
    """A session is ready for streams: the peer's HELLO is there. Sent once per session."""

    session: Session
    version: str


@dataclass(slots=True, frozen=True, eq=False)
class SessionResumed:
    """A session goes on over a new carrier."""

    session: Session


@dataclass(slots=True, frozen=True, eq=False)
class CarrierLost:
    """A session has no carrier any more; its streams wait up to `linger` for another."""

    session: Session
    why: str


@dataclass(slots=True, frozen=True, eq=False)
class SessionEnded:
    """A session is over; all its streams were reset (their own events came first)."""

    session: Session
    code: int
    text: str
    by_peer: bool


@dataclass(slots=True, frozen=True, eq=False)
class PeerGoingAway:
    """The peer takes no new streams on this session."""

    session: Session
    code: int


@dataclass(slots=True, frozen=True, eq=False)
class Ratcheted:
    """A ratchet step was completed; `index` is that of the new root."""

    session: Session
    index: int


@dataclass(slots=True, eq=False)
class StreamOpened:
    """The peer opened a stream. `source` is what its local MTA came from, where it told us."""

    stream: Stream
    service: str
    source: tuple[str, int] | None


@dataclass(slots=True, eq=False)
class StreamData:
    """Bytes for the local socket. Give `stream.consumed(len(data))` back once the socket took them."""

    stream: Stream
    data: bytes | memoryview


@dataclass(slots=True, eq=False)
class StreamEnd:
    """The peer sends nothing more on this stream (half-close)."""

    stream: Stream


@dataclass(slots=True, eq=False)
class StreamReset:
    """The stream is over in both directions; the local socket gets RST (or a 421, before the first byte)."""

    stream: Stream
    code: int


@dataclass(slots=True, eq=False)
class StreamWritable:
    """What was queued on the stream has drained: the local socket may be read again."""

    stream: Stream


@dataclass(slots=True, frozen=True, eq=False)
class Pong:
    """The answer to `Link.ping`, `rtt` in seconds."""

    token: bytes
    rtt: float


@dataclass(slots=True, frozen=True, eq=False)
class Alarm:
    """A security event that an operator must see: `code` for machines, `text` for people."""

    code: str
    text: str


@dataclass(slots=True, frozen=True, eq=False)
class Notice:
    """Something worth a line in the log that is no alarm."""

    code: str
    text: str


@dataclass(slots=True, frozen=True, eq=False)
class CardReceived:
    """A card came in whole. Verify it, store it so that it survives a crash, then call `Link.card_accepted`, or else
    `Link.card_refused`. It is the peer's, or one of our own that we asked back."""

    session: Session
    serial: int
    data: bytes


@dataclass(slots=True, frozen=True, eq=False)
class CardAcknowledged:
    """The peer holds our card of this number, durably."""

    session: Session
    serial: int


@dataclass(slots=True, frozen=True, eq=False)
class CardRefused:
    """The peer refused a card that we sent; no more cards go to it in this session."""

    session: Session
    serial: int
    code: int


@dataclass(slots=True, frozen=True, eq=False)
class OwnCardsBehind:
    """The peer holds a newer card of ours than we do: our state is a restored backup, or another copy of it signs.

    Sign nothing before what follows has come in; it was asked for."""

    session: Session
    serial: int


Event = (
    CarrierClosing
    | SessionUp
    | SessionResumed
    | CarrierLost
    | SessionEnded
    | PeerGoingAway
    | Ratcheted
    | StreamOpened
    | StreamData
    | StreamEnd
    | StreamReset
    | StreamWritable
    | Pong
    | Alarm
    | Notice
    | CardReceived
    | CardAcknowledged
    | CardRefused
    | OwnCardsBehind
)
