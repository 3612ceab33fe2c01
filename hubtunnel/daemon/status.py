"""What `status --json` shows; keys and types are fixed (docs/OPERATING.md), times are RFC 3339."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hubtunnel import __version__, protocol
from hubtunnel.daemon import contexts, limits
from hubtunnel.daemon.carrier import Connection
from hubtunnel.daemon.local import text_of
from hubtunnel.daemon.logs import rfc3339
from hubtunnel.identity.files import want_of_room
from hubtunnel.identity.fingerprint import to_text
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.session import Session

if TYPE_CHECKING:
    from hubtunnel.daemon.hub import Hub
    from hubtunnel.daemon.link import PeerLink

SCHEMA = 1
SOURCES_SHOWN = 20


def hub_status(hub: Hub) -> dict[str, Any]:
    """The whole daemon."""
    services = hub.services
    knocks = services.knocks
    full = want_of_room(hub.config.state)
    return {
        "schema": SCHEMA,
        "hub": str(hub.config.name),
        "fingerprint": to_text(hub.keys.idfp),
        "card": hub.keys.card.card.serial,
        "pid": os.getpid(),
        "version": __version__,
        "compiled": protocol.compiled(),
        "loop": hub.loop_name,
        "started": rfc3339(services.started_at),
        "uptime_s": round(services.unix_time() - services.started_at, 3),
        "draining": services.draining,
        "warnings": [*hub.keeper.warnings, *([full] if full is not None else [])],
        "listen": [text_of(address) for address in hub.gate.addresses],
        "memory_bytes": services.budget.used,
        "memory": {"limit": services.budget.limit, "peak": services.budget.peak},
        "limits": limits.shown(hub),
        "strangers": {
            "pending": services.admission.pending,
            "causes": dict(knocks.total),
            "sources": [
                {"network": network, "causes": dict(knock.causes), "last": rfc3339(knock.last)}
                for network, knock in knocks.latest(SOURCES_SHOWN)
            ],
        },
        "deliver": services.mta.shown(),
        "peers": [peer_status(link) for link in sorted(hub.links.values(), key=lambda link: link.name)],
    }


def peer_status(link: PeerLink) -> dict[str, Any]:
    """One peer."""
    now, cards, known = link.now(), link.keys.cards, link.keys.known
    session = _session(link)
    carriers = [c for c in link.core.carriers if not c.closed]
    local = link.local
    error = link.trouble()
    return {
        "name": link.name,
        "state": state_of(link),
        "mode": link.peer.mode,
        "pin": to_text(link.peer.pin),
        "identity": to_text(link.keys.idfp),
        "local": text_of(local.address) if local.address else None,
        "carriers": [_carrier(carrier, now) for carrier in carriers],
        "session": None
        if session is None
        else {
            "id": session.sid.hex(),
            "age_s": round(now - session.created_at, 3),
            "epoch": session.index,
            "resumed": session.resumed,
            "dialled": session.initiator,
            "peer_version": session.peer_version,
        },
        "streams": {
            "open": len(local.relays),
            "opened": local.opened,
            "refused": local.refused,
            "reset": local.reset,
        },
        "mail_bytes": {"in": local.mail_in, "out": local.mail_out + sum(r.bytes_to_peer for r in local.relays)},
        "wire_bytes": {
            "in": link.wire_in + sum(c.bytes_in for c in link.core.carriers),
            "out": link.wire_out + sum(c.bytes_out for c in link.core.carriers),
        },
        "link_key": _link_key(link, carriers),
        "card": {
            "first": cards.first.serial,
            "accepted": cards.latest.card.serial,
            "acknowledged": known.serial or None,
        },
        "last_error": None
        if error is None
        else {
            "code": error.reason.value,
            "text": error.text,
            "at": rfc3339(error.at),
            "over": link.is_over(error),
        },
    }


def state_of(link: PeerLink) -> str:
    """One of up, dialing, handshaking, backoff, listening, draining, stopped."""
    if link.closed:
        return "stopped"
    if link.services.draining:
        return "draining"
    if link.core.ready:
        return "up"
    if not link.peer.endpoints:
        return "listening"
    phase = link.dialler.phase
    if phase == "idle":  # a carrier is there, or the peer is given a moment to come back by itself
        return "handshaking" if link.connections else "backoff"
    return phase


def _session(link: PeerLink) -> Session | None:
    """The session that counts: one that takes streams, else one with a carrier, else any."""
    return max(link.core.sessions, key=lambda s: (s.ready, s.carrier is not None, s.created_at), default=None)


def _carrier(carrier: Carrier, now: float) -> dict[str, Any]:
    connection = carrier.app
    return {
        "endpoint": text_of(connection.address) if isinstance(connection, Connection) else None,
        "dialled": carrier.initiator,
        "our_key": carrier.established.own.id.hex(),
        "their_key": carrier.established.theirs.id.hex(),
        "age_s": round(now - carrier.opened_at, 3),
        "rtt_ms": None if carrier.rtt is None else round(carrier.rtt * 1000, 3),
    }


def _link_key(link: PeerLink, carriers: list[Carrier]) -> dict[str, Any] | None:
    """The keys in use, or those that the next dial would use."""
    if carriers:
        ours, theirs = carriers[-1].established.own, carriers[-1].established.theirs
    else:
        pairs = contexts.dialling(link.contexts, link.announced, link.services.unix_time())
        if not pairs:
            return None
        ours, theirs = pairs[0].own, pairs[0].theirs
    return {
        "ours": {"id": ours.id.hex(), "end": rfc3339(ours.not_after)},
        "theirs": {"id": theirs.id.hex(), "end": rfc3339(theirs.not_after)},
    }
