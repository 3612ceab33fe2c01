"""The handshake, step by step, and what must end in silence (PROTOCOL.md 4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hubtunnel import crypto
from hubtunnel.protocol import constants as c
from hubtunnel.protocol.handshake import Initiator, Responder
from hubtunnel.protocol.pair import HintTable, PairContext, SeenGates, hedged_seed
from hubtunnel.protocol.wire import M1, M2
from tests.protocol.handshakes import ALICE, BOB, CAROL, HALF_PAST, Party, feed, shake, twin, work

MINUTE = 60.0
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]
BAD_EK = b"\xff" * crypto.MLKEM_PUBLIC_LEN  # every coefficient 4095, above q - 1 = 3328


def drained(responder: Responder, cause: str) -> bool:
    """RD8: silent from here on, whatever comes, for the cause that only our own log knows."""
    assert responder.failed == cause
    assert responder.data_to_send() == b""
    assert responder.next_job() is None
    responder.receive_data(b"more of it" * 1000)
    assert responder.data_to_send() == b""
    assert responder.next_job() is None
    assert responder.established is None
    return responder.draining


def gated(initiator: Initiator, **fields: bytes) -> bytes:
    """An M1 with other fields, and the gate that a holder of the pair's key would put behind them."""
    m1 = initiator.data_to_send()
    values = [fields.get(name, M1.get(m1, name)) for name in M1.offsets if name != "gate"]
    head = b"".join(values)
    return head + crypto.mac(initiator.context.dialling.k_gate, head)[:16]


def answered(initiator: Initiator, responder: Responder, **fields: bytes) -> bytes:
    """The M2 of a responder, with other fields."""
    m2 = feed(responder, initiator.data_to_send())
    return b"".join(fields.get(name, M2.get(m2, name)) for name in M2.offsets)


# --- what works ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("psk", [None, b"k" * 32], ids=["without psk", "with psk"])
def test_HS1_to_RD7_both_ends_agree(psk: bytes | None) -> None:
    """One round trip, and both ends have the same session, each key the other's counterpart."""
    initiator, responder = ALICE.dial(BOB, psk=psk), BOB.accept(BOB.listen(ALICE, psk=psk))
    shake(initiator, responder)
    ours, theirs = initiator.established, responder.established
    assert ours is not None
    assert theirs is not None
    assert (ours.sid, ours.root, ours.th, ours.d) == (theirs.sid, theirs.root, theirs.th, theirs.d)
    assert (ours.t_send, ours.t_receive) == (theirs.t_receive, theirs.t_send)
    assert len({ours.t_send, ours.t_receive, ours.root}) == 3
    assert responder.context is not None
    assert responder.context.peer is ALICE
    assert (ours.initiator, theirs.initiator) == (True, False)


def test_M1_M2_M3_lengths() -> None:
    """The three messages have the lengths of 4.1 and nothing around them."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))
    m1 = initiator.data_to_send()
    m2 = feed(responder, m1)
    feed(initiator, m2)
    assert initiator.established is not None
    assert (len(m1), len(m2), len(initiator.established.first_flight)) == (2337, 2240, 32)
    assert initiator.data_to_send() == b"", "M3 leaves with the first record, in one write (HS7)"


def test_two_handshakes_share_nothing() -> None:
    """Fresh ephemerals every time: no field of M1 but version and hint is ever the same twice."""
    table = BOB.listen(ALICE)
    results = []
    for _ in range(2):
        initiator, responder = ALICE.dial(BOB), BOB.accept(table)
        m1 = initiator.data_to_send()
        m2 = feed(responder, m1)
        feed(initiator, m2)
        assert initiator.established is not None
        fresh = initiator.established
        results.append(
            [M1.get(m1, name) for name in ("eX_I", "eM_I", "ct_R", "gate")]
            + [M2.get(m2, name) for name in M2.offsets]
            + [fresh.root, fresh.sid, fresh.t_send, fresh.t_receive]
        )
    assert not set(results[0]) & set(results[1])


def test_RD7_what_follows_M3_belongs_to_the_link() -> None:
    """Records in the same segment as M3 are handed on, to the last byte."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))
    feed(initiator, feed(responder, initiator.data_to_send()))
    assert initiator.established is not None
    feed(responder, initiator.established.first_flight + b"records")
    assert responder.established is not None
    assert responder.established.leftover == b"records"


def test_HS5_what_follows_M2_is_kept() -> None:
    """A responder says nothing between M2 and M3; should it, the link decides, and no byte is lost."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))
    feed(initiator, feed(responder, initiator.data_to_send()) + b"early")
    assert initiator.established is not None
    assert initiator.established.leftover == b"early"


def test_HS5_a_flood_behind_M2_is_not_buffered() -> None:
    """More than one record behind M2 ends the dial instead of growing a buffer."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))
    initiator.receive_data(feed(responder, initiator.data_to_send()))
    job = initiator.next_job()
    assert job is not None
    initiator.receive_data(bytes(c.RECORD_BODY_MAX + 1))
    assert initiator.failed == "auth"
    initiator.job_done(job, job.run())
    assert initiator.established is None
    assert initiator.failed == "auth"


def test_failed_dial_keeps_its_first_reason() -> None:
    """Work that ends in an error after the dial has failed does not change why it failed."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))
    initiator.receive_data(feed(responder, initiator.data_to_send()))
    job = initiator.next_job()
    assert job is not None
    initiator.receive_data(bytes(c.RECORD_BODY_MAX + 1))
    initiator.job_done(job, ValueError("late"))
    assert initiator.failed == "auth"


# --- the hour -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes", [-59, -31, 0, 31, 59])
def test_PC8_clock_less_than_an_hour_away(minutes: int) -> None:
    """At any minute of the hour, a clock that is wrong by less than an hour is no obstacle."""
    for now in (HALF_PAST - 30 * MINUTE, HALF_PAST, HALF_PAST + 29.9 * MINUTE):
        initiator = ALICE.dial(BOB, now + minutes * MINUTE)
        shake(initiator, BOB.accept(BOB.listen(ALICE, unix_time=now)))


@pytest.mark.parametrize("minutes", [-180, -91, 91, 180])
def test_PC8_clock_more_than_an_hour_away(minutes: int) -> None:
    """A clock that is wrong by so much that the hour is not among the three: an unknown hint, silence."""
    responder = BOB.accept(BOB.listen(ALICE))
    responder.receive_data(ALICE.dial(BOB, HALF_PAST + minutes * MINUTE).data_to_send())
    assert drained(responder, "unknown_hint")


@pytest.mark.parametrize("minutes", [-61, 61])
def test_PC8_sixty_one_minutes_depend_on_the_minute(minutes: int) -> None:
    """61 minutes are another hour but one only near the edge of an hour: there it is silence, in the middle not."""
    edge = HALF_PAST - 30 * MINUTE if minutes < 0 else HALF_PAST + 29.9 * MINUTE
    responder = BOB.accept(BOB.listen(ALICE, unix_time=edge))
    responder.receive_data(ALICE.dial(BOB, edge + minutes * MINUTE).data_to_send())
    assert drained(responder, "unknown_hint")
    shake(ALICE.dial(BOB, HALF_PAST + minutes / abs(minutes) * 61 * MINUTE), BOB.accept(BOB.listen(ALICE)))


def test_PC8_table_is_made_anew_with_the_hour() -> None:
    """`rebuild_needed` tells when; the new table knows the new hours and no longer the oldest."""
    table = BOB.listen(ALICE)
    assert not table.rebuild_needed(HALF_PAST + 29 * MINUTE)
    assert table.rebuild_needed(HALF_PAST + 31 * MINUTE)
    assert table.rebuild_needed(HALF_PAST - 31 * MINUTE), "the clock was set back"
    later = table.rebuilt([BOB.context(ALICE)], HALF_PAST + c.HOUR)
    hint = BOB.context(ALICE).listening.hint
    hour = int(HALF_PAST // c.HOUR)
    assert [later.find(hint(hour + n)) is not None for n in (-1, 0, 1, 2, 3)] == [False, True, True, True, False]


def test_PC8_contexts_of_a_table_change_without_the_others() -> None:
    """What goes is no longer found, what comes is, and who is not named stays; what has another name by then stays."""
    table = BOB.listen(ALICE, CAROL)
    alice, carol = BOB.context(ALICE), BOB.context(CAROL)
    hour = int(HALF_PAST // c.HOUR)

    def found(context: PairContext) -> list[object]:
        return [entry and entry[0] for n in (-1, 0, 1) for entry in [table.find(context.listening.hint(hour + n))]]

    table.change([alice], [])
    assert (found(alice), found(carol)) == ([None] * 3, [carol] * 3)
    table.change([], [alice])
    assert found(alice) == [alice] * 3
    renamed = replace(alice, peer="another name")
    table.change([carol], [renamed])
    table.change([alice], [carol])
    assert (found(renamed), found(carol)) == ([renamed] * 3, [carol] * 3)


def test_PC6_hints_of_two_hours_have_nothing_in_common() -> None:
    """The first 17 bytes of a dial differ between hours but for the version."""
    first = ALICE.dial(BOB).data_to_send()[:17]
    second = ALICE.dial(BOB, HALF_PAST + c.HOUR).data_to_send()[:17]
    assert first[0] == second[0] == c.VERSION
    assert first[1:] != second[1:]


# --- silence ------------------------------------------------------------------------------------------------------


def test_RD2_another_version() -> None:
    """Seventeen bytes with another version: silence, and no look-up is needed."""
    responder = BOB.accept(BOB.listen(ALICE))
    responder.receive_data(b"\x02" + ALICE.dial(BOB).data_to_send()[1:17])
    assert drained(responder, "version")


def test_RD2_a_stranger() -> None:
    """Someone whom this hub does not know finds silence after 17 bytes."""
    responder = BOB.accept(BOB.listen(ALICE))
    responder.receive_data(CAROL.dial(BOB).data_to_send()[:17])
    assert drained(responder, "unknown_hint")


def test_RD2_nothing_is_decided_before_17_bytes() -> None:
    """Sixteen bytes of anything are just too few bytes."""
    responder = BOB.accept(BOB.listen(ALICE))
    responder.receive_data(b"\xff" * 16)
    assert not responder.draining
    assert responder.next_job() is None


def test_PC8_reflection() -> None:
    """A hub that is sent its own M1 does not know it: only the direction in which it responds is in the table."""
    m1 = ALICE.dial(BOB).data_to_send()
    responder = ALICE.accept(ALICE.listen(BOB))
    responder.receive_data(m1)
    assert drained(responder, "unknown_hint")


def test_RD4_wrong_psk() -> None:
    """Without the psk there is not even the right hint."""
    responder = BOB.accept(BOB.listen(ALICE, psk=b"k" * 32))
    responder.receive_data(ALICE.dial(BOB).data_to_send())
    assert drained(responder, "unknown_hint")
    responder = BOB.accept(BOB.listen(ALICE, psk=b"k" * 32))
    responder.receive_data(ALICE.dial(BOB, psk=b"l" * 32).data_to_send())
    assert drained(responder, "unknown_hint")


def test_RD4_hint_of_one_pin_with_the_gate_of_another() -> None:
    """A pinned peer that has seen another one's hint cannot use it: the gate is that pair's."""
    seen = ALICE.dial(BOB).data_to_send()
    responder = BOB.accept(BOB.listen(ALICE, CAROL))
    responder.receive_data(gated(CAROL.dial(BOB), hint=M1.get(seen, "hint")))
    assert drained(responder, "bad_gate")


def test_RD5_replay() -> None:
    """A recorded M1 is answered once by this process, in this hour and in the next."""
    m1 = ALICE.dial(BOB).data_to_send()
    table = BOB.listen(ALICE)
    assert len(feed(BOB.accept(table), m1)) == c.M2_LEN
    again = BOB.accept(table)
    again.receive_data(m1)
    assert drained(again, "replay")
    table = table.rebuilt([BOB.context(ALICE)], HALF_PAST + c.HOUR)
    again = BOB.accept(table)
    again.receive_data(m1)
    assert drained(again, "replay")
    table = table.rebuilt([BOB.context(ALICE)], HALF_PAST + 2 * c.HOUR)
    again = BOB.accept(table)
    again.receive_data(m1)
    assert drained(again, "unknown_hint")


def test_RD5_replay_after_a_restart_is_worth_one_answer() -> None:
    """A new process has forgotten: it says M2 once more, which is of no use without the ephemeral keys."""
    m1 = ALICE.dial(BOB).data_to_send()
    table = BOB.listen(ALICE)
    feed(BOB.accept(table), m1)
    restarted = BOB.listen(ALICE)
    responder = BOB.accept(restarted)
    assert len(feed(responder, m1)) == c.M2_LEN
    assert feed(responder, bytes(32)) == b""
    assert drained(responder, "bad_auth")
    once_more = BOB.accept(restarted)
    once_more.receive_data(m1)
    assert drained(once_more, "replay")


def test_RD5_same_tag_of_two_pins() -> None:
    """Tags are remembered for each pin: what one has used up is nothing to another."""
    seen = SeenGates()
    assert seen.add(b"one", 5, b"tag")
    assert not seen.add(b"one", 5, b"tag")
    assert seen.add(b"two", 5, b"tag")
    assert seen.add(b"one", 6, b"tag")


def test_RD5_tags_are_bounded() -> None:
    """2048 for each pin and hour; then silence rather than forgetting. Old hours are let go."""
    seen = SeenGates()
    tags = [n.to_bytes(16, "big") for n in range(c.SEEN_GATES_PER_PIN + 1)]
    assert all(seen.add(b"pin", 7, tag) for tag in tags[:-1])
    assert not seen.add(b"pin", 7, tags[-1])
    assert seen.add(b"another", 7, tags[-1])
    assert seen.add(b"pin", 8, tags[-1])
    seen.forget_before(8)
    assert seen.add(b"pin", 7, tags[0])


@pytest.mark.parametrize("point", LOW_ORDER, ids=[point.hex()[:8] for point in LOW_ORDER])
def test_RD6_low_order_ephemeral(point: bytes) -> None:
    """A low-order eX_I behind a good gate: silence, and no M2."""
    responder = BOB.accept(BOB.listen(ALICE))
    assert feed(responder, gated(ALICE.dial(BOB), eX_I=point)) == b""
    assert drained(responder, "bad_key")


def test_RD6_encapsulation_key_fails_the_modulus_check() -> None:
    """An eM_I with coefficients above q behind a good gate: silence, and no M2."""
    responder = BOB.accept(BOB.listen(ALICE))
    assert feed(responder, gated(ALICE.dial(BOB), eM_I=BAD_EK)) == b""
    assert drained(responder, "bad_key")


def test_RD6_any_exception_in_the_work_is_silence() -> None:
    """Should our own code break, a stranger does not learn it."""
    responder = BOB.accept(BOB.listen(ALICE))
    responder.receive_data(ALICE.dial(BOB).data_to_send())
    job = responder.next_job()
    assert job is not None
    responder.job_done(job, MemoryError())
    assert drained(responder, "exception")


def test_RD7_wrong_auth() -> None:
    """An initiator that does not hold the link key gets M2 and then silence."""
    responder = BOB.accept(BOB.listen(ALICE))
    feed(responder, ALICE.dial(BOB).data_to_send())
    assert responder.answered
    responder.receive_data(bytes(32))
    assert drained(responder, "bad_auth")
    assert responder.answered


def test_RD7_thief_of_the_pair_key_is_not_let_in() -> None:
    """Whoever can make hint, gate and chain, but has another X25519 and ML-KEM key, fails at auth_I (se, kI)."""
    thief = Party(b"t", 99)
    genuine = ALICE.context(BOB)
    responder = BOB.accept(BOB.listen(ALICE))
    forged = type(genuine)(BOB, ALICE.idfp, BOB.idfp, thief.secret, genuine.theirs, genuine.dialling, genuine.listening)
    initiator = Initiator(forged, HALF_PAST, thief.rng.bytes(96))
    work(initiator)
    m2 = feed(responder, initiator.data_to_send())
    assert len(m2) == c.M2_LEN
    feed(initiator, m2)
    assert initiator.failed == "auth", "it cannot even tell whether R is R"
    responder.receive_data(bytes(32))
    assert drained(responder, "bad_auth")


def test_RD7_bytes_between_M1_and_M3_are_the_beginning_of_M3() -> None:
    """What comes before M2 was sent counts towards M3, which it cannot be."""
    responder = BOB.accept(BOB.listen(ALICE))
    responder.receive_data(ALICE.dial(BOB).data_to_send() + bytes(31))
    work(responder)
    assert len(responder.data_to_send()) == c.M2_LEN
    assert not responder.draining
    responder.receive_data(b"\0")
    assert drained(responder, "bad_auth")


@pytest.mark.parametrize("together", [True, False], ids=["in one segment", "behind M1"])
def test_RD7_early_data_is_not_buffered(together: bool) -> None:
    """More than an M3 before M2 was sent is nothing that an honest hub does: silence before the work."""
    responder = BOB.accept(BOB.listen(ALICE))
    m1 = ALICE.dial(BOB).data_to_send()
    if together:
        responder.receive_data(m1 + bytes(33))
    else:
        responder.receive_data(m1)
        responder.receive_data(bytes(33))
    assert drained(responder, "early_data")


def test_RD8_work_that_ends_after_the_drain_changes_nothing() -> None:
    """A result that comes back to a responder that already drains is thrown away."""
    responder = BOB.accept(BOB.listen(ALICE))
    responder.receive_data(ALICE.dial(BOB).data_to_send())
    job = responder.next_job()
    assert job is not None
    responder.receive_data(bytes(33))
    responder.job_done(job, job.run())
    assert drained(responder, "early_data")


# --- the initiator's side -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", LOW_ORDER, ids=[point.hex()[:8] for point in LOW_ORDER])
def test_HS6_low_order_ephemeral(point: bytes) -> None:
    """A low-order eX_R: the dial has failed, as an event of security."""
    initiator = ALICE.dial(BOB)
    feed(initiator, answered(initiator, BOB.accept(BOB.listen(ALICE)), eX_R=point))
    assert initiator.failed == "auth"
    assert initiator.established is None


def test_HS6_answer_of_another_dial() -> None:
    """M2s of two dials, swapped, fail at both."""
    table = BOB.listen(ALICE)
    one, two = ALICE.dial(BOB), ALICE.dial(BOB)
    first, second = feed(BOB.accept(table), one.data_to_send()), feed(BOB.accept(table), two.data_to_send())
    feed(one, second)
    feed(two, first)
    assert (one.failed, two.failed) == ("auth", "auth")


def test_HS6_another_responder() -> None:
    """Another pinned hub that passes M1 on and answers with its own keys is not taken for the one dialled."""
    impostor = Party(b"i", 77)
    genuine = BOB.context(ALICE)
    forged = type(genuine)(
        ALICE, BOB.idfp, ALICE.idfp, impostor.secret, genuine.theirs, genuine.dialling, genuine.listening
    )
    initiator = ALICE.dial(BOB)
    m2 = feed(Responder(HintTable([forged], HALF_PAST), impostor.rng.seed), initiator.data_to_send())
    assert len(m2) == c.M2_LEN, "it holds K_pair, so it can get this far"
    feed(initiator, m2)
    assert initiator.failed == "auth"


def test_HS6_weak_generator_at_one_hub_does_not_make_keys_equal() -> None:
    """Constant ephemerals at the initiator: sessions still differ by what the responder brings."""
    roots = set()
    table = BOB.listen(ALICE)
    for _ in range(2):
        initiator = Initiator(ALICE.context(BOB), HALF_PAST, bytes(96))
        work(initiator)
        responder = BOB.accept(table)
        shake(initiator, responder)
        assert initiator.established is not None
        roots.add(initiator.established.root)
    assert len(roots) == 2


def test_initiator_first_job_fails() -> None:
    """A peer's key that cannot be used ends the dial before a byte is sent."""
    initiator = Initiator(ALICE.context(BOB), HALF_PAST, bytes(96))
    job = initiator.next_job()
    assert job is not None
    initiator.job_done(job, crypto.CryptoError("refused"))
    assert initiator.failed == "key"
    assert initiator.data_to_send() == b""


def test_established_says_nothing_secret() -> None:
    """No repr shows keys: not of a context, a link key, an offer or an established handshake."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))
    shake(initiator, responder)
    fresh = initiator.established
    assert fresh is not None
    shown = repr(fresh) + repr(ALICE.context(BOB)) + repr(ALICE.secret)
    for secret in (fresh.root, fresh.t_send, fresh.t_receive, ALICE.secret.x25519_private, ALICE.secret.mlkem_seed):
        assert repr(secret)[2:-1] not in shown
    assert repr(ALICE.context(BOB).dialling.chain)[2:-1] not in shown
    assert repr(fresh.sid)[2:-1] in shown, "control: what is public is shown, so that the search can find"


def test_HS2_seed_depends_on_everything() -> None:
    """Entropy, time, counter and the private key each change the seed; with all equal it is the same."""
    base = hedged_seed(ALICE.secret, b"e" * 64, 1, 1)
    assert len(base) == c.EPHEMERAL_SEED_LEN
    assert hedged_seed(ALICE.secret, b"e" * 64, 1, 1) == base
    others = [
        hedged_seed(ALICE.secret, b"f" * 64, 1, 1),
        hedged_seed(ALICE.secret, b"e" * 64, 2, 1),
        hedged_seed(ALICE.secret, b"e" * 64, 1, 2),
        hedged_seed(BOB.secret, b"e" * 64, 1, 1),
    ]
    assert len({base, *others}) == 5


# --- every byte ---------------------------------------------------------------------------------------------------


def small(layout_offsets: dict[str, tuple[int, int]], at: int) -> bool:
    """Whether a byte lies in a field that is short enough for every one of its bits to be flipped."""
    return any(start <= at < end and end - start <= 32 for start, end in layout_offsets.values())


def flips(length: int, offsets: dict[str, tuple[int, int]]) -> list[tuple[int, int]]:
    """(byte, bit): all bits of the short fields; of the large ones one bit a byte, a different one each time."""
    return [(at, bit) for at in range(length) for bit in (range(8) if small(offsets, at) else [(at * 5 + 3) % 8])]


def flipped(message: bytes, at: int, bit: int) -> bytes:
    """A message with one bit turned."""
    return message[:at] + bytes((message[at] ^ 1 << bit,)) + message[at + 1 :]


def test_every_bit_of_M1() -> None:
    """Any flip in M1 is silence: at the version, at the hint, or at the gate, which covers everything."""
    m1 = ALICE.dial(BOB).data_to_send()
    table = BOB.listen(ALICE)
    causes = {}
    for at, bit in flips(c.M1_LEN, M1.offsets):
        responder = BOB.accept(table)
        responder.receive_data(flipped(m1, at, bit))
        assert responder.next_job() is None
        assert responder.draining
        causes[responder.failed] = causes.get(responder.failed, 0) + 1
    assert causes == {"version": 8, "unknown_hint": 128, "bad_gate": 32 * 8 + 1184 + 1088 + 16 * 8}
    assert len(feed(BOB.accept(table), m1)) == c.M2_LEN, "control: the message itself is good, and its tag still new"


def test_every_byte_of_M2() -> None:
    """A flip in any byte of M2 ends the dial with `auth` (implicit rejection: nothing is told apart)."""
    initiator = ALICE.dial(BOB)
    m2 = feed(BOB.accept(BOB.listen(ALICE)), initiator.data_to_send())
    for at, bit in flips(c.M2_LEN, {}):
        other = twin(initiator)
        assert feed(other, flipped(m2, at, bit)) == b""
        assert other.failed == "auth", f"byte {at}, bit {bit}"
        assert other.established is None
    feed(initiator, m2)
    assert initiator.established is not None, "control"


def test_every_bit_of_M3() -> None:
    """Any flip in M3 is silence."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))
    feed(initiator, feed(responder, initiator.data_to_send()))
    assert initiator.established is not None
    m3 = initiator.established.first_flight
    for at in range(c.M3_LEN):
        for bit in range(8):
            other = twin(responder)
            other.receive_data(flipped(m3, at, bit))
            assert drained(other, "bad_auth")
    responder.receive_data(m3)
    assert responder.established is not None, "control"


def test_every_truncation_of_M1() -> None:
    """A part of M1, however long, makes the responder wait: no word, no work, no error, no tag used up."""
    m1 = ALICE.dial(BOB).data_to_send()
    table = BOB.listen(ALICE)
    for length in range(c.M1_LEN):
        responder = BOB.accept(table)
        responder.receive_data(m1[:length])
        assert responder.next_job() is None
        assert not responder.draining
        assert responder.data_to_send() == b""
    assert len(feed(BOB.accept(table), m1)) == c.M2_LEN


def test_every_truncation_of_M2_and_M3() -> None:
    """A part of M2 or M3 makes the other side wait."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))
    m2 = feed(responder, initiator.data_to_send())
    for at in range(c.M2_LEN - 1):
        initiator.receive_data(m2[at : at + 1])
        assert initiator.next_job() is None
    feed(initiator, m2[-1:])
    assert initiator.established is not None
    m3 = initiator.established.first_flight
    for length in range(c.M3_LEN):
        other = twin(responder)
        other.receive_data(m3[:length])
        assert other.established is None
        assert not other.draining


@pytest.mark.parametrize("size", [1, 2, 16, 17, 18, 1000, 2336, 2337])
def test_split_of_the_input_does_not_matter(size: int) -> None:
    """Messages in pieces of any size, trailing bytes included, lead to the same end."""
    initiator, responder = ALICE.dial(BOB), BOB.accept(BOB.listen(ALICE))

    def dribble(handshake: Initiator | Responder, data: bytes) -> bytes:
        out = b""
        for at in range(0, len(data), size):
            out += feed(handshake, data[at : at + size])
        return out

    dribble(initiator, dribble(responder, initiator.data_to_send()))
    assert initiator.established is not None
    trailing = b"first record"
    responder_in = initiator.established.first_flight + trailing
    dribble(responder, responder_in[:32])
    assert responder.established is not None
    assert responder.established.root == initiator.established.root
