"""What an administrator does about each reason: one table, shown by `status` and `doctor` and kept in OPERATING.md."""

from __future__ import annotations

from hubtunnel.errors import Reason

NOT_DIALLED = "not dialled"  # how the text of `silent` begins where no key was left to dial with

CURES: dict[Reason, str] = {
    Reason.DNS: "ask this host's resolver for the name (`getent ahosts NAME`): if it answers for no name, mend it; if"
    " for others only, correct `endpoints` in the peer's file and `hubtunnel reload`",
    Reason.REFUSED: "is hubtunnel running there, and on that port? (there: `hubtunnel status`)",
    Reason.UNREACHABLE: "look at routes and firewall of this host",
    Reason.TIMEOUT: "a firewall that drops, or a host that is down: try the port from here, and ask there",
    Reason.SILENT: "compare the causes that the text names with the peer's administrator; `hubtunnel status` there says"
    " whether our greeting came, and from which address",
    Reason.AUTH: "a security event: find out who answers there before anything else",
    Reason.TOLD: "the text names what the peer said: ask there, `hubtunnel status` shows its side",
    Reason.NEVER: "look there: `hubtunnel status`, its endpoint for us, its firewall",
}

TOLD: dict[str, str] = {  # by the word with which the text of `told` begins
    "done": "nothing: it comes back by itself",
    "drained": "nothing: it comes back when the peer has started again",
    "restart": "nothing: it passes by itself",
    "limit": "too many conversations or too little [limits] memory, there or here: `hubtunnel status` on both shows it",
    "mta_unreachable": "ask there: `hubtunnel status` and `hubtunnel doctor` say what is wrong with its mail server or"
    " its [deliver] address; mail goes by itself once that is mended",
}
_NO_KEYS = (
    "exchange newer cards, as the text says: `hubtunnel check` here and there names the hub whose keys have ended"
)
_UNKNOWN = "`hubtunnel doctor` looks further"


def cure_of(code: str, text: str = "") -> str:
    """What to do about the reason of this code; `text` is what was said with it."""
    if code not in Reason.__members__.values():
        return _UNKNOWN
    if code == Reason.TOLD:
        return TOLD.get(text.partition(":")[0], CURES[Reason.TOLD])
    if code == Reason.SILENT and text.startswith(NOT_DIALLED):
        return _NO_KEYS
    return CURES[Reason(code)]
