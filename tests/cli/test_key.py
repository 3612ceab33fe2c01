"""`key …` and `peer repin` as an operator types them, without a daemon."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.identity import keyfiles
from tests.cli.hubs import Hub, Result, environment, run
from tests.terminal import Terminal


@pytest.fixture(autouse=True)
def _quick_argon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "OPSLIMIT", 1)
    monkeypatch.setattr(keyfiles, "MEMLIMIT", 8 << 10)


@pytest.fixture
def pair(a: Hub, b: Hub) -> tuple[Hub, Hub]:
    """Two hubs that know each other."""
    for hub, other, listen in ((a, b, "127.0.7.2:24"), (b, a, "127.0.7.3:24")):
        added = hub.run("peer", "add", other.card, "--fingerprint", other.fingerprint, "--listen", listen)
        assert added.status == 0, added.err
    return a, b


def listed(hub: Hub) -> dict[str, Any]:
    shown = hub.run("key", "list", "--json")
    assert shown.status == 0, shown.err
    found: dict[str, Any] = json.loads(shown.out)
    return found


def in_state(hub: Hub, word: str) -> list[str]:
    return [key["id"] for key in listed(hub)["keys"] if key["state"] == word]


def ok(result: Result) -> str:
    assert result.status == 0, result.err
    return result.out


def trail(hub: Hub) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = json.loads(ok(hub.run("key", "list", "--trail", "--json")))
    return lines


# --- list, rotate, revoke -------------------------------------------------------------------------------------------


def test_list_of_a_new_hub(pair: tuple[Hub, Hub]) -> None:
    a, b = pair
    facts = listed(a)
    assert (facts["schema"], facts["card"], facts["identity"]) == (1, 1, "here")
    assert [key["state"] for key in facts["keys"]] == ["current", "next"]
    assert all(key["known_to"] == [b.name] for key in facts["keys"]), "its admin was given card 1"
    assert facts["peers"][0]["acknowledged"] is None
    text = ok(a.run("key", "list"))
    for key in facts["keys"]:
        assert key["id"] in text
    assert "given, not heard" in text
    assert a.fingerprint in text


def test_rotate_then_update_by_hand(pair: tuple[Hub, Hub]) -> None:
    a, b = pair
    ok(a.run("key", "rotate"))
    ok(a.run("key", "rotate", "--now"))
    assert len(in_state(a, "current") + in_state(a, "next")) == 3
    missing = b.run("peer", "update", "-", stdin=ok(a.run("card")))
    assert missing.status == 1
    assert "hubtunnel card --since 2" in missing.err
    assert "card 3 is in force (before: 1)" in ok(b.run("peer", "update", "-", stdin=ok(a.run("card", "--since", "2"))))
    assert [line["what"] for line in trail(b)][-2:] == ["card accepted", "updated"]


def test_revoke_names_who_cannot_reach_us_and_the_cure(pair: tuple[Hub, Hub]) -> None:
    a, b = pair
    (stolen,) = in_state(a, "current")
    done = a.run("key", "revoke", stolen[:10])
    assert done.status == 0
    assert f"Link key {stolen} is revoked" in done.out
    assert b.name in done.err
    assert "peer update" in done.err
    assert in_state(a, "revoked") == [stolen]
    assert a.run("check").status == 0
    ok(b.run("peer", "update", "-", stdin=ok(a.run("card"))))


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("revoke", "feedbeef"), 2, "key list"),
        (("revoke",), 2, "ID"),
        (("issue", "--every", "1", "--count", "2"), 2, "--every"),
        (("issue", "--every", "1d", "--count", "100"), 2, "--count takes 1 to 64"),
        (("issue", "--every", "1d", "--count", "x"), 2, "invalid int"),
        (("rotate", "--identity", "--now"), 2, "do not go together"),
        (("passphrase",), 2, "key passphrase --identity"),
        (("import", "/nonexistent"), 2, "cannot be read"),
        (("export", "/nonexistent/x"), 2, "cannot be written"),
        (("delete", "feedbeef"), 2, "key list"),
        (("psk", "nobody.example"), 1, "there is no such peer"),
    ],
)
def test_what_cannot_be_done_says_why(a: Hub, arguments: tuple[str, ...], status: int, says: str) -> None:
    result = a.run("key", *arguments)
    assert result.status == status
    assert says in result.err
    assert listed(a)["card"] == 1


def test_trail_says_who_and_finds_a_line_that_was_changed(pair: tuple[Hub, Hub]) -> None:
    a, b = pair
    ok(a.run("key", "rotate"))
    ok(a.run("key", "rotate", "--identity"))
    ok(a.run("peer", "remove", b.name))
    lines = trail(a)
    whats = [line["what"] for line in lines]
    assert whats == ["card accepted", "own card found", "pinned", "rotated", "identity rotated", "removed"]
    assert {line["uid"] for line in lines} == {os.getuid()}
    path = a.folder / "state/trail.jsonl"
    path.write_text(path.read_text().replace('"pinned"', '"Pinned"'))
    shown = a.run("key", "list", "--trail")
    assert shown.status == 1
    assert "line 4 does not follow" in shown.err
    refused = a.run("key", "rotate")
    assert refused.status == 1
    assert "move it" in refused.err
    assert listed(a)["card"] == 3


# --- identity elsewhere ---------------------------------------------------------------------------------------------


def test_identity_offline_and_a_week_of_daily_keys(pair: tuple[Hub, Hub], tmp_path: Path) -> None:
    a, b = pair
    offline = shutil.copytree(a.folder, tmp_path / "offline") / "hubtunnel.toml"
    (a.folder / "state/identity.key").unlink()
    refused = a.run("key", "rotate")
    assert refused.status == 1
    assert "key import" in refused.err

    def there(*arguments: object, stdin: str = "") -> Result:
        return run("--config", offline, *arguments, stdin=stdin)

    ok(there("key", "passphrase", "--identity", stdin="correct horse\n"))
    assert there("key", "issue", "--every", "1d", "--count", "7").status == 2, "nobody to ask"
    wrong = there("key", "issue", "--every", "1d", "--count", "7", stdin="wrong horse\n")
    assert (wrong.status, "wrong passphrase" in wrong.err) == (2, True)
    assert "horse" not in wrong.err
    ok(there("key", "issue", "--every", "1d", "--count", "7", "--only", stdin="correct horse\n"))
    week = tmp_path / "week"
    ok(there("key", "export", week, "--passphrase", stdin="for the way\n"))
    assert week.stat().st_mode & 0o777 == 0o600

    assert "wrong passphrase" in a.run("key", "import", week, stdin="x\n").err
    ok(a.run("key", "import", week, stdin="for the way\n"))
    assert "All of it was here before" in ok(a.run("key", "import", week, stdin="for the way\n"))
    facts = listed(a)
    assert (facts["card"], facts["identity"]) == (2, "elsewhere")
    assert len(in_state(a, "current") + in_state(a, "next")) == 7
    assert a.run("check").status == 0
    ok(b.run("peer", "update", "-", stdin=ok(a.run("card"))))
    # No secret of any of this stands anywhere in clear.
    for folder in (a.folder, offline.parent):
        for path in folder.rglob("*"):
            assert not path.is_file() or b"correct horse" not in path.read_bytes()


def test_passphrase_changed_and_taken_off(a: Hub) -> None:
    path = a.folder / "state/identity.key"
    ok(a.run("key", "passphrase", "--identity", stdin="one\n"))
    assert keyfiles.is_locked(path)
    assert listed(a)["identity"] == "locked"
    assert a.run("key", "passphrase", "--identity", stdin="wrong\ntwo\n").status == 2
    ok(a.run("key", "passphrase", "--identity", stdin="one\ntwo\n"))
    ok(a.run("key", "rotate", stdin="two\n"))
    ok(a.run("key", "passphrase", "--identity", stdin="two\n\n"))
    assert not keyfiles.is_locked(path)
    assert path.stat().st_mode & 0o777 == 0o600
    ok(a.run("key", "rotate"))
    changes = [line["what"] for line in trail(a) if "passphrase" in line["what"]]
    assert changes == ["passphrase changed", "passphrase changed", "passphrase removed"]


def test_new_identity_keeps_the_passphrase(a: Hub) -> None:
    ok(a.run("key", "passphrase", "--identity", stdin="one\n"))
    ok(a.run("key", "rotate", "--identity", stdin="one\n"))
    assert listed(a)["identity"] == "locked"
    ok(a.run("key", "rotate", stdin="one\n"))


def test_passphrase_is_asked_on_the_terminal_without_echo(a: Hub) -> None:
    command = [sys.executable, "-m", "hubtunnel", "--config", str(a.config), "key", "passphrase", "--identity"]
    with Terminal(command, environment=environment()) as terminal:
        shown = ""
        for question in ("none): ", "again: "):
            shown += terminal.reads(question)
            terminal.types("swordfish")
        shown += terminal.rest()
        assert terminal.ends() == 0, shown
    assert "swordfish" not in shown
    ok(a.run("key", "rotate", stdin="swordfish\n"))


# --- pre-shared keys ------------------------------------------------------------------------------------------------


def test_psk_is_made_here_and_taken_there(pair: tuple[Hub, Hub]) -> None:
    a, b = pair
    before = (a.folder / f"peers.d/{b.name}.toml").read_text()
    made = ok(a.run("key", "psk", b.name))
    (key,) = [line.strip() for line in made.splitlines() if len(line.strip()) == 64]
    path = a.folder / f"peers.d/{b.name}.psk"
    assert path.read_text().strip() == key
    assert path.stat().st_mode & 0o777 == 0o600
    ok(b.run("key", "psk", a.name, "--set", stdin=f"{key}\n"))
    assert (b.folder / f"peers.d/{a.name}.psk").read_text().strip() == key
    for hub, other in ((a, b), (b, a)):
        assert json.loads(ok(hub.run("peer", "show", other.name, "--json")))["psk"] is True
        assert hub.run("check").status == 0
        assert key not in (hub.folder / "state/trail.jsonl").read_text()
    again = a.run("key", "psk", b.name)
    assert (again.status, "--replace" in again.err) == (1, True)
    assert path.read_text().strip() == key
    other = ok(a.run("key", "psk", b.name, "--replace"))
    assert key not in other
    ok(a.run("key", "psk", b.name, "--remove"))
    assert not path.exists()
    assert (a.folder / f"peers.d/{b.name}.toml").read_text().splitlines()[:-1] == before.splitlines()[:-1]


@pytest.mark.parametrize("typed", ["", "swordfish", "ab" * 31, "0" * 64])
def test_psk_that_is_none_is_refused_and_not_shown(pair: tuple[Hub, Hub], typed: str) -> None:
    a, b = pair
    result = a.run("key", "psk", b.name, "--set", stdin=typed + "\n")
    assert result.status == 2
    assert not typed or typed not in result.err
    assert not (a.folder / f"peers.d/{b.name}.psk").exists()


def test_psk_leaves_an_admins_own_lines_alone(pair: tuple[Hub, Hub]) -> None:
    a, b = pair
    path = a.folder / f"peers.d/{b.name}.toml"
    own = (
        path.read_text().replace("# psk_file", "# my own remark, psk_file") + '\n[deliver]\naddress = "127.0.0.9:26"\n'
    )
    path.write_text(own)
    ok(a.run("key", "psk", b.name))
    text = path.read_text()
    assert "my own remark" in text
    assert text.endswith('[deliver]\naddress = "127.0.0.9:26"\n')
    assert a.run("check").status == 0


# --- repin ----------------------------------------------------------------------------------------------------------


def test_repin_of_a_hub_set_up_anew(pair: tuple[Hub, Hub], tmp_path: Path) -> None:
    a, _ = pair
    anew = Hub(tmp_path / "anew", "b", 2626)
    nobody = a.run("peer", "repin", anew.name, anew.card)
    assert (nobody.status, "--fingerprint" in nobody.err) == (2, True)
    wrong = a.run("peer", "repin", anew.name, anew.card, "--fingerprint", a.fingerprint)
    assert (wrong.status, "not that of the hub" in wrong.err) == (1, True)
    assert "mx.b.example: pinned anew" in ok(
        a.run("peer", "repin", anew.name, anew.card, "--fingerprint", anew.fingerprint)
    )
    assert json.loads(ok(a.run("peer", "show", anew.name, "--json")))["pin"] == anew.fingerprint
    assert a.run("check").status == 0
    assert trail(a)[-1]["what"] == "repinned"
    again = ok(a.run("peer", "repin", anew.name, anew.card, "--fingerprint", anew.fingerprint))
    assert "nothing was changed" in again


def test_repin_of_a_forked_chain(pair: tuple[Hub, Hub], tmp_path: Path) -> None:
    """Two copies of b signed a card 2 each; a holds one of them, and its admin decides for the other."""
    a, b = pair
    copy = shutil.copytree(b.folder, tmp_path / "copy") / "hubtunnel.toml"
    ok(b.run("key", "rotate"))
    ok(a.run("peer", "update", "-", stdin=ok(b.run("card"))))
    ok(run("--config", copy, "key", "rotate"))
    theirs = tmp_path / "theirs.card"
    theirs.write_text(ok(run("--config", copy, "card")))
    forked = a.run("peer", "update", theirs)
    assert (forked.status, "card_fork" in forked.err) == (1, True)
    ok(a.run("peer", "repin", b.name, theirs, "--fingerprint", b.fingerprint))
    assert a.run("check").out.count("PROBLEM") == 0
    ok(run("--config", copy, "key", "rotate"))
    ok(a.run("peer", "update", "-", stdin=ok(run("--config", copy, "card"))))


def test_repin_refuses_our_own_card_and_another_peers(pair: tuple[Hub, Hub], tmp_path: Path) -> None:
    a, b = pair
    c = Hub(tmp_path / "c", "c", 2627)
    ok(a.run("peer", "add", c.card, "--fingerprint", c.fingerprint, "--listen", "127.0.7.9:24"))
    for card, says in ((a.card, "our own card"), (c.card, "is a peer already")):
        result = a.run("peer", "repin", b.name, card, "--fingerprint", a.fingerprint)
        assert (result.status, says in result.err) == (1, True)


# --- card -----------------------------------------------------------------------------------------------------------


def test_card_as_a_qr_code(a: Hub) -> None:
    shown = ok(a.run("card", "--qr"))
    *code, text = shown.splitlines()
    assert text == a.fingerprint
    assert len(code) > 15
    assert len({len(line) for line in code if line}) == 1, "a square"


def test_qr_without_its_package_says_what_to_install(a: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    result = a.run("card", "--qr")
    assert (result.status, "hubtunnel[qr]" in result.err) == (1, True)
