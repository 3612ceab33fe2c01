"""Secrets that systemd gives to the service: read where they are, and never done without where they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubtunnel.config import load
from hubtunnel.errors import ConfigError, KeyFileError
from hubtunnel.identity import credentials, keyfiles, operations, signing
from hubtunnel.identity.pins import PeerKeys, load_hub
from tests.identity import making
from tests.identity.living import WHO, hub, opened, operate
from tests.identity.making import DAY, NOW

PSK = bytes(range(32))


@pytest.fixture(autouse=True)
def _quick_argon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfiles, "OPSLIMIT", 1)
    monkeypatch.setattr(keyfiles, "MEMLIMIT", keyfiles.MEMLIMIT_MIN)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that systemd makes for a service."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv(credentials.FOLDER, str(folder))
    return folder


def put(folder: Path, name: str, data: bytes, mode: int = 0o400) -> Path:
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


# --- the passphrase of the identity key -----------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A hub whose identity key is under a passphrase."""
    config = hub(tmp_path / "a")
    operate(config, "passphrase", new=b"correct horse")
    return config


def test_passphrase_signs_and_nobody_is_asked(locked: Path, given: Path) -> None:
    put(given, "identity.passphrase", b"correct horse\n")
    assert operate(locked, "signer") == {"asks": False, "warnings": []}
    assert operate(locked, "rotate")["card"] == 2
    operate(locked, "rotate", identity=True)
    with opened(locked) as (_, state):
        assert keyfiles.is_locked(state.identity_path), "the new identity is under the same passphrase"
        assert state.identity(lambda: b"correct horse").public.idfp == state.cards()[-1].card.idfp


def test_without_it_somebody_has_to_type(locked: Path, given: Path) -> None:
    assert operate(locked, "signer")["asks"] is True
    with pytest.raises(KeyFileError, match="nobody is there to be asked"):
        operate(locked, "rotate")
    assert operate(locked, "rotate", passphrase=b"correct horse")["card"] == 2


def test_what_is_typed_comes_first(locked: Path, given: Path) -> None:
    put(given, "identity.passphrase", b"correct horse")
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        operate(locked, "rotate", passphrase=b"guessed")


def test_wrong_credential_signs_nothing(locked: Path, given: Path) -> None:
    put(given, "identity.passphrase", b"another\n")
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        operate(locked, "rotate")


def test_it_takes_no_passphrase_away(locked: Path, given: Path) -> None:
    """Who may ask the daemon to sign may not therefore have the key in clear."""
    put(given, "identity.passphrase", b"correct horse")
    with pytest.raises(KeyFileError, match="nobody is there"):
        operate(locked, "passphrase", new=None)
    with opened(locked) as (_, state):
        assert keyfiles.is_locked(state.identity_path)


def test_another_passphrase_says_that_the_credential_stays_as_it_is(locked: Path, given: Path) -> None:
    put(given, "identity.passphrase", b"correct horse")
    (warning,) = operate(locked, "passphrase", old=b"correct horse", new=b"another")["warnings"]
    assert "restart the service" in warning
    assert operate(locked, "passphrase", old=b"another", new=b"correct horse")["warnings"] == []


def test_a_key_under_none_needs_none(tmp_path: Path, given: Path) -> None:
    put(given, "identity.passphrase", b"", 0o444)
    config = hub(tmp_path / "a")
    assert operate(config, "signer")["asks"] is False
    assert operate(config, "rotate")["card"] == 2


@pytest.mark.parametrize(
    ("data", "mode", "says"),
    [(b"correct horse", 0o444, "by anybody"), (b"\n", 0o400, "is empty"), (bytes(4096), 0o400, "too large")],
)
def test_credential_that_cannot_be_right(locked: Path, given: Path, data: bytes, mode: int, says: str) -> None:
    put(given, "identity.passphrase", data, mode)
    with pytest.raises(KeyFileError, match=says):
        operate(locked, "rotate")


def test_systemds_own_access_list_is_no_mistake(locked: Path, given: Path) -> None:
    """With `User=` the files are root's, and the mask of their access list shows as the group's bits."""
    put(given, "identity.passphrase", b"correct horse", 0o440)
    assert operate(locked, "rotate")["card"] == 2


def test_credential_must_be_a_plain_file(given: Path) -> None:
    (given / "identity.passphrase").mkdir()
    with pytest.raises(KeyFileError, match="plain file"):
        credentials.identity_passphrase()


# --- a pre-shared key -------------------------------------------------------------------------------------------


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A hub with a peer whose pre-shared key is a credential."""
    config = hub(tmp_path / "a", peers=())
    making.add_peer(config, "b", making.signed("b"), extra='psk_file = "credential:mx.b.example.psk"\n')
    return config


def _peer(config: Path) -> PeerKeys:
    with opened(config) as (loaded, state):
        (peer,) = load_hub(loaded, state, now=NOW).peers
    return peer


def test_pre_shared_key_is_read_and_never_shown(shared: Path, given: Path) -> None:
    put(given, "mx.b.example.psk", PSK.hex().encode() + b"\n")
    peer = _peer(shared)
    assert peer.psk == PSK
    assert PSK.hex() not in repr(peer)


@pytest.mark.parametrize("folder", [True, False], ids=["other credentials", "no service"])
def test_missing_pre_shared_key_is_never_none(
    shared: Path, given: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that does not need it goes on; whoever would use it gets an error, not a session without one."""
    if not folder:
        monkeypatch.delenv(credentials.FOLDER)
    peer = _peer(shared)
    assert peer.links
    with pytest.raises(ConfigError, match=r"credential mx\.b\.example\.psk: the unit of the service"):
        assert peer.psk is None
    with opened(shared) as (loaded, state):
        operations.run(operations.Context(state, loaded, NOW, WHO), "rotate", {})
        assert signing.newest(state)[-1].card.serial == 2


def test_damaged_pre_shared_key_is_a_mistake_of_the_configuration(shared: Path, given: Path) -> None:
    put(given, "mx.b.example.psk", b"secret")
    with pytest.raises(ConfigError, match="32 random bytes") as caught:
        load(shared)
    assert "secret" not in str(caught.value.problems[0]).replace("pre-shared", "")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".", "..", "ü", "x" * 256])
def test_name_that_no_credential_has(shared: Path, name: str) -> None:
    path = shared.parent / "peers.d" / "mx.b.example.toml"
    path.write_text(path.read_text().replace("mx.b.example.psk", name))
    with pytest.raises(ConfigError, match="names no systemd credential"):
        load(shared)


def test_deletion_and_rotation_do_not_touch_it(shared: Path, given: Path) -> None:
    path = put(given, "mx.b.example.psk", PSK.hex().encode())
    operate(shared, "rotate")
    operate(shared, "tidy", now=NOW + 400 * DAY)
    assert path.read_bytes() == PSK.hex().encode()


def test_folder_that_may_not_be_entered_was_given_to_somebody_else(
    given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is for ExecReload=, which runs beside the service: it does without what only the service needs."""

    def refused(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    (given / "x").write_text("secret")
    monkeypatch.setattr(Path, "exists", refused)
    assert credentials.read("x", "it") is None
