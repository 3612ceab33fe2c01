"""Bundles: from the machine with the identity key to the hub, whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.errors import CardError, HubtunnelError, KeyFileError
from hubtunnel.identity import bundle, keyfiles
from hubtunnel.identity.bundle import Bundle
from hubtunnel.identity.card import SignedCard
from tests.identity import making
from tests.identity.living import cards, check, hub, newest, opened, operate
from tests.identity.making import DAY, NOW, tree

WHERE = "the file"


@pytest.fixture(autouse=True)
def _quick_argon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "OPSLIMIT", 1)
    monkeypatch.setattr(keyfiles, "MEMLIMIT", 8 << 10)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The hub."""
    return hub(tmp_path / "a")


@pytest.fixture
def offline(config: Path, tmp_path: Path) -> Path:
    """The machine where the identity key is: a copy of the hub's folder from before."""
    return Path(shutil.copytree(config.parent, tmp_path / "offline")) / config.name


def collect(config: Path, now: float = NOW) -> Bundle:
    with opened(config, write=False) as (_, state):
        return bundle.collect(state, now)


def without_trail(config: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(config.parent / "state").items() if "trail" not in name}


def test_a_week_of_daily_keys_travels(config: Path, offline: Path, tmp_path: Path) -> None:
    made = operate(offline, "issue", every=DAY, count=7)["made"]
    path = tmp_path / "week"
    bundle.write(path, collect(offline), b"on the way")
    assert path.stat().st_mode & 0o777 == 0o600
    (config.parent / "state/identity.key").unlink()

    data = bundle.opened(bundle.read_file(path), str(path), b"on the way").pack()
    result = operate(config, "import", data=data)
    assert result["cards"] == [2]
    assert [key["id"] for key in result["made"]] == [key["id"] for key in made]
    assert cards(config) == cards(offline)
    with opened(config) as (_, state):
        private = {key.id: key.public for key in state.link_keys()[0]}
        assert all(private[key.id] == key.public for key in newest(config).link_keys)
    before = tree(config.parent / "state")
    again = operate(config, "import", data=data)
    assert (again["cards"], again["made"]) == ([], [])
    assert tree(config.parent / "state") == before


def test_hub_that_missed_weeks_takes_all_cards_at_once(config: Path, offline: Path) -> None:
    for week in range(4):
        operate(offline, "issue", NOW + week * 7 * DAY, every=DAY, count=7, only=True)
    result = operate(config, "import", NOW + 22 * DAY, data=collect(offline, NOW + 22 * DAY).pack())
    assert result["cards"] == [2, 3, 4, 5]
    check(config, NOW + 22 * DAY)


def test_keys_that_have_ended_stay_behind(offline: Path) -> None:
    operate(offline, "issue", every=DAY, count=7, only=True)
    assert len(collect(offline, NOW + 3 * DAY + 2 * 3600).link_keys) == 4


def test_bundle_under_a_passphrase_shows_nothing(offline: Path, tmp_path: Path) -> None:
    collected = collect(offline)
    path = tmp_path / "locked"
    bundle.write(path, collected, b"secret")
    data = path.read_bytes()
    for key in collected.link_keys:
        assert key.x25519_private not in data
        assert key.mlkem_seed not in data
        assert key.x25519_private.hex() not in repr(collected)
    assert bundle.is_locked(data, WHERE)
    assert bundle.opened(data, WHERE, b"secret") == collected
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        bundle.opened(data, WHERE, b"Secret")
    with pytest.raises(KeyFileError, match="nobody is there to be asked"):
        bundle.opened(data, WHERE, None)
    assert making.identity("a").ed25519_seed not in data


def test_bundle_never_holds_the_identity_key(offline: Path) -> None:
    packed = collect(offline).pack()
    secret = making.identity("a")
    assert secret.ed25519_seed not in packed
    assert secret.mldsa65_seed not in packed


def test_file_is_never_overwritten(offline: Path, tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_text("precious")
    with pytest.raises(KeyFileError, match="never overwritten"):
        bundle.write(path, collect(offline), None)
    assert path.read_text() == "precious"


def test_file_that_others_can_read_is_refused(offline: Path, tmp_path: Path) -> None:
    path = tmp_path / "open"
    bundle.write(path, collect(offline), None)
    path.chmod(0o644)
    with pytest.raises(KeyFileError, match="chmod 0600"):
        bundle.read_file(path)


# --- what is refused leaves nothing ---------------------------------------------------------------------------------


def _refused(config: Path, data: bytes, says: str) -> None:
    with opened(config):
        pass
    before = without_trail(config)
    with pytest.raises(HubtunnelError, match=says):
        operate(config, "import", data=data)
    assert without_trail(config) == before


def test_forked_chain_is_refused(config: Path, offline: Path) -> None:
    operate(config, "rotate")
    operate(offline, "issue", every=DAY, count=2)
    _refused(config, collect(offline).pack(), "signs in two places")
    operate(offline, "rotate")
    _refused(config, collect(offline).pack(), "signs in two places")


def test_another_hubs_bundle_is_refused(config: Path, tmp_path: Path) -> None:
    other = hub(tmp_path / "c", "c")
    operate(other, "rotate")
    _refused(config, collect(other).pack(), "another hub's")


def test_card_with_another_signature_is_refused(config: Path, offline: Path) -> None:
    operate(offline, "rotate")
    whole = collect(offline)
    forged = SignedCard.sign(whole.cards[-1].card, making.identity("mallory"))
    _refused(config, Bundle((*whole.cards[:-1], forged), whole.link_keys).pack(), "not signed by its own identity")


def test_key_that_its_card_does_not_list_is_refused(config: Path, offline: Path) -> None:
    operate(offline, "rotate")
    whole = collect(offline)
    stranger = making.link_key("c", 5)
    _refused(config, Bundle(whole.cards, (*whole.link_keys, stranger)).pack(), "does not list")


def test_revoked_key_does_not_come_back(config: Path, offline: Path) -> None:
    stolen = newest(config).link_keys[0].id
    old = collect(offline)
    operate(config, "revoke", key=stolen.hex())
    operate(config, "import", data=Bundle(old.cards, old.link_keys).pack())
    assert not (config.parent / "state/keys" / f"{stolen.hex()}.key").exists()


@given(st.binary(max_size=200))
def test_anything_at_all_is_refused_as_damaged(data: bytes) -> None:
    for attempt in (data, bundle.MAGIC + data, bundle.MAGIC + b"\x01" + data):
        with pytest.raises((KeyFileError, CardError)):
            bundle.opened(attempt, WHERE, b"")


@pytest.mark.parametrize(
    "fields",
    [
        {"cards": [], "link_keys": []},
        {"cards": [1], "link_keys": []},
        {"cards": "x", "link_keys": []},
        {"cards": [b"x"]},
        {"opslimit": 1 << 40, "memlimit": 8192, "sealed": bytes(80)},
        {"opslimit": 1, "memlimit": 1 << 50, "sealed": bytes(80)},
        {"opslimit": 1, "memlimit": 8192, "sealed": "x"},
        {"opslimit": True, "memlimit": 8192, "sealed": bytes(80)},
    ],
)
def test_map_of_another_form_is_refused(fields: dict[str, object]) -> None:
    data = bundle.MAGIC + b"\x01" + msgpack.packb(fields)
    with pytest.raises((KeyFileError, CardError)):
        bundle.opened(data, WHERE, b"x")


def test_another_format_is_named() -> None:
    with pytest.raises(KeyFileError, match="has bundle format 2"):
        bundle.opened(bundle.MAGIC + b"\x02" + b"\x80", WHERE, None)


def test_long_chain_is_cut_to_what_the_control_socket_takes(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        operate(offline, "rotate")
    size = sum(len(signed.data) for signed in cards(offline)[-2:])
    monkeypatch.setattr(bundle, "BUNDLE_MAX", 64 * 1024 + size + 20_000)
    collected = collect(offline)
    assert 2 <= len(collected.cards) < 5
    assert collected.cards[-1].card.serial == 5
    path = tmp_path / "cut"
    bundle.write(path, collected, None)
    assert os.path.getsize(path) <= bundle.BUNDLE_MAX
