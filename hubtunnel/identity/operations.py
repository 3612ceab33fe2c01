"""Every change to keys, by name: run by a command itself while no daemon runs, and by the daemon for it otherwise.

Arguments and results are plain values that cross the control socket. A result holds what the command tells the user:
ids as hexadecimal text, times as unix seconds, `warnings` as lines.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hubtunnel.config.model import Config
from hubtunnel.errors import UsageError
from hubtunnel.identity import acknowledged, bundle, credentials, keyfiles, lifecycle, signing
from hubtunnel.identity.acknowledged import Claim
from hubtunnel.identity.armour import dearmour
from hubtunnel.identity.caller import Caller
from hubtunnel.identity.card import IdentitySecret
from hubtunnel.identity.chain import accept_chain
from hubtunnel.identity.signing import Signed
from hubtunnel.identity.state import PeerCards, State, StateError
from hubtunnel.identity.trail import Trail, TrailError
from hubtunnel.protocol.pair import LinkPublic

Result = dict[str, Any]
RECORDED = frozenset({"pinned", "removed", "updated", "repinned", "psk set", "exported"})


@dataclass
class Context:
    """What an operation works on: the state, held for writing, at a time, for a user.

    `known_newer` is the highest serial of ours that a peer is known to hold beyond what stands on record.
    """

    state: State
    config: Config
    now: float
    by: Caller
    known_newer: int | None = None
    warnings: list[str] = field(default_factory=list)

    def record(self, what: str, **details: Any) -> None:
        """Put what was done on the trail. It is done: a trail that cannot be written is a warning now."""
        try:
            Trail(self.state).append(what, self.by, self.now, **details)
        except TrailError as exc:
            self.warnings.append(f"this is in force but not on the trail: {exc}")

    def claim(self, force: bool) -> Claim | None:
        """The newest card of ours that a peer holds and we do not, unless the user knows better."""
        if force:
            return None
        own = signing.newest(self.state)[-1].card.serial
        found = acknowledged.newest_claim(acknowledged.on_disk(self.state), self.config.peers, own)
        if self.known_newer is not None and self.known_newer > (found.serial if found else own):
            return Claim(self.known_newer, "a peer")
        return found

    def identity(self, passphrase: bytes | None) -> IdentitySecret:
        return signing.identity_here(self.state, signing.passphrase_for(self.state, passphrase))


def run(context: Context, name: str, arguments: Mapping[str, Any]) -> Result:
    """Carry out one operation. Raises `HubtunnelError`; then nothing but private keys in no card was left behind."""
    operation = OPERATIONS.get(name)
    if operation is None:
        raise UsageError(f"there is no operation {name!a}; is a daemon of another release running?")
    try:
        inspect.signature(operation).bind(context, **arguments)
    except TypeError as exc:
        raise UsageError(f"{name}: {exc}; is a daemon of another release running?") from None
    try:
        recover(context.state, context.by, context.now)
        result = operation(context, **arguments)
    except OSError as exc:
        raise StateError(f"{exc.filename or context.state.folder}: {exc.strerror or exc}") from exc
    return {**result, "warnings": context.warnings}


def recover(state: State, by: Caller, now: float) -> list[str]:
    """Finish what a crash cut short; call it whenever the state was opened for writing. Returns what was done.

    Raises `TrailError` when the trail was altered.
    """
    done = []
    if signing.finish_identity(state):
        done.append("the key of the new identity was put in place")
    trail = Trail(state)
    known = {card for entry in trail.entries() if (card := entry.details.get("card")) is not None}
    trail.verify()
    own = signing.newest(state)[-1].card
    if own.serial not in known:
        trail.append("own card found", by, now, card=own.serial, hash=own.hash.hex())
        if known:
            done.append(f"card {own.serial} was put on the trail, which a crash had prevented")
    return done


# --- link keys --------------------------------------------------------------------------------------------------


def _rotate(
    context: Context,
    *,
    identity: bool = False,
    at_once: bool = False,
    force: bool = False,
    passphrase: bytes | None = None,
) -> Result:
    secret, claim = context.identity(passphrase), context.claim(force)
    if identity:
        passphrase = signing.passphrase_for(context.state, passphrase)
        signed = signing.change_identity(context.state, secret, passphrase=passphrase, now=context.now, claim=claim)
        before = secret.public.idfp.hex()
        return _signed(context, "identity rotated", signed, before=before, after=signed.card.card.idfp.hex())
    every = context.config.keys.rotate
    signed = lifecycle.rotate(context.state, secret, context.now, every=every, at_once=at_once, claim=claim)
    return _signed(context, "rotated", signed)


def _issue(
    context: Context,
    *,
    every: float,
    count: int,
    only: bool = False,
    force: bool = False,
    passphrase: bytes | None = None,
) -> Result:
    secret, claim = context.identity(passphrase), context.claim(force)
    signed = lifecycle.issue(context.state, secret, context.now, every=every, count=count, only=only, claim=claim)
    return _signed(context, "issued", signed)


def _revoke(context: Context, *, key: str, force: bool = False, passphrase: bytes | None = None) -> Result:
    key_id = lifecycle.find_key(context.state, key)
    secret, claim = context.identity(passphrase), context.claim(force)
    every = context.config.keys.rotate
    signed = lifecycle.revoke(context.state, secret, context.now, key_id, every=every, claim=claim)
    return {**_signed(context, "revoked", signed, key=key_id.hex()), "revoked": key_id.hex()}


def _delete(context: Context, *, key: str, force: bool = False, passphrase: bytes | None = None) -> Result:
    """Delete a private link key before its time. A key that our card lists is retired first."""
    state = context.state
    key_id = lifecycle.find_key(state, key)
    path = state.link_key_path(key_id)
    if not path.exists():
        raise UsageError(f"link key {key_id.hex()}: there is no private key any more")
    secret = keyfiles.read_link_key(path)
    dependants = lifecycle.dependants(state, context.config.peers, secret)
    if dependants and not force:
        raise UsageError(
            f"link key {key_id.hex()}: {', '.join(dependants)} never completed a handshake with a later one, and may "
            "know no other; it goes by itself when its window has ended, --force deletes it now"
        )
    result: Result = {}
    if any(listed.id == key_id for listed in signing.newest(state)[-1].card.link_keys):
        identity = context.identity(passphrase)
        signed = lifecycle.retire(state, identity, context.now, key_id, claim=context.claim(force))
        result = _signed(context, "retired", signed, key=key_id.hex())
    state.remove_link_key(key_id)
    context.record("deleted", key=key_id.hex(), why="by hand", dependants=dependants)
    deleted = [*result.get("deleted", []), {"key": key_id.hex(), "why": "by hand"}]
    return {**result, "deleted": deleted, "cut_off": lifecycle.cut_off(state, context.config.peers, context.now)}


def _tidy(context: Context) -> Result:
    """Delete what is due."""
    return {"deleted": tidy(context)}


def tidy(context: Context) -> list[dict[str, str]]:
    """Delete the private keys whose time has come: of link keys, and of earlier identities that no peer needs."""
    deleted = []
    for due in lifecycle.delete_due(context.state, context.now):
        context.record("deleted", key=due.id.hex(), why=due.why)
        deleted.append({"key": due.id.hex(), "why": due.why})
    for name in lifecycle.forget_old_identities(context.state, context.config.peers):
        context.record("deleted", file=name, why="every peer has a card of the new identity")
        deleted.append({"key": name, "why": "every peer has a card of the new identity"})
    return deleted


def _import(context: Context, *, data: bytes) -> Result:
    taken = bundle.take_in(context.state, bundle.Bundle.unpack(data), context.by, context.now)
    own = signing.newest(context.state)[-1].card
    if taken.cards or taken.link_keys:
        context.record(
            "imported", card=own.serial, cards=list(taken.cards), keys=[key.hex() for key in taken.link_keys]
        )
    return {
        "card": own.serial,
        "cards": list(taken.cards),
        "made": [_key(key) for key in own.link_keys if key.id in taken.link_keys],
        "deleted": tidy(context),
        "cut_off": lifecycle.cut_off(context.state, context.config.peers, context.now),
    }


def _passphrase(context: Context, *, old: bytes | None = None, new: bytes | None = None) -> Result:
    """Put the identity key under another passphrase, or under none. Only who types the old one may."""
    secret = signing.identity_here(context.state, old)
    given = credentials.identity_passphrase()
    keyfiles.write_identity(context.state.identity_path, secret, new, replace=True)
    context.record("passphrase changed" if new is not None else "passphrase removed")
    if new is not None and given is not None and given != new:
        context.warnings.append(
            f"the systemd credential {credentials.IDENTITY_PASSPHRASE} still holds another passphrase, so nothing is "
            "signed by itself: encrypt the new one in its place, and restart the service"
        )
    return {}


def _signer(context: Context) -> Result:
    """Who could sign here: `asks` when the identity key is under a passphrase that has to be typed."""
    state = context.state
    locked = state.has_identity() and keyfiles.is_locked(state.identity_path)
    return {"asks": locked and credentials.identity_passphrase() is None}


# --- peers ------------------------------------------------------------------------------------------------------


def _repin(context: Context, *, peer: str, pin: bytes, card: str) -> Result:
    """Trust this card of a peer from now on, whatever was accepted before. The user compared the fingerprint."""
    cards = accept_chain(pin, None, dearmour(card))
    context.state.set_peer(pin, PeerCards(cards[0], cards[-1]))
    acknowledged.note_given(context.state, pin, signing.newest(context.state)[-1].card.serial)
    latest = cards[-1].card
    context.record("repinned", peer=peer, pin=pin.hex(), serial=latest.serial, hash=latest.hash.hex())
    return {"serial": latest.serial}


def _record(context: Context, *, what: str, details: dict[str, Any]) -> Result:
    """Put on the trail what a command did to files of its own."""
    if what not in RECORDED:
        raise UsageError(f"{what!a} does not stand on the trail by itself")
    context.record(what, **details)
    return {}


# --- results ----------------------------------------------------------------------------------------------------


def _signed(context: Context, what: str, signed: Signed, **details: Any) -> Result:
    card = signed.card.card
    made = [key.id.hex() for key in signed.made]
    retired = [key.id.hex() for key in signed.retired]
    context.record(what, card=card.serial, hash=card.hash.hex(), made=made, retired=retired, **details)
    return {
        "card": card.serial,
        "made": [_key(key) for key in signed.made],
        "retired": retired,
        "lost": [key.id.hex() for key in signed.lost],
        "deleted": tidy(context),
        "cut_off": lifecycle.cut_off(context.state, context.config.peers, context.now),
        "fingerprint": card.idfp.hex(),
    }


def _key(key: LinkPublic) -> dict[str, Any]:
    return {"id": key.id.hex(), "not_before": int(key.not_before), "not_after": int(key.not_after)}


OPERATIONS: Mapping[str, Callable[..., Result]] = {
    "rotate": _rotate,
    "issue": _issue,
    "revoke": _revoke,
    "delete": _delete,
    "tidy": _tidy,
    "import": _import,
    "passphrase": _passphrase,
    "signer": _signer,
    "repin": _repin,
    "record": _record,
}
