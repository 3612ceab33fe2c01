"""`peer add`, `list`, `show`, `update`, `remove` without a daemon."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from hubtunnel.cli import peer_add
from hubtunnel.config import load
from hubtunnel.config.values import LocalAddress
from hubtunnel.identity.armour import armour, armour_all, dearmour
from hubtunnel.identity.card import SignedCard, link_public
from hubtunnel.identity.pins import load_hub
from hubtunnel.identity.state import State
from tests.cli.hubs import Hub, Result, environment, spawn
from tests.identity import making
from tests.identity.making import identity, link_key, tree
from tests.terminal import Terminal


def _add(hub: Hub, other: Hub, *arguments: object) -> str:
    result = hub.run("peer", "add", other.card, "--fingerprint", other.fingerprint, *arguments)
    assert result.status == 0, result.err
    return result.out


def _accepted(hub: Hub, other: Hub) -> int:
    with State.open(hub.folder / "state") as state:
        cards = state.peer(dearmour(other.card.read_text())[0].card.idfp)
    assert cards is not None
    return cards.latest.card.serial


# --- add ------------------------------------------------------------------------------------------------------


def test_two_hubs_introduce_each_other(a: Hub, b: Hub) -> None:
    """Four commands in all with the two cards, as in the README."""
    _add(a, b, "--endpoint", "127.0.0.1:2626", "--endpoint", "backup.b.example", "--domain", "b.example")
    _add(b, a, "--endpoint", "127.0.0.1:2625", "--listen", "127.0.9.9:2424")
    ours, theirs = load(a.config).peers[0], load(b.config).peers[0]

    assert (ours.name, ours.domains) == ("mx.b.example", ("b.example",))
    assert ours.endpoints == (("127.0.0.1", 2626), ("backup.b.example", 2625))
    assert ours.listen is not None
    assert ours.listen.host.startswith("127.0.1.")
    assert ours.listen.port == 24
    assert theirs.listen == ("127.0.9.9", 2424)
    assert _accepted(a, b) == _accepted(b, a) == 1
    for hub in (a, b):
        checked = hub.run("check")
        assert (checked.status, "nothing is wrong" in checked.out) == (0, True), checked.out


def test_the_same_again_changes_nothing(a: Hub, b: Hub) -> None:
    arguments = ("--endpoint", "127.0.0.1:2626", "--domain", "b.example")
    _add(a, b, *arguments)
    before = tree(a.folder)

    assert "nothing was changed" in _add(a, b, *arguments)
    assert "nothing was changed" in _add(a, b)
    assert tree(a.folder) == before


def test_the_same_with_other_settings_is_refused(a: Hub, b: Hub) -> None:
    _add(a, b, "--endpoint", "127.0.0.1:2626")
    before = tree(a.folder)
    result = a.run("peer", "add", b.card, "--fingerprint", b.fingerprint, "--endpoint", "127.0.0.1:9", "--domain", "x")

    assert result.status == 1
    assert "another --endpoint and --domain" in result.err
    assert "edit " in result.err
    assert tree(a.folder) == before


def test_the_twelve_words_do_as_a_fingerprint(a: Hub, b: Hub) -> None:
    assert a.run("peer", "add", b.card, "--fingerprint", b.words).status == 0


def test_the_card_may_come_by_standard_input(a: Hub, b: Hub) -> None:
    result = a.run("peer", "add", "-", "--fingerprint", b.fingerprint, stdin=b.card.read_text())
    assert result.status == 0, result.err


def test_another_hubs_fingerprint_pins_nobody(a: Hub, b: Hub) -> None:
    before = tree(a.folder)
    for wrong in (a.fingerprint, a.words):
        result = a.run("peer", "add", b.card, "--fingerprint", wrong)
        assert result.status == 1
        assert "not that of the hub with this fingerprint" in result.err
    assert tree(a.folder) == before


def test_a_mistyped_fingerprint_is_a_usage_error(a: Hub, b: Hub) -> None:
    typed = b.fingerprint
    wrong = typed[:-1] + ("q" if typed[-1] != "q" else "p")
    result = a.run("peer", "add", b.card, "--fingerprint", wrong)
    assert result.status == 2
    assert "group 12" in result.err


def test_without_a_terminal_nobody_is_pinned_unless_compared(a: Hub, b: Hub) -> None:
    before = tree(a.folder)
    for arguments, text in (((b.card,), "yes\n"), (("-",), b.card.read_text())):
        result = spawn("--config", a.config, "peer", "add", *arguments, stdin=text)
        assert result.status == 2
        assert "--fingerprint FP" in result.err
    assert tree(a.folder) == before


@pytest.mark.parametrize(
    ("answer", "pinned"), [("yes", True), ("YES ", True), ("no", False), ("y", False), ("", False)]
)
def test_at_a_terminal_it_shows_both_hubs_words_and_asks(a: Hub, b: Hub, answer: str, pinned: bool) -> None:
    command = [sys.executable, "-m", "hubtunnel", "--config", str(a.config), "peer", "add", str(b.card)]
    with Terminal(command, environment=environment() | {"COLUMNS": "200"}) as terminal:
        asked = terminal.reads("Type yes or no: ")
        terminal.types(answer)
        terminal.rest()
        status = terminal.ends()

    shown = asked.split()
    for hub in (a, b):
        assert hub.fingerprint in shown
        assert all(word in shown for word in hub.words.split())
    assert (status, bool(load(a.config).peers)) == ((0, True) if pinned else (1, False))


def test_the_address_is_one_that_nobody_uses(a: Hub, b: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a peer's nor one where somebody listens; the port is one that tests may bind."""
    with socket.create_server(("127.0.1.3", 0)) as somebody:
        monkeypatch.setattr(peer_add, "HAND_OVER_PORT", somebody.getsockname()[1])
        hosts = []
        for who in ("c", "d", "e"):
            _add(a, Hub(tmp_path / who, who, 2627))
            listen = load(a.config).peers[-1].listen
            assert isinstance(listen, LocalAddress)
            hosts.append(listen.host)
    assert hosts == ["127.0.1.2", "127.0.1.4", "127.0.1.5"]


def test_our_own_card_is_refused(a: Hub) -> None:
    result = a.run("peer", "add", a.card, "--fingerprint", a.fingerprint)
    assert result.status == 1
    assert "our own card" in result.err


def test_a_hub_of_a_name_that_is_taken_is_refused(a: Hub, b: Hub, tmp_path: Path) -> None:
    _add(a, b)
    impostor = Hub(tmp_path / "b2", "b", 2627)
    before = tree(a.folder)
    result = a.run("peer", "add", impostor.card, "--fingerprint", impostor.fingerprint)
    assert result.status == 1
    assert "pinned with another identity" in result.err
    assert tree(a.folder) == before


def test_a_domain_that_is_taken_is_refused(a: Hub, b: Hub, tmp_path: Path) -> None:
    _add(a, b, "--domain", "b.example")
    other = Hub(tmp_path / "c", "c", 2627)
    before = tree(a.folder)
    result = a.run("peer", "add", other.card, "--fingerprint", other.fingerprint, "--domain", "b.example")
    assert result.status == 2
    assert "b.example stands in mx.b.example.toml too" in result.err
    assert tree(a.folder) == before


@pytest.mark.parametrize(
    ("card", "code"),
    [
        (lambda: SignedCard.sign(making.card("x"), identity("mallory")), "card_signature"),
        (lambda: making.signed("x", critical=("must",), extensions={"must": 1}), "card_critical"),
        (lambda: making.signed("x", link_keys=(link_public(link_key("x")), link_public(link_key("x", 1)))), None),
    ],
    ids=["forged", "critical extension", "control: a good one"],
)
def test_a_bad_card_pins_nobody(a: Hub, tmp_path: Path, card: object, code: str | None) -> None:
    signed = card()  # type: ignore[operator]
    path = tmp_path / "x.card"
    path.write_text(armour(signed))
    result = a.run("peer", "add", path, "--fingerprint", making.to_text(signed.card.idfp))

    assert result.status == (1 if code else 0), result.err
    assert code is None or f"refused ({code})" in result.err
    assert len(load(a.config).peers) == (0 if code else 1)


def test_a_published_test_identity_is_refused_and_undone(a: Hub) -> None:
    before = tree(a.folder)
    card = making.ROOT / "keys/a/mx.a.example.card"
    text = making.to_text(dearmour(card.read_text())[0].card.idfp)
    a.config.write_text(a.config.read_text().replace("mx.a.example", "mx.z.example"))
    result = a.run("peer", "add", card, "--fingerprint", text)

    assert result.status == 2
    assert "published test identity" in result.err
    assert {**tree(a.folder), "hubtunnel.toml": before["hubtunnel.toml"]} == before


def test_another_hubs_link_key_in_a_card_is_refused_and_undone(a: Hub, b: Hub, tmp_path: Path) -> None:
    _add(a, b)
    stolen = dearmour(b.card.read_text())[0].card.link_keys
    path = tmp_path / "x.card"
    path.write_text(armour(making.signed("x", link_keys=stolen)))
    before = tree(a.folder)
    result = a.run("peer", "add", path, "--fingerprint", making.to_text(identity("x").public.idfp))

    assert result.status == 2
    assert "another hub's already" in result.err
    assert tree(a.folder) == before


def test_names_that_no_file_can_have_are_refused(a: Hub, tmp_path: Path) -> None:
    for name in ("../../etc/cron.d/x", "x\n[deliver]", "a b", "\x1b[31m"):
        signed = making.signed("x", name=name)
        path = tmp_path / "x.card"
        path.write_text(armour(signed))
        result = a.run("peer", "add", path, "--fingerprint", making.to_text(signed.card.idfp))
        assert result.status == 1
        assert "is not a host name" in result.err
        assert "\x1b" not in result.err
    assert not load(a.config).peers


def test_a_card_cannot_name_domains_or_endpoints(a: Hub, tmp_path: Path) -> None:
    signed = making.signed("x", extensions={"domains": ["evil.example"], "endpoints": ["evil.example:1"]})
    path = tmp_path / "x.card"
    path.write_text(armour(signed))
    assert a.run("peer", "add", path, "--fingerprint", making.to_text(signed.card.idfp)).status == 0
    (peer,) = load(a.config).peers

    assert (peer.domains, peer.endpoints) == ((), ())
    assert "evil" not in peer.path.read_text()


@pytest.mark.parametrize(
    ("text", "says"), [("", "there is no line"), ("hello", "there is no line"), (None, "No such file")]
)
def test_what_is_no_card_is_refused(a: Hub, tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "none.card"
    if text is not None:
        path.write_text(text)
    result = a.run("peer", "add", path)
    assert result.status in (1, 2)
    assert says in result.err


def test_a_full_disk_leaves_the_peers_as_they_were(a: Hub, b: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubtunnel.identity import files

    real = files.atomic_write

    def full(path: Path, *arguments: object, **options: object) -> None:
        if path.suffix == ".toml":
            raise OSError(28, "No space left on device", str(path))
        real(path, *arguments, **options)  # type: ignore[arg-type]

    fingerprint, before = b.fingerprint, tree(a.folder)
    monkeypatch.setattr(files, "atomic_write", full)
    result = a.run("peer", "add", b.card, "--fingerprint", fingerprint)
    assert result.status == 1
    assert "No space left on device" in result.err
    assert tree(a.folder) == before


# --- list, show -----------------------------------------------------------------------------------------------


def test_list_and_show(a: Hub, b: Hub) -> None:
    assert "no peers" in a.run("peer", "list").out
    _add(a, b, "--endpoint", "127.0.0.1:2626", "--domain", "b.example")
    (fact,) = json.loads(a.run("peer", "list", "--json").out)
    shown = a.run("peer", "show", "MX.B.EXAMPLE").out

    assert json.loads(a.run("peer", "show", b.name, "--json").out) == fact
    assert (fact["name"], fact["pin"], fact["words"]) == (b.name, b.fingerprint, b.words)
    assert fact["card"]["accepted"]["serial"] == fact["card"]["first"]["serial"] == 1
    for text in (b.name, b.fingerprint, b.words, "127.0.0.1:2626", "b.example", "1 first, 1 latest"):
        assert text in shown, text
    for text in (b.name, b.fingerprint[:11], "127.0.0.1:2626", "b.example"):
        assert text in a.run("peer", "list").out, text


def test_an_unknown_peer_is_a_no_with_the_nearest_name(a: Hub, b: Hub) -> None:
    _add(a, b)
    for command in ("show", "remove"):
        result = a.run("peer", command, "mx.bb.example")
        assert result.status == 1
        assert "did you mean mx.b.example?" in result.err


# --- update, remove -------------------------------------------------------------------------------------------


@pytest.fixture
def x(a: Hub, tmp_path: Path) -> SignedCard:
    """A peer of `a` whose identity key the test has."""
    first = making.signed("x")
    (tmp_path / "x1.card").write_text(armour(first))
    assert a.run("peer", "add", tmp_path / "x1.card", "--fingerprint", making.to_text(first.card.idfp)).status == 0
    return first


def _update(hub: Hub, *cards: SignedCard) -> tuple[int, str]:
    result = hub.run("peer", "update", "-", stdin=armour_all(cards))
    return result.status, result.out + result.err


def _serial(hub: Hub) -> int:
    with State.open(hub.folder / "state") as state:
        cards = state.peer(load(hub.config).peers[0].pin)
    assert cards is not None
    return cards.latest.card.serial


def test_a_newer_card_is_taken_without_asking(a: Hub, x: SignedCard) -> None:
    second = making.signed("x", x)
    third = making.signed("x", second)

    assert _update(a, second)[0] == 0
    assert _serial(a) == 2
    assert _update(a, x, second, third)[0] == 0
    assert _serial(a) == 3
    status, said = _update(a, third)
    assert (status, "nothing changed" in said) == (0, True)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda x, second: x, "card_older"),
        (lambda x, second: making.signed("x", x, policy="other"), "card_fork"),
        (lambda x, second: making.signed("x", making.signed("x", second)), "card_chain"),
        (lambda x, second: SignedCard.sign(making.card("x", second), identity("mallory")), "card_signature"),
    ],
    ids=["older", "fork", "gap", "forged"],
)
def test_what_does_not_follow_is_refused_with_its_code(a: Hub, x: SignedCard, make: object, code: str) -> None:
    second = making.signed("x", x)
    _update(a, second)
    before = tree(a.folder)
    status, said = _update(a, make(x, second))  # type: ignore[operator]

    assert (status, f"refused ({code})" in said) == (1, True), said
    assert tree(a.folder) == before


def test_a_strangers_card_updates_nobody(a: Hub, x: SignedCard) -> None:
    status, said = _update(a, making.signed("y"))
    assert status == 1
    assert "no peer has the identity" in said


def test_a_new_identity_signed_by_both_is_taken_and_the_file_alone_is_enough(
    a: Hub, x: SignedCard, tmp_path: Path
) -> None:
    renewed = SignedCard.sign(making.card("x", x, identity=identity("x2").public), identity("x2"), identity("x"))
    assert _update(a, renewed)[0] == 0
    assert _serial(a) == 2
    assert "identity now" in a.run("peer", "show", "mx.x.example").out
    with State.open(a.folder / "state") as state:
        state.peer_path(x.card.idfp).unlink()  # a machine that has the configuration and no state of this peer
        (peer,) = load_hub(load(a.config), state).peers
    assert peer.idfp == renewed.card.idfp


def test_remove(a: Hub, b: Hub) -> None:
    before = tree(a.folder / "peers.d")
    _add(a, b, "--domain", "b.example")
    result = a.run("peer", "remove", b.name)

    assert result.status == 0
    assert "Take b.example out of the MTA's routing" in result.out
    assert tree(a.folder / "peers.d") == before
    assert a.run("peer", "remove", b.name).status == 1
    _add(a, b)


def test_another_command_at_work_is_waited_for_by_the_user(a: Hub, b: Hub) -> None:
    """The state is held and no daemon answers: nothing may be changed behind its holder's back."""
    before = tree(a.folder / "peers.d")
    with State.open(a.folder / "state", write=True):
        result = a.run("peer", "add", b.card, "--fingerprint", b.fingerprint)
    assert result.status == 1
    assert "nothing was changed" in result.err
    assert tree(a.folder / "peers.d") == before


def test_add_says_what_comes_next(a: Hub, b: Hub) -> None:
    added = a.run("peer", "add", b.card, "--fingerprint", b.fingerprint, "--listen", "127.0.7.9:24")
    assert added.status == 0, added.err
    following = added.out.split("Next, unless it is done:\n")[1].splitlines()
    commands = [line.split("   #")[0].strip() for line in following]
    config = f"--config {a.config}"
    assert commands == [f"hubtunnel {config} {word}" for word in ("run", "mta postfix", f"ping {b.name}")]


def test_address_for_the_proxy_header(a: Hub, b: Hub) -> None:
    def add(text: str) -> Result:
        return a.run("peer", "add", b.card, "--fingerprint", b.fingerprint, "--present-as", text)

    assert "is not an IP address" in add("somewhere").err
    assert add("2001:DB8::1").status == 0
    assert load(a.config).peers[0].present_as == "2001:db8::1"
    assert add("2001:db8::1").status == 0, "the same again"
    assert "with another --present-as" in add("192.0.2.1").err
