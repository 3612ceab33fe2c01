"""Every value of vectors.json out of the core's own functions, to the last byte (PROTOCOL.md 13).

KEM ciphertexts are inputs: `crypto.mlkem_encapsulate`, the one function that draws coins of its own, is replaced by a
fake that gives the recorded ciphertext for the recorded public key. Everything behind it is the real code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hubtunnel import crypto
from hubtunnel.protocol import constants as c
from hubtunnel.protocol import resume, schedule
from hubtunnel.protocol.constants import Domain, Record
from hubtunnel.protocol.handshake import Established, Initiator, Responder
from hubtunnel.protocol.pair import (
    HintTable,
    LinkPublic,
    LinkSecret,
    PairContext,
    identity_fingerprint,
    link_fingerprint,
)
from hubtunnel.protocol.ratchet import Ratchet
from hubtunnel.protocol.records import Reader, TrafficKey
from hubtunnel.protocol.schedule import Ephemeral, Offer, Secrets
from hubtunnel.protocol.wire import M1, M2, RESUME, RESUMED, RK1


def unhex(value: Any) -> Any:
    """A JSON value with every hexadecimal text as bytes."""
    if isinstance(value, dict):
        return {key: item if key == "note" else unhex(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unhex(item) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


VECTORS = unhex(json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="ascii")))
A, B = VECTORS["A"], VECTORS["B"]
MORE = VECTORS["more"]
UNIX_TIME = float(VECTORS["hour"] * c.HOUR)
EXCHANGES = {"handshake": VECTORS, "ratchet": VECTORS["ratchet"]}


def secret_of(hub: dict[str, bytes], key_id: bytes) -> LinkSecret:
    """A hub's link key with its private halves."""
    return LinkSecret(key_id, hub["x_seed"], hub["m_seed"], 0.0, 4e9)


def public_of(hub: dict[str, bytes], key_id: bytes) -> LinkPublic:
    """The same, as a card has it."""
    return LinkPublic(key_id, hub["SX"], hub["SM"], 0.0, 4e9)


def context(own: dict[str, bytes], theirs: dict[str, bytes], psk: bytes | None = VECTORS["psk"]) -> PairContext:
    """The pair context of one of the two hubs."""
    return PairContext.make(
        peer="peer",
        own_idfp=own["idfp"],
        own=secret_of(own, b"own     "),
        peer_idfp=theirs["idfp"],
        theirs=public_of(theirs, b"theirs  "),
        psk=psk,
    )


@pytest.fixture
def coins(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, tuple[bytes, bytes]]:
    """(shared secret, ciphertext) by public key, for the fake in the place of encapsulation."""
    known: dict[bytes, tuple[bytes, bytes]] = {}
    monkeypatch.setattr(crypto, "mlkem_encapsulate", lambda public: known[public])
    return known


def know(coins: dict[bytes, tuple[bytes, bytes]], offer: bytes, answer: bytes, seed_i: bytes) -> None:
    """Take the ciphertexts of a recorded exchange; each secret is what its rightful owner decapsulates."""
    ephemeral = Ephemeral.from_seed(seed_i)
    for public, seed, ciphertext in (
        (B["SM"], B["m_seed"], RK1.get(offer, "ct_R")),
        (ephemeral.mlkem_public, ephemeral.mlkem_seed, M2.get(answer, "ct_e")),
        (A["SM"], A["m_seed"], M2.get(answer, "ct_I")),
    ):
        coins[public] = (crypto.mlkem_decapsulate(seed, ciphertext), ciphertext)


def offer_of(m1: bytes) -> bytes:
    """The part of M1 that a ratchet step's RK1 has as well."""
    return M1.before(m1, "gate")[c.HELLO_PREFIX_LEN :]


# --- keys and pairs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hub", [A, B], ids=["A", "B"])
def test_PC1_PC2_fingerprints(hub: dict[str, bytes]) -> None:
    """Public halves, fingerprint of the identity, fingerprint of the link key under it."""
    assert crypto.x25519_public(hub["x_seed"]) == hub["SX"]
    assert crypto.mlkem_public(hub["m_seed"]) == hub["SM"]
    assert secret_of(hub, b"").public == hub["SX"] + hub["SM"]
    assert identity_fingerprint(hub["ed25519"], hub["mldsa65"]) == hub["idfp"]
    assert link_fingerprint(hub["idfp"], hub["SX"] + hub["SM"]) == hub["fp"]


@pytest.mark.parametrize(("psk", "expected"), [(VECTORS["psk"], VECTORS["pair"]), (None, MORE["pair_without_psk"])])
def test_PC4_pair_key(psk: bytes | None, expected: bytes) -> None:
    """K_pair, the same at both hubs, with and without a psk."""
    shared = crypto.x25519(A["x_seed"], B["SX"])
    assert crypto.extract(Domain.PAIR, shared + (psk or c.NO_PSK)) == expected
    for ctx in (context(A, B, psk), context(B, A, psk)):
        for direction in (ctx.dialling, ctx.listening):
            again = type(direction).make(expected, direction.d[:32], direction.d[32:])
            assert (again.k_gate, again.chain, again.hint(1)) == (direction.k_gate, direction.chain, direction.hint(1))


def test_PC5_PC6_direction_keys_and_hints() -> None:
    """Gate key, chain and hint of A's dial; the hint of B's dial is another."""
    for keys in (context(A, B).dialling, context(B, A).listening):
        assert keys.d == A["fp"] + B["fp"]
        assert keys.k_gate == VECTORS["K_gate"]
        assert keys.chain == VECTORS["C0"]
        assert keys.hint(VECTORS["hour"]) == VECTORS["hint"]
    assert context(B, A).dialling.hint(VECTORS["hour"]) == MORE["hint_when_B_dials"]


# --- the exchange -------------------------------------------------------------------------------------------------


def check_schedule(got: Secrets, expected: dict[str, bytes]) -> None:
    """Compare what an exchange gave with the recorded values."""
    assert (got.root, got.t_i, got.t_r) == (expected["root"], expected["T_I"], expected["T_R"])
    assert got.auth_i() == expected["auth_I"]
    assert got.transcript() == expected["th"]
    for name in ("h2", "sid"):
        if name in expected:
            assert getattr(got, name) == expected[name]
    if "auth_R" in expected:
        assert got.auth_r() == expected["auth_R"]


@pytest.mark.parametrize("name", EXCHANGES)
def test_KS2_secrets_and_master(name: str) -> None:
    """The six secrets as the initiator and as the responder compute them, and the chain over them."""
    values = EXCHANGES[name]
    offer = offer_of(values["m1"]) if name == "handshake" else values["rk1"]
    answer = values["m2"] if name == "handshake" else values["rk2"]
    mine, x_r = Ephemeral.from_seed(values["eph_seed_I"]), values["eph_seed_R"][:32]
    e_x_i, e_x_r = RK1.get(offer, "eX_I"), M2.get(answer, "eX_R")
    secrets = values["secrets"]
    assert (mine.x25519_public, mine.mlkem_public) == (e_x_i, RK1.get(offer, "eM_I"))
    assert crypto.x25519_public(x_r) == e_x_r
    assert crypto.x25519(mine.x25519_private, B["SX"]) == crypto.x25519(B["x_seed"], e_x_i) == secrets["es"]
    assert crypto.mlkem_decapsulate(B["m_seed"], RK1.get(offer, "ct_R")) == secrets["kR"]
    assert crypto.x25519(mine.x25519_private, e_x_r) == crypto.x25519(x_r, e_x_i) == secrets["ee"]
    assert crypto.mlkem_decapsulate(mine.mlkem_seed, M2.get(answer, "ct_e")) == secrets["ke"]
    assert crypto.x25519(A["x_seed"], e_x_r) == crypto.x25519(x_r, A["SX"]) == secrets["se"]
    assert crypto.mlkem_decapsulate(A["m_seed"], M2.get(answer, "ct_I")) == secrets["kI"]

    chain = VECTORS["C0"]
    if name == "ratchet":
        chain = schedule.ratchet_chain(VECTORS["root"], A["fp"] + B["fp"], values["n"])
    h2 = crypto.H(values["h1"], M2.before(answer, "auth_R"))
    ck = chain
    for secret in ("es", "kR", "ee", "ke", "se", "kI"):
        ck = crypto.extract(ck, secrets[secret])
    assert ck == values["master"]
    check_schedule(schedule.derive(chain, tuple(secrets.values()), h2), values)


def test_KS1_hashes() -> None:
    """h1 and h2 of the handshake, h1 of the ratchet step."""
    h1 = schedule.handshake_hash(A["fp"] + B["fp"], VECTORS["m1"])
    assert h1 == VECTORS["h1"]
    assert crypto.H(h1, M2.before(VECTORS["m2"], "auth_R")) == VECTORS["h2"]
    step = VECTORS["ratchet"]
    assert schedule.ratchet_hash(VECTORS["th"], step["n"], step["rk1"]) == step["h1"]


def replayed(
    coins: dict[bytes, tuple[bytes, bytes]], m1: bytes, m2: bytes, seed_i: bytes, seed_r: bytes
) -> tuple[Established, Established]:
    """The recorded handshake once more between the real `Initiator` and the real `Responder`."""
    know(coins, offer_of(m1), m2, seed_i)
    initiator = Initiator(context(A, B), UNIX_TIME, seed_i)
    responder = Responder(HintTable([context(B, A)], UNIX_TIME), lambda _: seed_r)

    def work(handshake: Initiator | Responder) -> None:
        while (job := handshake.next_job()) is not None:
            handshake.job_done(job, job.run())

    work(initiator)
    sent = initiator.data_to_send()
    assert sent == m1
    responder.receive_data(sent)
    work(responder)
    answer = responder.data_to_send()
    assert answer == m2
    initiator.receive_data(answer)
    work(initiator)
    assert initiator.established is not None
    responder.receive_data(initiator.established.first_flight)
    assert responder.established is not None
    return initiator.established, responder.established


def test_HS1_to_RD7_recorded_handshake(coins: dict[bytes, tuple[bytes, bytes]]) -> None:
    """M1, M2 and M3 come out of the machines themselves, and so does all that a session begins with."""
    ours, theirs = replayed(coins, VECTORS["m1"], VECTORS["m2"], VECTORS["eph_seed_I"], VECTORS["eph_seed_R"])
    assert ours.first_flight == VECTORS["auth_I"]
    for end in (ours, theirs):
        assert (end.root, end.th, end.sid) == (VECTORS["root"], VECTORS["th"], VECTORS["sid"])
        assert end.d == A["fp"] + B["fp"]
    assert (ours.t_send, ours.t_receive) == (VECTORS["T_I"], VECTORS["T_R"])
    assert (theirs.t_send, theirs.t_receive) == (VECTORS["T_R"], VECTORS["T_I"])


# --- records ------------------------------------------------------------------------------------------------------


def test_RC1_RC2_RC3_records_of_the_initiator() -> None:
    """Counters 0, 1, 1023, 1024, 2047 and 2048, sealed and opened: the key steps fall where they must."""
    sealing = TrafficKey(VECTORS["T_I"], 0)
    reader = Reader(TrafficKey(VECTORS["T_I"], 0))
    wanted = {record["counter"]: record for record in VECTORS["records_I"]}
    assert set(wanted) == {0, 1, 1023, 1024, 2047, 2048}
    for counter in range(max(wanted) + 1):
        record = wanted.get(counter, {"type": Record.PAD, "body": b"between"})
        plaintext = bytes((record["type"],)) + record["body"]
        sealed = sealing.seal(plaintext)
        if counter in wanted:
            assert sealed == record["wire"]
        reader.feed(bytes(sealed))
        assert reader.next() == (record["type"], plaintext)


@pytest.mark.parametrize(
    ("t", "record"),
    [
        (VECTORS["T_R"], MORE["record0_R"]),
        (VECTORS["ratchet"]["T_I"], MORE["record0_I_after_ratchet"]),
    ],
    ids=["first of R", "first of I after the ratchet step"],
)
def test_RC2_first_records(t: bytes, record: dict[str, Any]) -> None:
    """The first record of the other direction, and of the next epoch."""
    plaintext = bytes((record["type"],)) + record["body"]
    assert TrafficKey(t, record["epoch"]).seal(plaintext) == record["wire"]
    reader = Reader(TrafficKey(t, record["epoch"]))
    reader.feed(record["wire"])
    assert reader.next() == (record["type"], plaintext)


# --- ratchet and resume -------------------------------------------------------------------------------------------


def begun(*, initiator: bool) -> Ratchet:
    """One end's roots after the recorded handshake."""
    return Ratchet(initiator=initiator, root=VECTORS["root"], th=VECTORS["th"], d=A["fp"] + B["fp"])


def stepped(coins: dict[bytes, tuple[bytes, bytes]]) -> tuple[Ratchet, Ratchet, Secrets, Secrets]:
    """The recorded ratchet step between the real machines of both ends."""
    step = VECTORS["ratchet"]
    know(coins, step["rk1"], step["rk2"], step["eph_seed_I"])
    ours, theirs = begun(initiator=True), begun(initiator=False)
    offer = ours.begin(public_of(B, b""), step["eph_seed_I"]).run()
    assert isinstance(offer, Offer)
    rk1 = ours.offer_ready(offer)
    assert rk1 == step["rk1"]
    answer = theirs.read_rk1(rk1, secret_of(B, b""), public_of(A, b""), step["eph_seed_R"]).run()
    assert isinstance(answer, tuple)
    rk2 = theirs.answer_ready(*answer)
    assert rk2 == step["rk2"]
    secrets = ours.read_rk2(rk2, secret_of(A, b""), public_of(B, b"")).run()
    assert isinstance(secrets, Secrets)
    rk3, secrets = ours.verified(secrets)
    assert rk3 == step["auth_I"]
    return ours, theirs, secrets, theirs.read_rk3(rk3)


def test_RT1_to_RT8_recorded_ratchet_step(coins: dict[bytes, tuple[bytes, bytes]]) -> None:
    """RK1, RK2 and RK3, and the keys and root behind them, at both ends."""
    ours, theirs, secrets_i, secrets_r = stepped(coins)
    for end, secrets in ((ours, secrets_i), (theirs, secrets_r)):
        check_schedule(secrets, VECTORS["ratchet"])
        assert (end.index, end.roots) == (1, {1: VECTORS["ratchet"]["root"]})
        assert end.th == VECTORS["ratchet"]["th"]


def test_RS5_RS6_RS7_recorded_resume(coins: dict[bytes, tuple[bytes, bytes]]) -> None:
    """The handshake of the new carrier, both proofs, and the root that follows, after the recorded ratchet step."""
    ours, theirs, _, _ = stepped(coins)
    recorded = MORE["resume"]
    new_i, new_r = replayed(coins, recorded["m1"], recorded["m2"], recorded["eph_seed_I"], recorded["eph_seed_R"])
    for end in (new_i, new_r):
        assert (end.root, end.th) == (recorded["root_new"], recorded["th_new"])

    said, answer = recorded["RESUME"], recorded["RESUMED"]
    m = RESUME.get_int(said, "m")
    assert (RESUME.get(said, "sid"), m) == (VECTORS["sid"], 1)
    offsets = [RESUME.get_int(said, name) for name in ("received_offset", "send_base")]
    boot, dial = RESUME.get(said, "boot_I"), RESUME.get_int(said, "dial")
    assert resume.say(ours.roots[m], new_i.th, VECTORS["sid"], m, *offsets, boot, dial) == said
    assert resume.proves(said, theirs.roots[m], new_r.th)
    assert RESUMED.get_int(answer, "status") == 1
    offsets = [RESUMED.get_int(answer, name) for name in ("received_offset", "send_base")]
    assert resume.answer(theirs.roots[m], new_r.th, said, RESUMED.get(answer, "boot_R"), *offsets) == answer
    assert resume.answers(answer, ours.roots[m], new_i.th, said)

    ours.resume(m, new_i.root, new_i.th, new_i.d)
    theirs.resume(m, new_r.root, new_r.th, new_r.d)
    assert ours.roots == {m + 1: recorded["root_next"]}
    assert theirs.roots == {m: VECTORS["ratchet"]["root"], m + 1: recorded["root_next"]}
    theirs.confirmed()
    assert theirs.roots == {m + 1: recorded["root_next"]}
