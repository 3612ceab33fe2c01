"""Writes tests/fuzz/corpus: what real messages look like, so that the fuzzer need not find that out.

    python -m tests.fuzz.make_corpus

The same inputs each time. What stands in a corpus folder beside them (regression-…) is left alone: inputs that once
broke something.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import msgpack

from hubtunnel.identity import armour, fingerprint, trail
from hubtunnel.identity.card import SignedCard
from hubtunnel.protocol import frames
from hubtunnel.protocol.constants import RECORD_DATA_LEN, Code, Frame, Record
from tests.fuzz.__main__ import CORPUS, ROOT
from tests.fuzz.targets.cards import published
from tests.fuzz.targets.core import ACTIONS, FRAMES, KINDS, LOCAL, SECONDS, SHELL
from tests.fuzz.targets.hubs import ACTIONS as PAIR_ACTIONS

VECTORS = json.loads((ROOT / "tests" / "vectors" / "vectors.json").read_text())
REGRESSION = "regression-"

Inputs = Iterator[tuple[str, bytes]]


def some(data: bytes) -> bytes:
    """As `Choices.some` reads it."""
    return bytes((len(data),)) + data


def records() -> Inputs:
    """Sealed records of every type (the first byte is no multiple of four), and bytes that are none."""
    for kind in Record:
        yield kind.name.lower(), b"\x01" + bytes((kind,)) + some(bytes(8)) + b"\0"
    yield "in-pieces", b"\x01\x01" + some(b"220 hello") + b"\x03\x01\x05\x09" + b"\x02\x00" + some(b"") + b"\0"
    yield "unsealed", b"\0" + some(bytes.fromhex(VECTORS["records_I"][0]["wire"])) + b"\0"


def whole_frames() -> Inputs:
    yield "hello", frames.encode_hello(frames.Hello("hubtunnel 1.0", ("receipts",), ()))
    yield "open", frames.encode(Frame.OPEN, 1, frames.encode_open(("192.0.2.1", 25)))
    yield "data-end", frames.encode(Frame.DATA, 1, b"EHLO a.example\r\n") + frames.encode(Frame.END, 1)
    yield "reset", frames.encode_reset(3, Code.MTA_UNREACHABLE)
    yield "credit", frames.encode_credit(2, 65536)
    yield "goaway", frames.encode_goaway(Code.RESTART, 7)
    yield "card", frames.encode(Frame.CARD_PART, 0, bytes(7) + b"\x01" + bytes(3) + b"\x05" + bytes(4) + b"parts")
    yield "optional", frames.encode(0x80, 0, b"later")
    yield "unknown", frames.encode(0x02, 0, b"required")


def payloads() -> Inputs:
    hello = {"version": "hubtunnel 1.0", "capabilities": ["receipts"], "requires": [], "later": 1}
    yield "hello", b"\x01" + msgpack.packb(hello)
    yield "open", b"\x00" + msgpack.packb({"service": "smtp", "source": ["2001:db8::1", 25]})
    yield "open-without-source", b"\x00" + msgpack.packb({"service": "smtp"})


def card() -> Inputs:
    yield "published", published()
    body, signatures = msgpack.unpackb(published())
    yield "two-pairs", msgpack.packb([body, signatures * 2])
    yield "cut", published()[:4000]


def card_fields() -> Inputs:
    yield "unchanged", b""
    yield "removed", bytes((0, 0, 2))
    yield "replaced", bytes((0, 1, 7, 1)) + bytes(8)
    yield "inside-a-link-key", bytes((2, 1, 0, 1, 3, 2, 4)) + b"abcd"
    yield "added", bytes((0, 2, 3)) + b"new" + bytes((3, 1)) + b"x"


def armoured() -> Inputs:
    text = armour.armour(SignedCard.parse(published()))
    yield "card", text.encode()
    yield "quoted", ("> " + text.replace("\n", "\n> ")).encode()
    yield "without-end", text.rsplit("\n", 2)[0].encode()


def fingerprints() -> Inputs:
    idfp = bytes.fromhex(VECTORS["A"]["idfp"])
    yield "text", fingerprint.to_text(idfp).encode()
    yield "words", fingerprint.to_words(idfp).encode()
    yield "one-wrong", fingerprint.to_text(idfp).replace("q", "p", 1).encode()
    yield "bytes-and-words", idfp


def configs() -> Inputs:
    pin = fingerprint.to_text(bytes.fromhex(VECTORS["B"]["idfp"]))
    hub = 'name = "hub.example.org"\nlisten = ["0.0.0.0:2625", "[::]:2625"]\n[limits]\nmemory = "256 MiB"\n'
    peer = f'name = "peer.example.net"\npin = "{pin}"\nendpoints = ["mx.example.net:2625", "192.0.2.7:2625"]\n'
    peer += 'listen = "127.0.0.1:2001"\n[deliver]\naddress = "127.0.0.1:26"\nproxy_protocol = "v1"\n'
    yield "hub", b"\0" + hub.encode()
    yield "peer", b"\x80" + peer.encode()
    yield "unknown-key", b'\0name = "hub.example.org"\nlistne = 1\n'
    yield "no-toml", b"\0name = \n"
    yield "psk", b'\x80psk_file = "hubtunnel.toml"\n'


def key_files() -> Inputs:
    link = {"kind": "link", "id": bytes(8), "x25519": bytes(32), "mlkem768_seed": bytes(64)}
    yield "link", b"\0\0" + msgpack.packb(link | {"not_before": 1, "not_after": 2})
    yield (
        "identity",
        b"\0\1" + msgpack.packb({"kind": "identity", "ed25519_seed": bytes(32), "mldsa65_seed": bytes(32)}),
    )
    sealed = {"kind": "identity", "opslimit": 1, "memlimit": 8192, "sealed": bytes(60)}
    yield "locked", b"\0\1" + msgpack.packb(sealed)
    yield "is-locked", b"\0\2" + msgpack.packb(sealed)
    yield "no-magic", b"\1\0" + b"-----BEGIN OPENSSH"


def bundles() -> Inputs:
    key = [bytes(8), bytes(32), bytes(64), 1, 2]
    yield "open", b"\0" + msgpack.packb({"cards": [published()], "link_keys": [key]})
    yield "locked", b"\0" + msgpack.packb({"opslimit": 1, "memlimit": 8192, "sealed": bytes(60)})
    yield "no-card", b"\0" + msgpack.packb({"cards": [], "link_keys": []})


def states() -> Inputs:
    line = {"n": 1, "at": "2027-01-15T08:00:00Z", "what": "card signed", "by": {"uid": 0, "user": "root"}}
    first = json.dumps(line | {"details": {"serial": 1}, "prev": trail.BEFORE_FIRST}).encode()
    digest = trail._hash(first)
    second = json.dumps(line | {"n": 2, "details": {}, "prev": digest}).encode()
    yield "trail", b"\0" + b"1 " + digest.encode() + b"\0" + first + b"\n" + second + b"\n"
    yield "trail-torn", b"\0" + b"\0" + first + b"\n" + second[:40]
    yield "trail-head-alone", b"\0" + b"2 " + digest.encode() + b"\0"
    yield f"{REGRESSION}trail-infinity", b"\0" + b"\0" + first.replace(b'"n": 1', b'"n": Infinity') + b"\n"
    yield f"{REGRESSION}known-infinity", b'\1{"serial": Infinity}'
    yield "known", b"\1" + json.dumps({"serial": 3, "given": 1, "at": 1.5}).encode()


def control() -> Inputs:
    for name, asked in {
        "status": {"command": "status"},
        "echo": {"command": "echo", "peer": "mx.example.net", "numbers": [1, 2.5, None]},
        "no-command": {"peer": "x"},
        "no-map": ["status"],
    }.items():
        yield name, b"\x01" + bytes(4) + msgpack.packb(asked)
    yield "in-pieces", b"\x01" + b"\x03\x01\x02\x04" + msgpack.packb({"command": "echo"})
    yield "too-long", b"\0" + bytes(4) + b"\xff\xff\xff\xff"
    yield f"{REGRESSION}nested", b"\x01" + bytes(4) + b"\x81\xa7command" + b"\x91" * 1020 + b"\xc0"


def control_answers() -> Inputs:
    yield "ok", msgpack.packb({"ok": True, "status": {}})
    yield "no", msgpack.packb({"ok": False, "error": "no", "problems": ["one", "two"]})
    yield "http", b"\xf0HTTP/1.1 400 Bad Request\r\n\r\n"
    yield f"{REGRESSION}no-msgpack", b"\x93\x01"
    yield f"{REGRESSION}problems", msgpack.packb({"ok": False, "problems": 5})
    yield f"{REGRESSION}nested", b"\x82\xa5error" + b"\x91" * 1020 + b"\xc0\xa2ok\xc2"


def handshakes() -> Inputs:
    honest, raw, altered, cut = (bytes((kind,)) for kind in range(4))
    yield "honest", honest + b"\0" + honest + b"\0"
    yield "in-pieces", honest + b"\x03\x01\x00\x00\x11\x09\x20" + honest + b"\x02\x00\x00\x01\x00"
    yield "raw", raw + some(bytes.fromhex(VECTORS["m1"])[:200]) + b"\0"
    yield "altered", altered + b"\x00\x20\x01" + b"\0" + honest + b"\0"
    yield "altered-confirmation", honest + b"\0" + altered + b"\x00\x05\x80\0"
    yield "cut", cut + b"\x01\x00" + some(b"") + b"\0"


def act(name: str, *decisions: int) -> bytes:
    """An action of the target `core`, and the decisions that it takes, a byte each."""
    return bytes((ACTIONS.index(name), *decisions))


def local(name: str, *decisions: int) -> bytes:
    return act("local", LOCAL.index(name), *decisions)


def shell(name: str, *decisions: int) -> bytes:
    return act("shell", SHELL.index(name), *decisions)


def after(seconds: float) -> bytes:
    return act("time", SECONDS.index(seconds))


def sealed(kind: Record, data: bytes = bytes(16)) -> bytes:
    """A record on the first line: of a known type, with data of the right length."""
    length = RECORD_DATA_LEN[kind]
    return act("sealed_record", 0, 1, KINDS.index(kind), 1) + (some(data) if length is None else data[:length])


def framed(*frames_: tuple[Frame, int, bytes]) -> bytes:
    """Frames in one record on the first line: type, stream, and what `Play.payload` takes for it."""
    out = act("any_frames", 0, len(frames_) - 1)
    for kind, stream, decisions in frames_:
        out += bytes((1, FRAMES.index(kind), stream, 1)) + decisions
    return out + b"\x01"


def card_frame(kind: Frame, decisions: bytes) -> bytes:
    return framed((kind, 0, decisions))


def core() -> Inputs:
    """Rows of actions. Streams of whoever dialled begin with 1, the other's with 2."""
    for name, hub_dials in (("puppet-dials", 0), ("hub-dials", 1)):
        up = act("new_line", hub_dials) + act("good_first", 0, 1)
        theirs = 1 - hub_dials or 2
        opened = framed((Frame.OPEN, theirs, b"\x01"), (Frame.DATA, theirs, b"\x03"))
        again = act("new_line", hub_dials)
        yield name, up
        yield f"{name}-their-stream", up + opened + local("write", 0, 3) + local("consume all", 0) + local("end", 0)
        yield f"{name}-our-stream", up + local("open", 1) + local("write", 0, 5) + after(0.2) + local("reset", 0, 4)
        yield f"{name}-end", up + opened + framed((Frame.END, theirs, b"")) + local("end", 0)
        yield f"{name}-reset", up + opened + framed((Frame.RESET, theirs, b"\0\7"))
        step = act("good_step", 0) * 3 if not hub_dials else shell("rekey") + after(2.0) + act("good_step", 0)
        yield f"{name}-ratchet", up + step + sealed(Record.ACK)
        yield (
            f"{name}-ratchet-flipped",
            up + step[: len(step) // 2] + act("flipped_record", 0, 1, 0, 1, 4) + b"data\4\1",
        )
        resume = act("cut", 0) + again + act("good_resume", 1, 0, 0, 0, 0, 1)
        yield f"{name}-resume", up + opened + resume + act("good_step", 1) * 3 + local("write", 0, 2)
        yield f"{name}-resume-refused", up + opened + act("cut", 0) + again + act("good_resume", 1, 0, 0, 0, 0, 0)
        yield f"{name}-resume-wrong-offset", up + opened + act("cut", 0) + again + act("good_resume", 1, 0, 0, 2, 2, 1)
        yield f"{name}-make-before-break", up + opened + again + act("good_resume", 1, 0, 0, 0, 0, 1)
        yield f"{name}-raw", up + act("raw", 0) + some(b"\0\0\x20" + bytes(32))
        yield f"{name}-drain", up + opened + shell("drain", 2) + framed((Frame.RESET, theirs, b"\0\7")) + after(10.0)
        yield f"{name}-close", up + opened + shell("close", 0) + sealed(Record.CLOSE, bytes(9))
        yield f"{name}-idle", up + after(15.0) + after(30.0) + after(150.0)
        number = [bytes(7) + bytes((serial, 0)) for serial in range(10)]  # and a hash that begins with 0
        have, ack, nak = (partial(card_frame, kind) for kind in (Frame.CARD_HAVE, Frame.CARD_ACK, Frame.CARD_NAK))
        ours = up + shell("own card", 3) * 3 + have(number[1])
        yield f"{name}-own-cards", ours + ack(number[2]) + ack(number[3])
        yield f"{name}-own-card-refused", ours + nak(number[2])
        yield f"{name}-own-cards-behind", ours + have(number[9]) + have(number[9])
        yield f"{name}-own-fork", up + shell("own card", 3) * 3 + have(bytes(7) + b"\2\1")
        part = framed((Frame.CARD_PART, 0, some(b"a card") + b"\1"))
        yield f"{name}-their-card", up + part + shell("answer card", 0) + part + shell("answer card", 1)
        for kind in KINDS:
            yield f"{name}-{kind.name.lower()}", up + sealed(kind)
        for kind in FRAMES:
            yield (
                f"{name}-frame-{kind.name.lower()}",
                up + framed((kind, 0 if kind < 0x10 or kind > 0x1F else 1, bytes(8))),
            )
    two = act("new_line", 0) + act("good_first", 0, 1) + act("new_line", 0) + act("good_first", 1, 1)
    yield "two-sessions", two + after(10.0) + after(15.0)


def pair(name: str, hub: int, *decisions: int) -> bytes:
    """An action of the target `hubs`."""
    return bytes((PAIR_ACTIONS.index(name), hub, *decisions))


def hubs() -> Inputs:
    """Rows of actions. Once a wire is there, the byte behind the hub says which."""
    up = pair("dial", 0) + pair("settle", 0, 0)
    opens = pair("write", 0, 0, 0, 0x10, 0, 1)  # the first stream, 4 KiB
    more = pair("write", 0, 0, 1, 0, 0x10, 0, 1)
    settle = pair("settle", 0, 0)
    yield "up", up
    yield "mail", up + opens + settle + more * 3 + settle
    yield "both-ways", up + opens + settle + pair("write", 1, 0, 1, 0, 0x20, 0, 0) + more + settle
    yield "cut-and-resume", up + opens + more + pair("cut", 0, 0, 1) + pair("dial", 0) + settle
    yield (
        "cut-in-the-middle",
        up + opens + pair("deliver", 1, 0, 3, 0) + pair("cut", 0, 0, 1) + pair("dial", 0) + settle,
    )
    yield "in-parts", up + opens + more + pair("deliver", 1, 0, 0, 0x40) * 6 + settle
    yield "altered", up + opens + pair("alter", 1, 0, 0, 0x30, 2) + settle + pair("time", 0, 0, 2)
    yield "ratchet", up + opens + settle + pair("rekey", 0, 0) + settle + pair("time", 0, 0, 3) + more + settle
    yield "crossing", pair("dial", 0) + pair("dial", 1, 0) + settle + pair("time", 0, 0, 4)
    yield "restart", up + opens + settle + pair("restart", 0, 0, 0) + pair("dial", 0) + settle + pair("time", 0, 0, 5)
    yield "other-restart", up + opens + settle + pair("restart", 1, 0, 0) + pair("time", 0, 4) + pair("dial", 0)
    yield "drain", up + opens + pair("drain", 1, 0, 0) + pair("time", 0, 0, 3)
    yield "linger-over", up + opens + settle + pair("cut", 0, 0, 1) + pair("time", 0, 7)


MAKERS = {
    "records": records,
    "frames": whole_frames,
    "payloads": payloads,
    "card": card,
    "card_fields": card_fields,
    "armour": armoured,
    "fingerprint": fingerprints,
    "config": configs,
    "keyfile": key_files,
    "bundle": bundles,
    "state": states,
    "control": control,
    "control_answer": control_answers,
    "responder": handshakes,
    "initiator": handshakes,
    "core": core,
    "hubs": hubs,
}


def main() -> None:
    for name, maker in MAKERS.items():
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            if not old.name.startswith(REGRESSION):
                old.unlink()
        for title, data in maker():
            (folder / title).write_bytes(data)


if __name__ == "__main__":
    main()
