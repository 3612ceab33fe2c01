"""Why mail for a peer cannot cross now, in the words that an administrator finds in the mail queue.

The codes are the fixed ones of `errors.Reason`. A responder never says why it is silent, so the
dialler's text for `silent` names everything that it can be, and how to compare.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from hubtunnel.daemon.cures import NOT_DIALLED
from hubtunnel.daemon.logs import rfc3339
from hubtunnel.errors import Reason
from hubtunnel.protocol.constants import code_word

REPLY_MAX = 512  # octets of an SMTP reply line with its CRLF (RFC 5321, 4.5.3.1.5)

_TOLD = {
    "done": "the peer ended the session",
    "drained": "the peer is stopping and takes no new mail",
    "restart": "the peer is restarting",
    "superseded": "the session was given up for another",
    "refused": "the peer refused",
    "limit": "the peer is at its limit of open streams",
    "mta_unreachable": "the tunnel is up, but the peer cannot hand mail to its own MTA (there: hubtunnel status says"
    " why)",
    "mta_failed": "the peer's own MTA broke the connection",
    "broken": "the connection broke at the peer",
    "timed_out": "the peer gave up waiting",
    "protocol": "the peer found a mistake in our protocol",
    "required_capability": "one hub requires what the other's version does not have",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A reason with its text; `at` is unix time."""

    reason: Reason
    text: str
    at: float

    @property
    def line(self) -> str:
        """Code and text, as they stand in replies and logs."""
        return f"{self.reason.value}: {self.text}"


def reply_421(peer: str, why: str) -> bytes:
    """The only SMTP that hubtunnel ever speaks: the greeting of a peer that cannot be reached now.

    One line of printable ASCII within RFC 5321's limit, whatever `why` holds.
    """
    text = "".join(ch if " " <= ch <= "~" else "?" for ch in f"421 4.4.1 hubtunnel: {peer}: {why}")
    return text[: REPLY_MAX - 2].encode("ascii") + b"\r\n"


def code_of(why: str) -> str:
    """The code at the head of a reason's line; of what the peer told, with the peer's word."""
    code, _, text = why.partition(": ")
    return f"{code}: {text.partition(':')[0]}" if code == Reason.TOLD else code


# Of several endpoints' failures the one that says most is told: of the one that got furthest.
_TELLING = (Reason.DNS, Reason.UNREACHABLE, Reason.TIMEOUT, Reason.REFUSED, Reason.SILENT, Reason.TOLD, Reason.AUTH)


def most_telling(failures: Sequence[Failure]) -> Failure:
    """Of several failures of one dial, in the order in which they came, the last of those that got furthest."""
    return max(reversed(failures), key=lambda failure: _TELLING.index(failure.reason))


def from_dns(endpoint: str, exc: OSError, now: float) -> Failure:
    """The endpoint's name did not resolve."""
    return Failure(Reason.DNS, f"{endpoint}: {system_text(exc)}", now)


def from_connect(endpoint: str, address: str, exc: BaseException, now: float) -> Failure:
    """No TCP connection; `exc` is what the system said, or a TimeoutError of our own."""
    where = endpoint if address in endpoint else f"{endpoint} ({address})"
    if isinstance(exc, OSError) and exc.errno == errno.ECONNREFUSED:
        return Failure(Reason.REFUSED, f"{where}: {system_text(exc)}; is the daemon there running?", now)
    if isinstance(exc, TimeoutError) or (isinstance(exc, OSError) and exc.errno == errno.ETIMEDOUT):
        return Failure(Reason.TIMEOUT, f"{where}: no TCP connection within the time; a firewall that drops?", now)
    text = system_text(exc) if isinstance(exc, OSError) else type(exc).__name__
    return Failure(Reason.UNREACHABLE, f"{where}: {text}", now)


def broken_off(endpoint: str, exc: OSError | None, now: float) -> Failure:
    """A handshake that the other side ended, with a reset (`exc`) or without. A hub that is silent stays longer."""
    how = system_text(exc) if exc is not None else "closed by the other side"
    text = (
        f"{endpoint}: broken off during the handshake ({how}); the daemon there may be stopping or at its limit of"
        " handshakes, a firewall in between may end connections, or what listens there is no hub"
    )
    return Failure(Reason.REFUSED, text, now)


def no_descriptor(exc: OSError, now: float) -> Failure:
    """It is this hub that can open no socket."""
    return own_limit(f"no connection can be opened by this hub: {system_text(exc)}", now)


def silent(endpoint: str, peer: str, own_serial: int, psk: bool, now: float) -> Failure:
    """Connected, then nothing: the four causes that a dialler cannot tell apart."""
    held = "we have a PSK" if psk else "we have none"
    text = (
        f"{endpoint} accepted the connection and said nothing. Compare: 1 {peer} may not hold our card {own_serial}, or"
        " we hold an older identity of it (hubtunnel peer show, there and here); 2 a clock may be off by an hour (ours"
        f" {rfc3339(now)[:19]}Z);"
        f" 3 a PSK on one side only ({held}); 4 what listens there may be no hub"
    )
    return Failure(Reason.SILENT, text, now)


def no_keys(peer: str, now: float) -> Failure:
    """Not even dialled: no pair of link keys is within its windows, so the answer could only be silence."""
    text = (
        f"{NOT_DIALLED}: no link key of ours and none of {peer}'s are both within their windows at"
        f" {rfc3339(now)[:19]}Z. Get their newer card (there: hubtunnel card; here: hubtunnel peer update CARD:"
        " it is signed), and give them ours the same way (first hubtunnel key rotate, where key list shows no current"
        " key)"
    )
    return Failure(Reason.SILENT, text, now)


def keys_changed(endpoint: str, now: float) -> Failure:
    """Keys were changed while a handshake ran: the next one takes those in force."""
    return Failure(Reason.SILENT, f"{endpoint}: keys were changed while the handshake ran; dialled again at once", now)


def given_up(endpoint: str, now: float) -> Failure:
    """A dial to move a session that lost its carrier meanwhile."""
    return Failure(Reason.TIMEOUT, f"{endpoint}: given up, since the session lost the carrier that it had", now)


def bad_auth(endpoint: str, now: float) -> Failure:
    """An answer that does not verify: a security event."""
    return Failure(
        Reason.AUTH, f"{endpoint} answered, but not with the pinned peer's keys: a security event, see the log", now
    )


def alarm(text: str, now: float) -> Failure:
    """A security event inside an authenticated session."""
    return Failure(Reason.AUTH, text, now)


def card(text: str, now: float) -> Failure:
    """A card was not taken, here or there; the one before stays in force, and mail goes on."""
    return Failure(Reason.TOLD, text, now)


def told(code: int, detail: str, now: float) -> Failure:
    """What the peer said inside the session."""
    word = code_word(code)
    text = f"{word}: {_TOLD.get(word, 'a reason that this version does not know')}"
    return Failure(Reason.TOLD, f"{text} ({detail})" if detail else text, now)


def own_limit(text: str, now: float) -> Failure:
    """A bound of this hub was reached."""
    return Failure(Reason.TOLD, f"limit: {text}", now)


def not_listed(uid: int, file: str) -> str:
    """A local user who is not our MTA connected."""
    return f"user: connections of uid {uid} are not taken: listen_users in {file}"


def owner_unknown(text: str, file: str) -> str:
    """Whose a connection is could not be told, and some users only may make it."""
    return f"user: whose connection this is cannot be told ({text}), and listen_users in {file} wants to know"


def never(last_heard: float | None, started: float, now: float) -> Failure:
    """We only listen, and the peer has not dialled."""
    since = (
        f"was last connected {rfc3339(last_heard)}"
        if last_heard is not None
        else f"has not dialled since this daemon started {rfc3339(started)}"
    )
    text = (
        f"it dials us (no endpoints here) and {since}; check there: hubtunnel status, its endpoint for us, its firewall"
    )
    return Failure(Reason.NEVER, text, now)


def is_temporary(exc: OSError) -> bool:
    """Whether a name's look-up failed for lack of an answer, and not because there is no such name."""
    return not isinstance(exc, socket.gaierror) or exc.errno in (socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_FAIL)


def system_text(exc: OSError) -> str:
    """What the system says."""
    if isinstance(exc, socket.gaierror):
        return f"name does not resolve: {exc.strerror or exc}"
    return os.strerror(exc.errno) if exc.errno else (str(exc) or type(exc).__name__)
