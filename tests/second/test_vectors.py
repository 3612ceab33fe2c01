"""Every value of the test vectors, made again by the second implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.second import card as cards
from tests.second import schedule
from tests.second.kdf import CARD, sha256
from tests.second.keys import NO_PSK, Identity, LinkKey, LinkPublic, Pair, Verifier
from tests.second.records import Drop, Receiver, Traffic

FILE = Path(__file__).parents[1] / "vectors" / "vectors.json"
SECRETS = ("es", "kR", "ee", "ke", "se", "kI")


def _from_hex(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key == "note" else _from_hex(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_hex(item) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


class Vectors:
    """The file, as bytes; each value that is asked for counts as used."""

    def __init__(self, values: dict[str, Any], path: str = "", used: set[str] | None = None) -> None:
        self._values = values
        self._path = path
        self.used: set[str] = set() if used is None else used

    def __getitem__(self, key: str) -> Any:
        value, path = self._values[key], f"{self._path}/{key}"
        if isinstance(value, dict):
            return Vectors(value, path, self.used)
        if isinstance(value, list):
            return [Vectors(item, f"{path}/{index}", self.used) for index, item in enumerate(value)]
        self.used.add(path)
        return value

    def paths(self) -> set[str]:
        """Of every value in the file."""

        def walk(value: Any, path: str) -> set[str]:
            items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            inner = set().union(*(walk(item, f"{path}/{key}") for key, item in items))
            return inner or {path}

        return walk(self._values, "")


@pytest.fixture
def v() -> Vectors:
    return Vectors(_from_hex(json.loads(FILE.read_text())))


def hub(v: Vectors, name: str) -> tuple[LinkKey, bytes]:
    """Private link key and its `fp`, both checked."""
    given = v[name]
    key = LinkKey(given["x_seed"], given["m_seed"])
    assert key.public == LinkPublic(given["SX"], given["SM"])
    identity = Verifier(given["ed25519"], given["mldsa65"])
    assert identity.idfp == given["idfp"]
    fp = key.public.fingerprint(identity.idfp)
    assert fp == given["fp"]
    return key, fp


def pairs(v: Vectors, psk: bytes, *, a_dials: bool = True) -> tuple[Pair, Pair]:
    """The same context as both hubs hold it."""
    (a, fp_a), (b, fp_b) = hub(v, "A"), hub(v, "B")
    return (
        Pair.make(a, fp_a, b.public, fp_b, psk, dials=a_dials),
        Pair.make(b, fp_b, a.public, fp_a, psk, dials=not a_dials),
    )


def check_pair_contexts(v: Vectors) -> None:
    for pair in pairs(v, v["psk"]):
        assert pair.k_pair == v["pair"]
        assert pair.hint(v["hour"]) == v["hint"]
        assert pair.k_gate == v["K_gate"]
        assert pair.chain == v["C0"]
    for pair in pairs(v, v["psk"], a_dials=False):
        assert pair.hint(v["hour"]) == v["more"]["hint_when_B_dials"]
    for pair in pairs(v, NO_PSK):
        assert pair.k_pair == v["more"]["pair_without_psk"]


def secrets_of_both(a: LinkKey, b: LinkKey, seed_i: bytes, seed_r: bytes, shares: bytes, m2: bytes) -> list[bytes]:
    """The six secrets from all private keys: each DH from both ends, each KEM secret by decapsulation."""
    e_i, e_r = schedule.ephemeral_of(seed_i), schedule.ephemeral_of(seed_r)
    assert e_i.public.x25519 + e_i.public.mlkem768 == shares[:1216]
    e_x_r = e_r.public.x25519
    assert e_x_r == m2[:32]
    es, ee, se = e_i.dh(b.public.x25519), e_i.dh(e_x_r), a.dh(e_x_r)
    assert (es, ee, se) == (b.dh(shares[:32]), e_r.dh(shares[:32]), e_r.dh(a.public.x25519))
    k_r, k_e, k_i = b.decapsulate(shares[1216:]), e_i.decapsulate(m2[32:1120]), a.decapsulate(m2[1120:2208])
    offer = schedule.Offer(a, b.public, e_i, k_r, shares[1216:])
    assert offer.shares == shares
    assert offer.secrets(m2) == [es, k_r, ee, k_e, se, k_i]
    return [es, k_r, ee, k_e, se, k_i]


def check_handshake(v: Vectors) -> schedule.Keys:
    pair, _ = pairs(v, v["psk"])
    a, b = hub(v, "A")[0], hub(v, "B")[0]
    m1, m2 = v["m1"], v["m2"]
    shares = schedule.open_m1(pair, range(v["hour"], v["hour"] + 1), m1)
    assert schedule.make_m1(pair, v["hour"], shares) == m1
    secrets = secrets_of_both(a, b, v["eph_seed_I"], v["eph_seed_R"], shares, m2)
    assert secrets == [v["secrets"][name] for name in SECRETS]
    chain = schedule.Chain.handshake(pair)
    assert chain.h1(m1) == v["h1"]
    assert sha256(v["h1"] + m2[:2208]) == v["h2"]
    keys = schedule.key_schedule(chain.key, secrets, v["h2"])
    check_keys(keys, v, m2)
    assert keys.auth_r == v["auth_R"]
    assert keys.sid == v["sid"]
    return keys


def check_keys(keys: schedule.Keys, v: Vectors, answer: bytes) -> None:
    assert keys.auth_r == answer[2208:]
    assert (keys.master, keys.auth_i, keys.th) == (v["master"], v["auth_I"], v["th"])
    assert (keys.t_i, keys.t_r, keys.root) == (v["T_I"], v["T_R"], v["root"])


def check_record(secret: bytes, record: Vectors, epoch: int) -> None:
    """Sealed it is the wire, opened it is what was sealed, and with one bit turned it is nothing."""
    sender = Traffic(secret, epoch)
    sender.skip_to(record["counter"])
    assert sender.seal(record["type"], record["body"]) == record["wire"]
    receiver = Receiver(Traffic(secret, epoch))
    receiver.traffic.skip_to(record["counter"])
    receiver.buffer += record["wire"]
    assert receiver.record() == (record["type"], record["body"])
    spoilt = Receiver(Traffic(secret, epoch))
    spoilt.traffic.skip_to(record["counter"])
    spoilt.buffer += record["wire"][:-1] + bytes([record["wire"][-1] ^ 1])
    with pytest.raises(Drop, match="does not verify"):
        spoilt.record()


def check_records(v: Vectors) -> None:
    for record in v["records_I"]:
        check_record(v["T_I"], record, epoch=0)
    first = v["more"]["record0_R"]
    check_record(v["T_R"], first, first["epoch"])


def check_ratchet(v: Vectors) -> None:
    step, direction = v["ratchet"], pairs(v, v["psk"])[0].direction
    a, b = hub(v, "A")[0], hub(v, "B")[0]
    chain = schedule.Chain.step(v["root"], step["n"], v["th"], direction)
    assert chain.h1(step["rk1"]) == step["h1"]
    secrets = secrets_of_both(a, b, step["eph_seed_I"], step["eph_seed_R"], step["rk1"], step["rk2"])
    assert secrets == [step["secrets"][name] for name in SECRETS]
    keys = schedule.key_schedule(chain.key, secrets, sha256(step["h1"] + step["rk2"][:2208]))
    check_keys(keys, step, step["rk2"])
    after = v["more"]["record0_I_after_ratchet"]
    check_record(step["T_I"], after, after["epoch"])


def check_resume(v: Vectors) -> None:
    given, pair = v["more"]["resume"], pairs(v, v["psk"])[0]
    a, b = hub(v, "A")[0], hub(v, "B")[0]
    shares = schedule.open_m1(pair, range(v["hour"], v["hour"] + 1), given["m1"])
    chain = schedule.Chain.handshake(pair)
    secrets = secrets_of_both(a, b, given["eph_seed_I"], given["eph_seed_R"], shares, given["m2"])
    keys = schedule.key_schedule(chain.key, secrets, sha256(chain.h1(given["m1"]) + given["m2"][:2208]))
    assert keys.auth_r == given["m2"][2208:]
    assert (keys.root, keys.th) == (given["root_new"], given["th_new"])
    resume, resumed, root = given["RESUME"], given["RESUMED"], v["ratchet"]["root"]
    assert (len(resume), len(resumed)) == (96, 65)
    assert resume[:24] == v["sid"] + v["ratchet"]["n"].to_bytes(8, "big")
    assert schedule.proof_i(root, keys.th, resume[:64]) == resume[64:]
    assert schedule.proof_r(root, keys.th, resume[64:], resumed[:33]) == resumed[33:]
    assert schedule.root_after_resume(root, keys.root) == given["root_next"]


def check_card(v: Vectors) -> None:
    given = v["more"]["card"]
    card = cards.read(given["signed"])
    assert card.body == given["body"]
    assert card.hash == given["hash"]
    identity = Identity(given["ed25519_seed"], given["mldsa65_seed"])
    assert identity.public == card.identity
    message = CARD + b"\0" + card.body
    assert card.identity.verify(message, *identity.sign(message))
    assert not card.identity.verify(message + b"\0", *identity.sign(message))


CHECKS = [
    check_pair_contexts,
    check_handshake,
    check_records,
    check_ratchet,
    check_resume,
    check_card,
]


def test_the_second_implementation_makes_every_value_again(v: Vectors) -> None:
    for check in CHECKS:
        check(v)
    assert v.paths() - v.used == {"/note"}


def test_a_gate_that_was_altered_is_refused(v: Vectors) -> None:
    """The control: these checks can fail."""
    pair, _ = pairs(v, v["psk"])
    m1 = v["m1"]
    for position in (0, 1, 17, 2320, 2336):
        spoilt = bytearray(m1)
        spoilt[position] ^= 1
        with pytest.raises(schedule.WrongAuth):
            schedule.open_m1(pair, range(v["hour"], v["hour"] + 1), bytes(spoilt))
