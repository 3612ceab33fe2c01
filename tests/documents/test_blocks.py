"""Every block of every document is typed, read or compared by a test, and the table here says by which."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from hubtunnel.mta import flush
from tests.cli.hubs import Hub
from tests.documents.blocks import DOCUMENTS, Block, blocks, outside
from tests.meta.tree import ROOT

README, KEYS, MTA = "README.md", "docs/KEYS.md", "docs/MTA.md"
OPERATING, LOG, PROTOCOL, FORMATS = "docs/OPERATING.md", "docs/LOG.md", "docs/PROTOCOL.md", "keys/README.md"

TYPED = "tests/documents/test_typed.py"
HERE = "tests/documents/test_blocks.py"
BARE = "tests/package/bare.py"
"""By command, since it takes ten minutes and the network; its kept result is compared here."""
SPECIFIED = "tests/meta/test_protocol_document.py"
"""Layouts, formulas and pictures: nothing to type. That test compares the document with the code."""

HOW = {
    (README, "sh contrib/try demo"): ".ci/run",
    (README, "sh contrib/try test"): ".ci/run",
    (README, "sh contrib/try setup"): ".ci/run",
    (
        README,
        "- control: the search for clear text, over plain SMTP, where it has to find it",
    ): "tests/meta/test_readme.py",
    (
        README,
        ".venv/bin/hubtunnel init --name mx.a.example --dir a --listen 127.0.0.1:26251 --deliver 127.0.0.1:2601",
    ): "tests/meta/test_readme.py",
    (
        README,
        ".venv/bin/hubtunnel init --name mx.b.example --dir b --listen 127.0.0.1:26252 --deliver 127.0.0.1:2602",
    ): "tests/meta/test_readme.py",
    # Installs into this system's /opt and /usr. `.ci/run` installs the wheel so; the units are those of test_unit.
    (README, "python3 -m venv /opt/hubtunnel"): "tests/package/test_unit.py",
    (README, "hubtunnel init --name mx.a.example"): BARE,
    (README, "hubtunnel mta postfix --write hubtunnel-postfix"): TYPED,
    (KEYS, "hubtunnel key rotate"): TYPED,
    (KEYS, "hubtunnel card --since 4 > a.cards"): TYPED,
    (KEYS, "on the hub mx.a.example, as root"): TYPED,
    (KEYS, "on the offline machine"): TYPED,
    (KEYS, "hubtunnel peer repin mx.a.example a.card"): TYPED,
    (KEYS, "hubtunnel key list"): TYPED,
    (KEYS, "hubtunnel key rotate --identity"): TYPED,
    (KEYS, "hubtunnel key psk mx.b.example"): TYPED,
    # Need a systemd, which asks for the passphrase on the console: there it comes from a pipe.
    (KEYS, "cd /etc/hubtunnel"): "tests/package/test_unit.py",
    (KEYS, "[Service]"): "tests/package/test_unit.py",
    (MTA, "hubtunnel mta postfix --write hubtunnel-postfix"): TYPED,
    (MTA, 'listen_users = ["postfix"]'): HERE,
    (MTA, "/etc/hubtunnel/hubtunnel.toml"): "tests/package/test_unit.py",
    # On the head office's host of that test, where another branch is refused.
    (
        MTA,
        "postconf -P '127.0.0.1:27/inet/smtpd_relay_restrictions="
        "check_sender_access,inline:{branch.example=permit},reject_unauth_destination'",
    ): "tests/mta/variants.py",
    (OPERATING, "apt-get install -y ./hubtunnel.deb postfix"): BARE,
    (OPERATING, "/etc/hubtunnel/hubtunnel.toml"): HERE,
    (OPERATING, "systemctl edit hubtunnel"): BARE,
    # With the versions of the lock, and used there by tests and by the demo.
    (OPERATING, "HATCH_BUILD_HOOKS_ENABLE=1 python3 -m pip wheel --no-deps --wheel-dir dist ."): ".ci/run",
    (LOG, "2026-11-22T02:11:00.000Z info stream"): HERE,
}


def how(block: Block) -> str | None:
    """What runs or reads it; None where nobody decided yet."""
    document, first = block.name
    if document in (PROTOCOL, FORMATS):
        return SPECIFIED
    return HOW.get((document, " ".join(first.split()[:3]) if document == LOG else first))


def test_every_block_has_somebody_who_tries_it() -> None:
    found = blocks()
    assert len(found) > 30
    undecided = [name for name, block in found.items() if how(block) is None]
    assert undecided == [], "type it in test_typed.py, or say in HOW who tries it and why not here"
    assert len([block for block in found.values() if block.name[0] not in (PROTOCOL, FORMATS)]) == len(HOW)
    for place in set(HOW.values()) | {SPECIFIED}:
        assert (ROOT / place).is_file()


def test_no_command_is_shown_where_it_would_not_be_found() -> None:
    """Blocks are fenced; an indented one would be taken for text."""
    shown = re.compile(r"^ {4,}(?:[#$] )?(?:hubtunnel|systemctl|tar|sh) .*$", re.M)
    assert shown.findall("text\n\n    hubtunnel key list\n")
    assert [(path.name, line) for path in DOCUMENTS for line in shown.findall(outside(path))] == []


@pytest.mark.parametrize("name", [key for key, by in HOW.items() if by == TYPED])
def test_what_is_said_to_be_typed_is(name: tuple[str, str]) -> None:
    """README.md's commands for the mail server are those of docs/MTA.md, which shows the files as well."""
    source = (ROOT / TYPED).read_text()
    document, first = name
    if document == README:
        commands = [line for line in blocks()[MTA, first].commands if not line.startswith("cat ")]
        assert blocks()[name].commands == commands
    assert f'block("{first}"' in source


# --- what needs a bare Debian -------------------------------------------------------------------------------------


def typed_on_bare_debian() -> list[str]:
    """By the first of the two administrators, in the newest result that is kept; the fingerprint was asked for."""
    newest = max((ROOT / "tests" / "package" / "results").glob("bare-*.json"))
    typed: list[str] = json.loads(newest.read_text())["new_user"]["commands"]["mx.a.example"]
    return [line.partition(" --fingerprint ")[0] for line in typed]


def test_a_new_user_types_on_bare_debian_what_is_written() -> None:
    operating = blocks()[OPERATING, "apt-get install -y ./hubtunnel.deb postfix"].commands
    assert typed_on_bare_debian() == operating
    on_two_hosts = blocks()[README, "hubtunnel init --name mx.a.example"].commands
    without_mail = [line.removesuffix(".service") for line in operating if "postfix" not in line]
    assert without_mail == on_two_hosts


def test_the_drop_in_is_the_one_that_was_tried() -> None:
    lines = blocks()[OPERATING, "systemctl edit hubtunnel"].text.splitlines()[1:]
    assert lines == ["[Service]", "SupplementaryGroups=postdrop"]
    source = (ROOT / BARE).read_text()
    assert all(line in source for line in lines)


def test_the_hook_that_asks_for_a_flush_is_the_one_that_was_tried() -> None:
    block = blocks()[MTA, "/etc/hubtunnel/hubtunnel.toml"]
    assert tomllib.loads(block.text) == {"hooks": {"on_up": flush.HOOK}}
    assert "flush.HOOK" in (ROOT / HOW[block.name]).read_text()


# --- what goes into files, and what is read -----------------------------------------------------------------------


def test_settings_are_taken(tmp_path: Path) -> None:
    """In the files where they belong, by `check`; which does find one that does not."""
    a, b = Hub(tmp_path / "a", "a", 2625), Hub(tmp_path / "b", "b", 2626)
    hooks = tomllib.loads(blocks()[OPERATING, "/etc/hubtunnel/hubtunnel.toml"].text)
    assert a.run("peer", "add", b.card, "--fingerprint", b.fingerprint, "--listen", "127.0.1.2:24").status == 0
    users = blocks()[MTA, 'listen_users = ["postfix"]'].text.replace('"postfix"', '"root"')  # not every system has it
    peer = a.folder / "peers.d" / f"{b.name}.toml"
    peer.write_text(f"{users}\n{peer.read_text()}")
    text = a.config.read_text()
    program = Path("/usr/bin/true")  # nor Postfix
    taken = text.replace(
        '# on_up = ""', f'on_up = "{hooks["hooks"]["on_up"].replace("/usr/sbin/postqueue", str(program))}"'
    )
    assert taken != text
    a.config.write_text(taken)
    assert a.run("check").status == 0, a.run("check").out
    a.config.write_text(taken.replace("on_up", "on_upp"))
    assert a.run("check").status == 1


def test_the_line_of_the_log_is_one() -> None:
    (line,) = [block.text for (document, _), block in blocks().items() if document == LOG]
    event = line.split()[2]
    fields = re.findall(r" (\w+)=", line)
    (row,) = re.findall(rf"^\| `{event}` \| info \| (.*?) \|", (ROOT / LOG).read_text(), re.M)
    assert [name for name in fields if f"`{name}`" not in row] == []
