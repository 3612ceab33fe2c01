"""`init`: a hub that is ready, made whole or not at all, never over another."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from hubtunnel.cli import setup
from hubtunnel.config import load
from hubtunnel.identity import files
from hubtunnel.identity.armour import dearmour
from hubtunnel.identity.chain import accept_first
from hubtunnel.identity.fingerprint import from_text
from hubtunnel.identity.state import State
from tests.cli.hubs import Hub, run, spawn
from tests.identity.making import tree

DAY = 86400


def test_what_init_makes(tmp_path: Path) -> None:
    before = int(time.time())
    made = spawn(
        "init", "--name", "MX.A.Example", "--dir", tmp_path / "a",
        "--listen", "127.0.0.1:2625", "--listen", "[::1]", "--deliver", "127.0.0.1:2600",
    )  # fmt: skip
    assert (made.status, made.err) == (0, "")
    config = load(tmp_path / "a" / "hubtunnel.toml")

    assert config.name == "mx.a.example"
    assert config.listen == (("127.0.0.1", 2625), ("::1", 2625))
    assert config.deliver.address == ("127.0.0.1", 2600)
    assert config.state == tmp_path / "a" / "state"
    assert config.control_socket == tmp_path / "a" / "control.sock"
    with State.open(config.state) as state:
        (signed,) = state.cards()
        keys = {key.id: key for key in state.link_keys()[0]}
        assert state.identity().public.idfp == signed.card.idfp
    card_file = tmp_path / "a" / "mx.a.example.card"
    assert f"Card:        {card_file}\n" in made.out
    assert dearmour(card_file.read_text()) == [signed]
    assert stat.S_IMODE(card_file.stat().st_mode) == 0o644
    accept_first(from_text(made.out.split("Fingerprint: ")[1].split()[0]), signed)
    current, following = signed.card.link_keys
    assert (signed.card.name, signed.card.serial) == ("mx.a.example", 1)
    assert 0 <= signed.card.issued - before <= 60
    assert current.not_before == signed.card.issued - 3600
    assert current.not_after == signed.card.issued + 180 * DAY
    assert following.not_before == signed.card.issued + 30 * DAY
    assert following.not_after == following.not_before + 180 * DAY
    assert {key.id: key.public for key in (current, following)} == {id_: key.public for id_, key in keys.items()}


def test_the_file_names_every_default_as_the_program_has_it(a: Hub) -> None:
    """The commented lines are settings: taken in, they change nothing."""
    text = a.config.read_text()
    lines = [line[2:] if line.startswith("# ") and " = " in line else line for line in text.splitlines()]
    before = load(a.config)
    a.config.write_text("\n".join(lines))

    assert "\n".join(lines).count(" = ") >= 20
    assert load(a.config) == before


def test_two_hubs_of_one_name_have_nothing_in_common(tmp_path: Path) -> None:
    one, other = Hub(tmp_path / "1", "a", 2625), Hub(tmp_path / "2", "a", 2625)
    assert one.fingerprint != other.fingerprint


def test_modes(a: Hub) -> None:
    for path in (a.folder / "state").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE((a.folder / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE(a.config.stat().st_mode) == 0o644


def test_an_empty_state_folder_that_is_there_is_made_private(tmp_path: Path) -> None:
    (tmp_path / "a" / "state").mkdir(parents=True, mode=0o755)
    assert run("init", "--name", "mx.a.example", "--dir", tmp_path / "a").status == 0
    assert stat.S_IMODE((tmp_path / "a" / "state").stat().st_mode) == 0o700


def test_never_overwrites(a: Hub) -> None:
    before = tree(a.folder)
    result = run("init", "--name", "other.example", "--dir", a.folder)
    assert result.status == 2
    assert "hubtunnel.toml: is there already" in result.err
    a.config.unlink()
    result = run("init", "--name", "other.example", "--dir", a.folder)
    assert result.status == 2
    assert "state: is not empty" in result.err
    assert {**tree(a.folder), "hubtunnel.toml": before["hubtunnel.toml"]} == before


@pytest.mark.parametrize("name", ["identity.key", ".key", "card"])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = files.atomic_write

    def full(path: Path, *arguments: object, **options: object) -> None:
        if path.name.endswith(name):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "atomic_write", full)
    result = run("init", "--name", "mx.a.example", "--dir", tmp_path / "a")
    assert result.status == 2
    assert "No space left on device" in result.err
    assert not tree(tmp_path / "a")
    monkeypatch.undo()
    assert run("init", "--name", "mx.a.example", "--dir", tmp_path / "a").status == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--name", "not a name"), "is not a host name"),
        (("--name", "a.example", "--listen", "localhost:1"), "--listen: "),
        (("--name", "a.example", "--deliver", "127.0.0.1"), "--deliver: "),
        (("--name", 'a"\nevil = 1'), "is not a host name"),
    ],
)
def test_what_cannot_be_configured_is_refused_before_anything_is_made(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = run("init", "--dir", tmp_path / "a", *arguments)

    assert result.status == 2
    assert says in result.err
    assert not (tmp_path / "a").exists()


def test_a_folder_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    result = run("init", "--name", "a.example", "--dir", tmp_path / ("x" * 100))
    assert result.status == 2
    assert "shorter --dir" in result.err


def test_a_clock_that_was_never_set_makes_no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup.time, "time", lambda: 1000.0)
    result = run("init", "--name", "a.example", "--dir", tmp_path / "a")
    assert result.status == 1
    assert "clock was never set" in result.err
    assert not (tmp_path / "a").exists()


def test_without_a_folder_it_is_roots_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run("init", "--name", "a.example")
    assert result.status == 2
    assert "root" in result.err
    assert "--dir DIR" in result.err


def test_as_root_the_state_belongs_to_the_service_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: set[tuple[str, int, int]] = set()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(files, "service_owner", lambda: (4711, 4712))
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: given.add((Path(path).name, uid, gid)))
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, gid: given.add(("file", uid, gid)))
    assert run("init", "--name", "a.example", "--dir", tmp_path / "a").status == 0

    assert given == {(name, 4711, 4712) for name in ("state", "keys", "cards", "peers", "file")}


SERVICE_UID = 4711


@pytest.mark.root
def test_as_root_in_the_default_places(tmp_path: Path, b: Hub) -> None:
    """In a mount namespace of its own with a user `hubtunnel`, whose /etc/hubtunnel and /var/lib/hubtunnel are ours."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    etc, lib = tmp_path / "etc", tmp_path / "lib"
    mounts = []
    for place, source in (("/etc/hubtunnel", etc), ("/var/lib/hubtunnel", lib)):
        source.mkdir()
        mounts.append(f"mkdir -p {place} && mount --bind {source} {place}")
    for place, line in (
        ("passwd", f"hubtunnel:x:{SERVICE_UID}:{SERVICE_UID}::/:/bin/false"),
        ("group", f"hubtunnel:x:{SERVICE_UID}:"),
    ):
        kept = [each for each in Path("/etc", place).read_text().splitlines() if not each.startswith("hubtunnel:")]
        (tmp_path / place).write_text("\n".join([*kept, line, ""]))
        mounts.append(f"mount --bind {tmp_path / place} /etc/{place}")
    inside = ("unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh")

    made = spawn("init", "--name", "mx.a.example", command=inside)
    assert made.status == 0, made.err
    assert "--config" not in made.out
    added = spawn("peer", "add", b.card, "--fingerprint", b.fingerprint, command=inside)
    assert added.status == 0, added.err
    checked = spawn("check", command=inside)
    assert checked.status == 0, checked.out
    assert {path.stat().st_uid for path in (lib, *lib.rglob("*"))} == {SERVICE_UID}
    assert {path.stat().st_uid for path in (etc, *etc.rglob("*"))} == {0}
    assert len(list((lib / "peers").glob("*.cards"))) == len(list((etc / "peers.d").glob("*.toml"))) == 1
    for command in (("rotate",), ("rotate", "--identity"), ("issue", "--every", "1d", "--count", "2"), ("psk", b.name)):
        changed = spawn("key", *command, command=inside)
        assert changed.status == 0, changed.err
    assert {path.stat().st_uid for path in (lib, *lib.rglob("*"))} == {SERVICE_UID}
    assert {path.suffix for path in etc.rglob("*") if path.stat().st_uid != 0} == {".psk"}
    assert (etc / f"peers.d/{b.name}.psk").stat().st_mode & 0o777 == 0o600
    next((lib / "keys").iterdir()).chmod(0o640)
    os.chown(lib / "identity.key", 0, 0)
    checked = spawn("check", command=inside)
    assert checked.status == 1
    assert "chmod 0600" in checked.out
    assert "chown -R hubtunnel /var/lib/hubtunnel" in checked.out


def test_a_card_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "mx.a.example.card").write_text("somebody's")
    result = run("init", "--name", "mx.a.example", "--dir", folder)
    assert (result.status, result.out) == (2, "")
    assert "mx.a.example.card: is there already" in result.err
    assert tree(folder) == {"mx.a.example.card": b"somebody's"}
