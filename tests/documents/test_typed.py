"""What the documents show, typed: docs/MTA.md on two hubs with Postfix, docs/KEYS.md on those and a third machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial

import pytest

from tests.documents.blocks import Block, blocks
from tests.documents.typist import Keyboard, introduced, keyboards
from tests.e2e.processes import missing
from tests.failures.lab import side_by_side

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

HERE, THERE, OFFLINE = "mx.a.example", "mx.b.example", "mx.c.example"
PROGRAMS = ("ip", "nsenter", "unshare", "dnsmasq", "postfix")


@pytest.fixture(scope="module")
def all_three() -> Iterator[list[Keyboard]]:
    if os.geteuid() != 0:
        pytest.skip("needs root (overlays, namespaces): run as root")
    absent = missing(PROGRAMS)
    if absent:
        pytest.skip(f"needs {', '.join(absent)}: apt-get install --no-install-recommends postfix iproute2 dnsmasq-base")
    with keyboards("abc") as made:
        introduced(made[:2])
        yield made


def block(first: str, document: str = "docs/KEYS.md") -> Block:
    return blocks()[document, first]


def parts(found: Block) -> dict[str, list[str]]:
    """The commands of a block, by the machine that the remark above them names."""
    result: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in found.text.splitlines():
        if line.startswith("# on "):
            lines = result.setdefault("offline" if "offline" in line else "hub", [])
        elif line:
            lines.append(line)
    return result


def current(keyboard: Keyboard) -> str:
    """The link key in use."""
    found = re.search(r"^(\S+) +current ", keyboard.types("hubtunnel key list"), re.M)
    assert found is not None
    return found[1]


def serial(keyboard: Keyboard, name: str) -> int:
    """Of the card of that hub, as this one holds it."""
    found = re.search(r"\bcard +(\d+)|\bCard (\d+)", keyboard.types(f"hubtunnel peer show {name}"))
    assert found is not None
    return int(found[1] or found[2])


def test_everything_is_typed_in_the_order_of_a_life(all_three: list[Keyboard]) -> None:
    """One walk, for each part rests on the one before: from the mail server by way of rotations to a second life."""
    here, there, offline = all_three
    _mail(here, there)

    for line in block("hubtunnel key rotate").commands:
        assert "is in force" in here.types(line)

    # A peer that was away: it holds card 3, and three more are made.
    there.types("hubtunnel stop")
    for _ in range(3):
        here.types("hubtunnel key rotate --now")
    give, take = block("hubtunnel card --since 4 > a.cards").commands
    here.types(give)
    here.carries("a.cards", there)
    assert "card 6 is in force (before: 3)" in there.types(take)
    there.types("systemctl start hubtunnel")
    here.wait_until_up()

    # Made here, and typed in there, where it is asked for without being shown.
    make, setting = block("hubtunnel key psk mx.b.example").commands
    (secret,) = re.findall(r"\b[0-9a-f]{64}\b", here.types(make))
    assert secret not in there.types(setting, ("(64 digits): ", secret))
    here.wait_until_up()

    listing, revoke = block("hubtunnel key list").commands
    revoked = current(here)
    assert revoked in here.types(listing)
    here.types(revoke.replace(" ID", f" {revoked}"))
    assert current(here) != revoked
    here.wait_until_up()

    (successor,) = block("hubtunnel key rotate --identity").commands
    assert "This hub has a new identity" in here.types(successor)
    here.wait_until_up()

    _week(here, offline)
    _anew(here, there)


def _mail(here: Keyboard, there: Keyboard) -> None:
    """The mail servers of both are pointed at the tunnel, and `doctor` proves it."""
    *pointing, proving = block("hubtunnel mta postfix --write hubtunnel-postfix", "docs/MTA.md").commands

    def points(keyboard: Keyboard) -> None:
        keyboard.host.make_postfix(keyboard.name, keyboard.name.removeprefix("mx."))
        keyboard.types("postfix start")
        for line in pointing:
            keyboard.types(line)

    side_by_side(partial(points, here), partial(points, there))
    for keyboard in (here, there):
        assert "nothing is wrong" in keyboard.types(proving).splitlines()[-1]


def _week(here: Keyboard, offline: Keyboard) -> None:
    """The identity key moves to a machine without a network, which makes a week's link keys."""
    moving = parts(block("on the hub mx.a.example, as root"))
    for line in moving["hub"]:
        if line.startswith("rm "):
            assert here.path("hub.tar").stat().st_mode & 0o077 == 0, "it holds every private key"
            here.carries("hub.tar", offline)
            for other in moving["offline"]:
                offline.types(other, *(_NEW_PASSPHRASE if "passphrase" in other else ()))
        here.types(line)
    here.wait_until_up()
    assert not here.path("/var/lib/hubtunnel/identity.key").exists()

    week = parts(block("on the offline machine"))
    issue, export = week["offline"]
    offline.types(issue, ("Passphrase of the identity key: ", "secret"))
    offline.types(export, *_NEW_PASSPHRASE)
    offline.carries("week.bundle", here)
    take, *rest = week["hub"]
    here.types(take, ("Passphrase of the bundle: ", "secret"))
    for line in rest:
        here.types(line)
    here.wait_until_up()
    keys = here.types("hubtunnel key list")
    assert len(re.findall(r"^\S+ +next ", keys, re.M)) == 6, keys


def _anew(here: Keyboard, there: Keyboard) -> None:
    """The hub is set up again, and its peer pins it again: both words are read out, and compared."""
    here.types("hubtunnel stop")
    for folder in ("/etc/hubtunnel", "/var/lib/hubtunnel"):
        here.types(f"rm -r {folder}")
    here.types(f"hubtunnel init --name {HERE}")
    here.types("hubtunnel card > a.card")
    here.carries("a.card", there)
    (repin,) = block("hubtunnel peer repin mx.a.example a.card").commands
    words = here.types("hubtunnel card --fingerprint").splitlines()[1]
    asked = there.types(repin, ("Type yes or no: ", "yes"))
    assert words in " ".join(asked.split())


_NEW_PASSPHRASE = (("(empty for none): ", "secret"), ("The same again: ", "secret"))
