"""What an administrator does about each reason: one table, shown by `status` and `doctor` and kept in OPERATING.md."""

from __future__ import annotations

from hubtunnel.errors import Reason

CURES: dict[Reason, str] = {
    Reason.DNS: "ask this host's resolver for the name; correct `endpoints` in the peer's file and reload",
    Reason.REFUSED: "is hubtunnel running there, and on that port? (there: `hubtunnel status`)",
    Reason.UNREACHABLE: "look at routes and firewall of this host",
    Reason.TIMEOUT: "a firewall that drops, or a host that is down: try the port from here, and ask there",
    Reason.SILENT: "compare the causes that the text names; the peer's own log (`no_answer_given`) says which it is",
    Reason.AUTH: "a security event: find out who answers there before anything else",
    Reason.TOLD: "the peer's word says it: `restart` and `drained` pass by themselves, `limit` is too many streams or"
    " too little [limits] memory, `mta_unreachable` is its mail server at its [deliver] address",
    Reason.NEVER: "look there: `hubtunnel status`, its endpoint for us, its firewall",
}

_UNKNOWN = "`hubtunnel doctor` looks further"


def cure_of(code: str) -> str:
    """What to do about the reason of this code."""
    return CURES[Reason(code)] if code in Reason.__members__.values() else _UNKNOWN
