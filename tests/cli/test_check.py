"""`check`: all that is wrong at once, and nothing that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hubtunnel.cli.check import examine
from hubtunnel.identity.state import State
from tests.cli.hubs import Hub
from tests.identity import making
from tests.identity.making import DAY, NOW, ROOT, add_peer, tree

GOOD = making.signed("b")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = making.hub(tmp_path / "a", "a")
    add_peer(path, "b", GOOD)
    return path


def test_a_good_hub_has_nothing_wrong(config: Path) -> None:
    before = tree(config.parent)
    findings = examine(config, NOW)

    assert (findings.problems, findings.warnings) == ([], [])
    assert any("clock says 2027-01-15T08:00:00Z" in fact for fact in findings.facts)
    assert tree(config.parent) == before, "check changes nothing"


def _no_card(config: Path) -> None:
    (config.parent / "peers.d/mx.b.example.card").unlink()


def _published(config: Path) -> None:
    key = config.parent / "state/keys/0001020304050607.key"
    shutil.copyfile(ROOT / "keys/a/0001020304050607.key", key)
    key.chmod(0o600)
    with State.open(config.parent / "state", write=True) as state:
        published = making.SignedCard.parse(bytes.fromhex(making.vectors()["more"]["card"]["signed"]))
        second = making.signed("a", state.cards()[0], link_keys=published.card.link_keys)
        state.add_card(second)


def _two_cards_that_do_not_fit(config: Path) -> None:
    with State.open(config.parent / "state", write=True) as state:
        state.add_card(making.signed("a", GOOD))


def _identity_of_another(config: Path) -> None:
    with State.open(config.parent / "state", write=True) as state:
        state.identity_path.unlink()
        state.add_identity(making.identity("z"))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "unknown key": (lambda c: c.write_text(c.read_text() + "x = 1\n"), "x: unknown key"),
    "key readable for others": (
        lambda c: next((c.parent / "state/keys").iterdir()).chmod(0o644), "chmod 0600"
    ),
    "identity readable for others": (lambda c: (c.parent / "state/identity.key").chmod(0o640), "chmod 0600"),
    "state readable for others": (lambda c: (c.parent / "state").chmod(0o755), "chmod 0700"),
    "configuration writable for others": (lambda c: c.chmod(0o646), "chmod o-w"),
    "peers writable for others": (lambda c: (c.parent / "peers.d").chmod(0o777), "chmod o-w"),
    "no state": (lambda c: shutil.rmtree(c.parent / "state"), "hubtunnel init"),
    "state of the future": (lambda c: (c.parent / "state/format").write_text("hubtunnel state 9\n"), "newer release"),
    "no card of a peer": (_no_card, "mx.b.example.card: there is no such file"),
    "no card of ours": (lambda c: (c.parent / "state/cards/00000001.card").unlink(), "there is no card of this hub"),
    "damaged card of ours": (lambda c: (c.parent / "state/cards/00000001.card").write_text("x"), "00000001.card"),
    "a foreign card among ours": (_two_cards_that_do_not_fit, "card 2 does not follow card 1"),
    "name is not the card's": (lambda c: c.write_text(c.read_text().replace("mx.a", "mx.z")), "set it back"),
    "identity is not the card's": (_identity_of_another, "is not the identity of card 1"),
    "published test key": (_published, "published test key"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said(config: Path, spoil: Callable[[Path], object], says: str) -> None:
    spoil(config)
    problems = examine(config, NOW).problems

    assert any(says in problem for problem in problems), problems


def test_everything_at_once(config: Path) -> None:
    for spoil, _ in (WRONG[key] for key in (
        "unknown key", "key readable for others", "state readable for others", "identity is not the card's"
    )):  # fmt: skip
        spoil(config)
    assert len(examine(config, NOW).problems) == 4


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        (NOW + 101 * DAY, "every link key is past its window"),
        (NOW - 2 * DAY, "the next begins 2027-01-14T08:00:00Z: is the clock right?"),
        (1000.0, "the clock says 1970-01-01"),
    ],
)
def test_windows_and_the_clock(config: Path, moment: float, says: str) -> None:
    problems = examine(config, moment).problems
    assert any(problem.startswith(("this hub: ", "the clock")) and says in problem for problem in problems), problems


def test_keys_that_end_soon_are_a_warning(config: Path) -> None:
    findings = examine(config, NOW + 71 * DAY)
    assert findings.problems == []
    assert len(findings.warnings) == 2
    assert all("ends in 29 days" in warning for warning in findings.warnings)
    assert examine(config, NOW + 69 * DAY).warnings == []


def test_a_forked_card_beside_an_accepted_one_is_a_warning(config: Path) -> None:
    with State.open(config.parent / "state", write=True) as state:
        from hubtunnel.config import load
        from hubtunnel.identity.pins import load_hub

        load_hub(load(config), state)
    add_peer(config, "b", making.signed("b", policy="forked"))
    findings = examine(config, NOW)
    assert findings.problems == []
    assert "stays in force" in findings.warnings[0]


def test_exit_status_and_output(a: Hub) -> None:
    good = a.run("check")
    assert (good.status, good.out.splitlines()[-1]) == (0, "nothing is wrong")
    (a.folder / "state").chmod(0o755)
    bad = a.run("check")
    assert (bad.status, bad.out.splitlines()[-1]) == (1, "1 problem")
    facts = json.loads(a.run("check", "--json").out)
    assert facts["ok"] is False
    assert len(facts["problems"]) == 1
