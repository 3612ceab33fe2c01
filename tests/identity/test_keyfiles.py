"""Private key files: what is written is read, and everything else is refused without showing a byte of it."""

from __future__ import annotations

import shutil
import traceback
from pathlib import Path

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubtunnel.errors import KeyFileError
from hubtunnel.identity import keyfiles
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.published import is_published_identity, is_published_link_key
from tests.identity.making import ROOT, identity, link_key, vectors


@pytest.fixture
def cheap_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argon2id at libsodium's least, so that tests do not wait a second each time."""
    monkeypatch.setattr(keyfiles, "OPSLIMIT", 1)
    monkeypatch.setattr(keyfiles, "MEMLIMIT", keyfiles.MEMLIMIT_MIN)


def _fields(path: Path) -> dict[str, object]:
    fields: dict[str, object] = msgpack.unpackb(path.read_bytes()[len(keyfiles.MAGIC) + 1 :])
    return fields


def _rewrite(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_link_key_comes_back(tmp_path: Path) -> None:
    key = link_key("a")
    keyfiles.write_link_key(tmp_path / "k", key)

    assert keyfiles.read_link_key(tmp_path / "k") == key
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600


def test_identity_comes_back(tmp_path: Path) -> None:
    keyfiles.write_identity(tmp_path / "k", identity("a"))

    assert keyfiles.read_identity(tmp_path / "k") == identity("a")
    assert not keyfiles.is_locked(tmp_path / "k")


@pytest.mark.usefixtures("cheap_passphrase")
def test_identity_under_a_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "k"
    keyfiles.write_identity(path, identity("a"), b"correct horse")

    assert keyfiles.is_locked(path)
    assert identity("a").ed25519_seed not in path.read_bytes()
    assert keyfiles.read_identity(path, lambda: b"correct horse") == identity("a")
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        keyfiles.read_identity(path, lambda: b"battery staple")
    with pytest.raises(KeyFileError, match="nobody is there"):
        keyfiles.read_identity(path)


def test_passphrase_costs_what_it_should() -> None:
    """libsodium's "moderate" at least: 3 passes over 256 MiB."""
    assert keyfiles.OPSLIMIT >= 3
    assert keyfiles.MEMLIMIT >= 256 << 20


@pytest.mark.usefixtures("cheap_passphrase")
@pytest.mark.parametrize(
    ("key", "value"), [("memlimit", 1 << 40), ("opslimit", 1 << 20), ("opslimit", 0), ("sealed", 1)]
)
def test_file_cannot_demand_absurd_work(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "k"
    keyfiles.write_identity(path, identity("a"), b"x")
    _rewrite(path, keyfiles.MAGIC + b"\1" + msgpack.packb({**_fields(path), key: value}))

    with pytest.raises(KeyFileError, match="damaged"):
        keyfiles.read_identity(path, lambda: b"x")


def test_key_is_never_overwritten(tmp_path: Path) -> None:
    keyfiles.write_link_key(tmp_path / "k", link_key("a"))

    with pytest.raises(KeyFileError, match="never overwritten"):
        keyfiles.write_link_key(tmp_path / "k", link_key("b"))
    assert keyfiles.read_link_key(tmp_path / "k") == link_key("a")


def test_one_kind_is_not_taken_for_the_other(tmp_path: Path) -> None:
    keyfiles.write_link_key(tmp_path / "link", link_key("a"))
    keyfiles.write_identity(tmp_path / "identity", identity("a"))

    with pytest.raises(KeyFileError, match="a link key was expected"):
        keyfiles.read_link_key(tmp_path / "identity")
    with pytest.raises(KeyFileError, match="an identity key was expected"):
        keyfiles.read_identity(tmp_path / "link")


def test_other_formats_and_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "k"
    keyfiles.write_link_key(path, link_key("a"))
    data = path.read_bytes()

    with pytest.raises(KeyFileError, match="key format 2, this release reads format 1"):
        keyfiles.read_link_key(_rewrite(path, keyfiles.MAGIC + b"\2" + data[len(keyfiles.MAGIC) + 1 :]))
    for other in (b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", keyfiles.MAGIC, data[1:]):
        with pytest.raises(KeyFileError, match="is not a private key of hubtunnel"):
            keyfiles.read_link_key(_rewrite(path, other))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_is_a_key_file_error_that_shows_no_key(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "damaged"
    path.unlink(missing_ok=True)
    keyfiles.write_link_key(path, link_key("a"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(len(keyfiles.MAGIC), len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    _rewrite(path, bytes(content[: data.draw(st.integers(0, len(content)))]))
    refused: KeyFileError | None = None
    try:
        keyfiles.read_link_key(path)
    except KeyFileError as exc:
        refused = exc
    if refused is not None:
        shown = "".join(traceback.format_exception(refused))
        assert refused.__cause__ is None
        assert link_key("a").mlkem_seed.hex() not in shown
        assert repr(link_key("a").mlkem_seed)[2:20] not in shown


def test_new_keys_differ() -> None:
    one, other = keyfiles.new_link_key(0, 1), keyfiles.new_link_key(0, 1)
    assert len({one.id, other.id, one.x25519_private, other.x25519_private}) == 4
    assert one.mlkem_seed != other.mlkem_seed
    assert keyfiles.new_identity() != keyfiles.new_identity()


# --- the published keys -----------------------------------------------------------------------------------------


def _copied(tmp_path: Path, name: str) -> Path:
    """A published file as a hub would have to have it; a checkout has it readable for all, which is refused."""
    target = tmp_path / Path(name).name
    shutil.copyfile(ROOT / "keys" / name, target)
    target.chmod(0o600)
    return target


@pytest.mark.parametrize(("hub", "name"), [("A", "a/0001020304050607.key"), ("B", "b/08090a0b0c0d0e0f.key")])
def test_published_link_keys_are_those_of_the_vectors(tmp_path: Path, hub: str, name: str) -> None:
    key = keyfiles.read_link_key(_copied(tmp_path, name))
    vector = vectors()[hub]

    assert key.x25519_private.hex() + key.mlkem_seed.hex() == vector["x_seed"] + vector["m_seed"]
    assert key.public.hex() == vector["SX"] + vector["SM"]
    assert is_published_link_key(key.public)


def test_published_identity_and_card_are_those_of_the_vectors(tmp_path: Path) -> None:
    from hubtunnel.identity.armour import dearmour

    key = keyfiles.read_identity(_copied(tmp_path, "a/identity.key"))
    (card,) = dearmour((ROOT / "keys/a/mx.a.example.card").read_text())

    assert key.public.idfp.hex() == vectors()["A"]["idfp"]
    assert is_published_identity(key.public.idfp)
    assert is_published_identity(bytes.fromhex(vectors()["B"]["idfp"]))
    assert card == SignedCard.parse(bytes.fromhex(vectors()["more"]["card"]["signed"]))


def test_every_private_key_in_the_tree_is_a_published_one(tmp_path: Path) -> None:
    """Nobody's real key may come into the repository."""
    found = sorted((ROOT / "keys").rglob("*.key"))
    assert len(found) == 3
    for path in found:
        copy = _copied(tmp_path, str(path.relative_to(ROOT / "keys")))
        if path.name == "identity.key":
            assert is_published_identity(keyfiles.read_identity(copy).public.idfp)
        else:
            assert is_published_link_key(keyfiles.read_link_key(copy).public)
