"""The short form of the fault bench, and controls: what the bench would say if something were wrong.

The long form is `python -m tests.faults --long`; what it found is kept in results/.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import uvloop

from hubtunnel.demo.letters import Letter
from hubtunnel.demo.sink import Arrived
from hubtunnel.protocol.ratchet import Input, Ratchet
from hubtunnel.protocol.rivals import Rivals
from hubtunnel.protocol.schedule import Secrets
from tests.e2e.processes import missing
from tests.faults import addresses, carriers, cuts, deaths, moments, ratchets, versions
from tests.faults.mail import Account, Harm, NamespacedSink, Outcome, Sender, Task
from tests.faults.stage import bench

real = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]


def need_what_it_takes(*programs: str) -> None:
    """Skip, which under CI is a failure."""
    if os.geteuid() != 0:
        pytest.skip("needs root (network namespaces and TUN devices): run as root")
    absent = missing(("ip", *programs))
    if absent:
        pytest.skip(f"needs {', '.join(absent)}: apt-get install --no-install-recommends postfix iproute2")


def well(result: dict[str, Any]) -> dict[str, Any]:
    """The result, which must be good."""
    assert result["ok"], result
    return result


class TestDaemons:
    """Two daemons on a line of ours."""

    pytestmark = real

    def test_faults_of_every_kind(self) -> None:
        """On one bench: kills over three kinds of line, instants, deaths; and a control that finds what is wrong."""
        need_what_it_takes()
        uvloop.run(self._all_on_one_bench())

    async def _all_on_one_bench(self) -> None:
        async with bench(hold=carriers.HOLD) as stage:
            killed = well(await carriers.run_on(stage, carriers.SHORT))
            assert killed["resumed"] >= carriers.SHORT.kills // 2  # some kills meet no carrier
            assert killed["faults_amid_letters"] > 0
            lossy = well(await carriers.run_on(stage, carriers.SHORT_LOSSY))
            assert lossy["line_counts"]["lost"] > 0
            well(await carriers.run_on(stage, carriers.SHORT_SLOW))
            well(await moments.run_on(stage, moments.SHORT))
            harmed = await carriers.run_on(stage, carriers.CONTROL, harm=(Harm.LOSE, Harm.DOUBLE, Harm.ALTER))
            assert not harmed["ok"]
            assert [harmed[what] for what in ("lost", "doubled", "altered")] == [1, 1, 1]
            dead = well(await deaths.run_on(stage, deaths.SHORT))
            assert dead["killed_amid_letters"] > 0

    def test_address_that_changes(self) -> None:
        """The session goes on from the new one."""
        need_what_it_takes()
        well(uvloop.run(addresses.run()))

    def test_previous_version(self) -> None:
        """Mail, steps and resumes with the version before this one, either of them dialling."""
        need_what_it_takes()
        try:
            commit = versions.previous()
        except versions.NoPreviousError as exc:
            pytest.skip(str(exc))
        with versions.installed(commit) as package:
            well(uvloop.run(versions.run(package)))

    def test_steps_are_made_under_load(self) -> None:
        """Nothing is refused or broken by them, and they come as often as was asked.

        What they cost is for the long form to say, on a machine that does nothing else.
        """
        need_what_it_takes(*ratchets.PROGRAMS)
        found = uvloop.run(ratchets.measure(ratchets.SHORT))
        assert found["every 64 KiB"]["steps_per_second"] > 2


# --- the core -------------------------------------------------------------------------------------------------------


def test_cuts() -> None:
    """At every 97th byte here, at every byte in the long form."""
    found = cuts.run(every=97)
    assert min(found[kind]["cuts"] for kind in cuts.KINDS) > 40


def test_control_a_responder_that_keeps_no_pending_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """RS9: the cut between RK3's way and what answers it is found."""

    def answer_ready(self: Ratchet, rk2: bytes, secrets: Secrets) -> bytes:
        self._move(Input.ANSWER_READY)
        self._pending = secrets
        return rk2

    monkeypatch.setattr(Ratchet, "answer_ready", answer_ready)
    with pytest.raises(AssertionError, match="ratchet, cut after"):
        cuts.run(["ratchet"], every=23)


def test_instants() -> None:
    """Reload, dial, ratchet and rotation at both hubs at once; a thousand times in the long form."""
    assert moments.run_core(60)["instants"] == 60


@pytest.mark.interpreted
def test_control_crossing_sessions_that_nobody_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    """RV1: two sessions that stay are found."""
    monkeypatch.setattr(Rivals, "_settle_crossing", lambda self, rivals, now: None)
    with pytest.raises(AssertionError, match="not back again"):
        moments.run_core(20)


# --- the account ------------------------------------------------------------------------------------------------------


def sender_with(tries: list[Outcome], *, accepted: bool) -> Sender:
    """One that had one letter."""
    sender = Sender(None, ("", 0), "a", "b", [Task(7, 1000, 0.0)], retry=True)  # type: ignore[arg-type]
    sender.letters[7] = Letter("alice@a", "letter-7@b", b"", b"hash")
    sender.attempts[7] = tries
    if accepted:
        sender.accepted.add(7)
    return sender


@pytest.mark.parametrize(
    ("tries", "copies", "explained"),
    [
        ([Outcome.BROKEN_AFTER, Outcome.ACCEPTED], 2, 1),  # the first 250 was lost with the session
        ([Outcome.BROKEN_BEFORE, Outcome.ACCEPTED], 2, 0),  # half a message was taken for a whole
        ([Outcome.BROKEN_AFTER, Outcome.ACCEPTED], 3, 0),  # one copy too many
        ([Outcome.ACCEPTED], 2, 0),
    ],
)
def test_second_copies_are_explained_by_a_lost_250_alone(tries: list[Outcome], copies: int, explained: int) -> None:
    sink = NamespacedSink("b", None, ("", 0))  # type: ignore[arg-type]
    sink.arrived["letter-7@b"] = Arrived(b"hash", 1000, "alice@a", times=copies)
    account = Account()
    account.add(sender_with(tries, accepted=True), sink)
    assert (account.doubled, account.doubled_explained) == (1, explained)
    assert not account.exactly_once
