"""Live proofs that mail between this hub's mail server and its peers goes through the tunnel, and nothing else does.

Every proof is a conversation that ends before a message: nothing is sent, nothing is changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from hubtunnel.config import Address, Config, Deliver, Peer
from hubtunnel.daemon import probe, proxy
from hubtunnel.daemon.cures import cure_of
from hubtunnel.daemon.reasons import system_text
from hubtunnel.mta import inspection
from hubtunnel.mta.clear import refused_in_clear
from hubtunnel.mta.conversation import FOREIGN, SMTP_PORT, Conversation, ConversationError, Door, conversation
from hubtunnel.mta.findings import Finding, noted, proved, unknown, wrong
from hubtunnel.mta.inspection import InspectionError

AT_ONCE = 8  # conversations at the same time
LOOKED_FOR = 2.0  # seconds in which a hub has found its mail server, if it is there: mtawatch.FIRST_WAIT and a probe
_UNREACHABLE = "told: mta_unreachable: "  # in the 421 of our own daemon
PEERS_MAX = 2000  # beyond that a look at each would not end

_LOOPS = "mail for this peer would go in a circle: correct `endpoints` in its file, or `[deliver] address` there"


def examine(config: Config, status: Mapping[str, Any] | None, mta: str | None) -> list[Finding]:
    """All proofs for the hub of `config`.

    `status` is the daemon's answer, None when no daemon runs; `mta` is the mail server as `inspection` calls it, None
    when it is not known.
    """
    peers = [peer for peer in config.peers if peer.mode == "enforce"][:PEERS_MAX]
    addresses = _addresses(status)
    own = _own_names(config) if peers else set()
    jobs: list[Callable[[], Iterable[Finding]]] = [
        *(partial(_inlet, _inlet_door(deliver, served, addresses)) for deliver, served in _inlets(config)),
        *(partial(_through, peer, own) for peer in peers),
        *(partial(_way, peer, domain, mta) for peer in peers for domain in peer.domains),
        partial(refused_in_clear, peers, config),
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = [finding for findings in pool.map(lambda job: list(job()), jobs) for finding in findings]
    return [*_daemon(config, status), *found]


# --- the daemon -----------------------------------------------------------------------------------------------


def _daemon(config: Config, status: Mapping[str, Any] | None) -> Iterator[Finding]:
    if status is None:
        yield wrong("daemon", config.name, "no daemon answers", "start it: systemctl start hubtunnel, or hubtunnel run")
        return
    yield proved("daemon", config.name, f"answers, version {status['version']}")
    for peer in status["peers"]:
        if peer["state"] == "up":
            yield proved("peer up", peer["name"], "a session stands")
            continue
        error = peer["last_error"]
        text = f"{peer['state']}" + (f"; {error['code']}: {error['text']}" if error else "")
        cure = cure_of(error["code"], error["text"]) if error else "it is being dialled: look again in ten seconds"
        yield wrong("peer up", peer["name"], text, cure)


def _addresses(status: Mapping[str, Any] | None) -> dict[str, str]:
    """The address from which each peer comes now."""
    found = {}
    for peer in status["peers"] if status else ():
        for carrier in peer["carriers"]:
            with suppress(ValueError, TypeError):
                found[peer["name"]] = Address.read(carrier["endpoint"]).host
    return found


# --- our mail server's listener for mail out of the tunnel ----------------------------------------------------


def _inlets(config: Config) -> list[tuple[Deliver, list[Peer]]]:
    found: dict[tuple[Any, ...], tuple[Deliver, list[Peer]]] = {}
    for peer in config.peers:
        deliver = peer.deliver
        key = (deliver.address, deliver.proxy_protocol, deliver.source)
        found.setdefault(key, (deliver, []))[1].append(peer)
    return list(found.values()) or [(config.deliver, [])]


def _inlet_door(deliver: Deliver, peers: list[Peer], addresses: Mapping[str, str]) -> Door:
    """As the daemon goes to it for one of its peers."""
    known = [peer.present_as or addresses.get(peer.name, "") for peer in peers]
    presented = next((address for address in known if address and not proxy.misleads(address)), probe.NOBODY[0])
    return Door(
        host=deliver.address.host,
        port=deliver.address.port,
        source=deliver.source or "",
        proxy_protocol=deliver.proxy_protocol,
        presented=(presented, SMTP_PORT),
    )


def _inlet(door: Door) -> Iterator[Finding]:
    yield (answer := _answers(door))
    if answer.verdict != "proved":
        return
    yield _relay(door)
    try:
        with conversation(door) as session:
            for extension in ("starttls", "auth"):
                if session.offers(extension):
                    yield noted("inbound", str(door), f"offers {extension.upper()}, which nothing needs there")
    except ConversationError as exc:
        yield unknown("inbound", str(door), str(exc))


def _answers(door: Door) -> Finding:
    """One 220 and one 221, with the PROXY header in front as it is configured."""
    listener = probe.MtaListener(door.host, door.port, door.proxy_protocol, door.source)
    name = f"proxy_protocol {door.proxy_protocol}"
    cure = "`hubtunnel mta NAME` prints the listener that the mail server needs"
    try:
        asyncio.run(probe.probe(listener, door.presented))
    except probe.ProbeError as exc:
        cure = f"is that the port of the listener made for the tunnel, and does it take {name}? {cure}"
        return wrong("inbound", str(door), str(exc), f"{cure}, and [deliver] has to name it")
    except TimeoutError:
        return wrong("inbound", str(door), f"no answer within {probe.TIMEOUT:.0f} s", cure)
    except OSError as exc:
        return wrong("inbound", str(door), system_text(exc), f"{cure}; is the mail server running?")
    return proved("inbound", str(door), f"the mail server answers, and takes {name}")


def _relay(door: Door) -> Finding:
    """A peer's mail for somebody elsewhere has to be refused, however it is written."""
    cure = (
        "every peer, and whoever takes one over, can send mail to anywhere as us: use the listener that "
        "`hubtunnel mta NAME` prints, whole"
    )
    recipients = (
        f"somebody@{FOREIGN}",
        f"somebody%{FOREIGN}@localhost",
        f"{FOREIGN}!somebody",
        f"@localhost:somebody@{FOREIGN}",
    )

    def asked(recipient: str) -> tuple[int, str]:
        with conversation(door) as session:
            return session.asked(f"somebody@{FOREIGN}", recipient)

    try:
        # Each in a session of its own and all at once: some servers make a client wait after a mistake.
        with ThreadPoolExecutor(len(recipients)) as pool:
            replies = list(pool.map(asked, recipients))
    except ConversationError as exc:
        return unknown("no relay", str(door), str(exc))
    for recipient, (code, text) in zip(recipients, replies, strict=True):
        if code // 100 == 2:
            return wrong("no relay", str(door), f"takes mail from a peer for {recipient}: {code} {text}", cure)
    code, text = replies[0]
    return proved("no relay", str(door), f"mail from a peer for {recipients[0]} is refused: {code} {text}")


# --- through the tunnel to each peer --------------------------------------------------------------------------


def _own_names(config: Config) -> set[str]:
    """What this host's mail server calls itself, on every port that it can be asked at."""
    names = set()
    doors = [_inlet_door(deliver, peers, {}) for deliver, peers in _inlets(config)]
    for door in (*doors, Door("127.0.0.1", SMTP_PORT)):
        with suppress(ConversationError), conversation(door) as session:
            names.add(session.name)
    return names


def _through(peer: Peer, own: set[str]) -> Iterator[Finding]:
    """The peer's mail server answers, is not our own, and takes mail for the peer's domains."""
    if peer.listen is None:
        yield unknown("peer's mail server", peer.name, "it has no listen address here")
        return
    door = Door(peer.listen.host, peer.listen.port)
    try:
        yield from _seen_through(peer, door, own)
        return
    except ConversationError as exc:
        if _UNREACHABLE not in str(exc):
            yield wrong("peer's mail server", peer.name, str(exc), _cure_of_reply(str(exc)))
            return
    # A hub whose mail server was away looks for it again when mail comes, and this was the mail.
    time.sleep(LOOKED_FOR)
    try:
        yield from _seen_through(peer, door, own)
    except ConversationError as exc:
        yield wrong("peer's mail server", peer.name, str(exc), _cure_of_reply(str(exc)))


def _seen_through(peer: Peer, door: Door, own: set[str]) -> list[Finding]:
    """What one conversation shows. Raises `ConversationError`."""
    with conversation(door) as session:
        found = [
            proved("peer's mail server", peer.name, f"{session.name} answers through the tunnel"),
            _no_loop(peer, session, own),
            *_takes_its_domains(peer, session),
        ]
        for extension in ("starttls", "requiretls"):
            if session.offers(extension):
                text = f"offers {extension.upper()} inside the tunnel, where it proves nothing"
                found.append(noted("peer's mail server", peer.name, text))
    return found


def _cure_of_reply(said: str) -> str:
    """What to do about our own daemon's 421, whose code and text stand behind the peer's name."""
    reason = said.split(": ", 3)
    if len(reason) == 4 and reason[0].endswith("hubtunnel"):
        return cure_of(reason[2], reason[3])
    return "the daemon has to listen for this peer: `hubtunnel status`; behind it answers the mail server there"


def _no_loop(peer: Peer, session: Conversation, own: set[str]) -> Finding:
    if not own:
        return unknown("no loop", peer.name, "this host's own mail server could not be asked for its name")
    if session.name in own:
        return wrong("no loop", peer.name, f"the tunnel ends at a mail server named {session.name}, as ours is", _LOOPS)
    return proved("no loop", peer.name, f"{session.name} there, {', '.join(sorted(own))} here")


def _takes_its_domains(peer: Peer, session: Conversation) -> Iterator[Finding]:
    for domain in peer.domains:
        code, text = session.asked("", f"postmaster@{domain}")
        cure = f"is {domain} in this peer's file by mistake? If not, its mail server has to take postmaster there"
        if code // 100 == 2:
            yield proved("peer takes its mail", domain, f"{peer.name} takes mail for postmaster there")
        elif code // 100 == 5 and _says_relay(text):
            yield wrong("peer takes its mail", domain, f"{peer.name} refuses it: {code} {text}", cure)
        else:
            yield unknown("peer takes its mail", domain, f"{peer.name} says to postmaster there: {code} {text}", cure)


def _says_relay(text: str) -> bool:
    """Whether a refusal is for the domain, and not for the user: RFC 3463's 5.7.1, or the word that servers use."""
    return "5.7." in text or "relay" in text.lower()


# --- no way around it -----------------------------------------------------------------------------------------


def _way(peer: Peer, domain: str, mta: str | None) -> Iterator[Finding]:
    """Both mail and bounces for a peer's domain go to the peer's address, and to nothing besides."""
    if peer.listen is None:
        return
    if mta is None:
        cure = "--mta NAME says which mail server this host has"
        yield unknown("no way around", domain, "no mail server was found whose routes could be looked at", cure)
        return
    wanted = inspection.place(peer.listen.host, peer.listen.port)
    for check, bounce in (("no way around", False), ("bounces too", True)):
        try:
            found = inspection.way(mta, domain, bounce=bounce)
        except InspectionError as exc:
            yield unknown(check, domain, str(exc))
            continue
        around = [*(each for each in found.places if each != wanted), *found.others]
        if around:
            cure = f"`hubtunnel mta {mta}` prints the route; nothing else may stand beside it"
            yield wrong(check, domain, f"mail for {domain} may go to {', '.join(around)} instead of {wanted}", cure)
        else:
            yield proved(check, domain, f"{mta} sends it to {wanted} ({peer.name}) alone")
