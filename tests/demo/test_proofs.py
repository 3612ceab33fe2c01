"""Each proof of the demo fails when what it claims is not so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.demo.hubs import Hub
from hubtunnel.demo.letters import needles
from hubtunnel.demo.post import Posted, PostOffice
from hubtunnel.demo.proofs import Proof, Report, amount, many
from hubtunnel.demo.scenario import (
    PRESENT_AS,
    Moved,
    Struck,
    prove_harm,
    prove_keys,
    prove_mail,
    prove_origin,
    prove_rotation,
    prove_secrecy,
    prove_strangers,
)
from hubtunnel.demo.search import Findings, search
from hubtunnel.demo.show import Show
from hubtunnel.demo.sink import Arrived, Sink
from hubtunnel.demo.stage import FAR, NEAR, Side, Stage, in_sessions
from hubtunnel.demo.tap import Fault, Harm, Passage, Tap, Way

MARK = b"ABCDEFGHIJKLMNOP"
QUIET = Show(quiet=True)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A stage on which nothing runs, after a run in which all went well: three letters out, two back, one carrier."""
    with PostOffice(1) as office:

        def side(name: str, peer_domain: str) -> Side:
            hub = Hub(name, tmp_path / name, listen=1, submit=2, deliver=3)
            return Side(hub, Sink(name, proxy=True), office, peer_domain)

        made = Stage(
            tmp_path, side(NEAR, "far.example"), side(FAR, "near.example"), Tap(("127.0.0.1", 1), tmp_path), MARK
        )
        for end, other, count in ((made.near, made.far, 3), (made.far, made.near, 2)):
            end.sent = made.write([1_000] * count, end.hub.domain, end.peer_domain)
            end.posted = Posted(sessions=1, accepted=count)
            for letter in end.sent:
                other.sink.arrived[letter.recipient] = Arrived(letter.sha256, letter.size, letter.sender)
            other.sink.proxied, other.sink.sources = 1, {PRESENT_AS[end.hub.name]}
        passage = Passage(1, {Way.OUT: 6_000, Way.BACK: 4_000}, ended_by="far end")
        for way, size in passage.count.items():
            passage.files[way] = tmp_path / f"{way.value}.bin"
            passage.files[way].write_bytes(bytes(size))
        made.tap.passages.append(passage)
        yield made


def only(report: Report) -> Proof:
    assert len(report.proofs) == 1
    return report.proofs[0]


def mail_of(stage: Stage) -> Proof:
    report = Report("0")
    prove_mail(stage, report)
    return only(report)


def test_mail_that_arrived_is_proved(stage: Stage) -> None:
    proof = mail_of(stage)
    assert proof.proved
    assert "5 messages" in proof.evidence


def test_a_missing_letter_is_not_overlooked(stage: Stage) -> None:
    del stage.far.sink.arrived["letter-2@far.example"]
    proof = mail_of(stage)
    assert not proof.proved
    assert "1 missing (letter-2@far.example)" in proof.evidence


@pytest.mark.parametrize("change", [{"sha256": b"other"}, {"times": 2}, {"sender": "mallory@near.example"}])
def test_nor_is_one_that_came_otherwise(stage: Stage, change: dict[str, Any]) -> None:
    for key, value in change.items():
        setattr(stage.near.sink.arrived["letter-4@near.example"], key, value)
    proof = mail_of(stage)
    assert not proof.proved
    assert "letter-4@near.example" in proof.evidence


def test_nor_is_an_error_that_a_client_saw(stage: Stage) -> None:
    stage.far.posted.errors.append("letter-5: reset")
    proof = mail_of(stage)
    assert not proof.proved
    assert "letter-5: reset" in proof.evidence


def test_no_mail_at_all_proves_nothing(stage: Stage) -> None:
    for side in (stage.near, stage.far):
        side.sent = []
    assert not mail_of(stage).proved


def secrecy_of(stage: Stage, control: Findings, *, mail: int = 5_000) -> Report:
    report = Report("0", bytes=mail)
    asyncio.run(prove_secrecy(stage, QUIET, control, report))
    return report


@pytest.fixture
def control(tmp_path: Path) -> Findings:
    """A control run in which the search found everything."""
    plain = tmp_path / "plain"
    plain.write_bytes(b" ".join(needles(MARK).values()))
    return search([plain], needles(MARK))


def test_silence_on_the_wire_is_proved_with_its_control(stage: Stage, control: Findings) -> None:
    report = secrecy_of(stage, control)
    assert only(report).proved
    assert report.plaintext_on_wire == 0
    assert report.wire_bytes == 10_000


@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("needle", needles(MARK).values())
def test_one_piece_of_clear_text_is_enough(stage: Stage, control: Findings, way: Way, needle: bytes) -> None:
    path = stage.tap.passages[0].files[way]
    path.write_bytes(path.read_bytes() + needle)
    report = secrecy_of(stage, control)
    assert not only(report).proved
    assert report.plaintext_on_wire == 1
    assert path.name in only(report).evidence


def test_a_letter_in_clear_is_found(stage: Stage, control: Findings) -> None:
    path = stage.tap.passages[0].files[Way.OUT]
    path.write_bytes(bytes(5_000) + stage.near.sent[0].content[200:400])
    assert not only(secrecy_of(stage, control)).proved


def test_a_control_that_missed_something_spoils_it(stage: Stage, control: Findings) -> None:
    control.hits[":<letter-"] = 0
    proof = only(secrecy_of(stage, control))
    assert not proof.proved
    assert "missed :<letter-" in proof.evidence


def test_a_recording_smaller_than_the_mail_spoils_it(stage: Stage, control: Findings) -> None:
    assert not only(secrecy_of(stage, control, mail=20_000)).proved


def session(identity: str = "aa", epoch: int = 0, resumed: int = 0) -> dict[str, Any]:
    return {"session": {"id": identity, "epoch": epoch, "resumed": resumed}}


def struck(harm: Harm, **changes: Any) -> Struck:
    fault = Fault(harm, Way.OUT, 0, passage=Passage(1), at=500)
    values = {
        "fault": fault,
        "ended": True,
        "before": session(),
        "after": session(resumed=1),
        "posted": Posted(sessions=4, accepted=4),
    }
    return Struck(**(values | changes))


def test_harm_that_was_survived_is_proved() -> None:
    report = Report("0")
    prove_harm([struck(Harm.FLIP), struck(Harm.CUT), struck(Harm.CUT)], report)
    assert [proof.proved for proof in report.proofs] == [True, True]
    assert (report.carriers_flipped, report.carriers_cut, report.sessions_resumed) == (1, 2, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"ended": False},
        {"after": session()},  # not resumed
        {"after": session("bb", resumed=1)},  # another session
        {"posted": Posted(sessions=4, accepted=3, errors=["letter-9: reset"])},
        {"fault": Fault(Harm.FLIP, Way.OUT, 0), "ended": False},  # never struck
    ],
)
def test_harm_that_was_not_survived_is_not(changes: dict[str, Any]) -> None:
    report = Report("0")
    prove_harm([struck(Harm.FLIP, **changes), struck(Harm.CUT)], report)
    assert [proof.proved for proof in report.proofs] == [False, True]
    assert report.proofs[0].evidence


def test_no_harm_at_all_proves_nothing() -> None:
    report = Report("0")
    prove_harm([], report)
    assert [proof.proved for proof in report.proofs] == [False, False]


@pytest.mark.parametrize(
    ("after", "proved"),
    [
        (session(epoch=2), True),
        (session(epoch=5, resumed=3), True),
        (session(epoch=4, resumed=3), False),  # one step, and three resumptions that also count epochs
        (session(epoch=0), False),
        (session("bb", epoch=9), False),
    ],
)
def test_keys_have_to_move_by_ratchet_steps(after: dict[str, Any], proved: bool) -> None:
    report = Report("0")
    prove_keys(session(), after, report)
    assert only(report).proved is proved


def rests_on(key: str, sid: str = "aa") -> dict[str, Any]:
    return {"link_key": {"ours": {"id": key}}, "session": {"id": sid}}


@pytest.mark.parametrize(
    ("after", "errors", "proved"),
    [
        (rests_on("k2"), [], True),
        (rests_on("k1"), [], False),
        (rests_on("k2", "bb"), [], False),
        (rests_on("k2"), ["someone@far.example: SMTPServerDisconnected"], False),
    ],
)
def test_a_rotation_that_costs_something_is_noticed(after: dict[str, Any], errors: list[str], proved: bool) -> None:
    report = Report("0")
    prove_rotation(Moved(rests_on("k1"), after, 1.0), errors, report)
    assert only(report).proved is proved


@pytest.mark.parametrize(
    ("answers", "proved"),
    [({"noise": 0, "silence": 0}, True), ({"noise": 1, "silence": 0}, False), ({}, False)],
)
def test_a_byte_for_a_stranger_is_one_too_many(stage: Stage, answers: dict[str, int], proved: bool) -> None:
    report = Report("0")
    prove_strangers(stage, answers, report)
    assert only(report).proved is proved


def test_silence_towards_everybody_proves_nothing(stage: Stage) -> None:
    stage.tap.passages[0].count[Way.BACK] = 0
    report = Report("0")
    prove_strangers(stage, {"noise": 0}, report)
    assert not only(report).proved


@pytest.mark.parametrize("sources", [{"127.0.0.1"}, {"192.0.2.1", "127.0.0.1"}, set()])
def test_mail_that_looks_local_is_noticed(stage: Stage, sources: set[str]) -> None:
    report = Report("0")
    prove_origin(stage, report)
    assert only(report).proved
    stage.far.sink.sources = sources
    report = Report("0")
    prove_origin(stage, report)
    assert not only(report).proved


def test_a_report_is_ok_only_when_complete_and_all_held() -> None:
    report = Report("0")
    assert not report.ok
    report.prove("it holds", True, "seen")
    assert not report.ok, "a run that was broken off proved nothing"
    report.complete = True
    assert report.ok
    report.prove("it does not", False, "seen")
    assert not report.ok
    assert report.as_json()["ok"] is False


def test_the_json_has_what_programs_rely_on() -> None:
    keys = {
        "ok",
        "messages",
        "bytes",
        "identical",
        "plaintext_on_wire",
        "epochs",
        "carriers_cut",
        "rotations",
        "seconds",
    }
    assert keys <= set(Report("0").as_json())


def test_sessions_hold_every_letter_once_and_are_of_both_kinds(stage: Stage) -> None:
    letters = stage.write([1_000] * 23 + [50_000] * 2, "near.example", "far.example")
    sessions = in_sessions(letters)
    assert sorted(map(id, letters)) == sorted(id(letter) for session in sessions for letter in session)
    assert {len(session) for session in sessions} >= {1, 5}


def test_words_for_amounts() -> None:
    assert [amount(size) for size in (999, 1_000, 999_499, 1_000_000, 9_949_999, 25_000_000)] == [
        "999 B",
        "1 KB",
        "999 KB",
        "1.0 MB",
        "9.9 MB",
        "25 MB",
    ]
    assert [many(1, "message"), many(1_234, "message")] == ["1 message", "1,234 messages"]
