"""SIGKILL and a full disk at every single write: what the next start finds is the old state or the new, and works."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubtunnel.errors import HubtunnelError
from hubtunnel.identity import bundle, operations
from hubtunnel.identity.state import State
from hubtunnel.identity.trail import Trail
from tests.identity.faults import DiskFull, killed_at, patched
from tests.identity.living import check, hub, newest, opened, operate
from tests.identity.making import DAY, NOW

STEPS_MAX = 400


def _bundle(config: Path) -> bytes:
    """Three daily keys that the machine with the identity key made for this hub."""
    elsewhere = config.parent.parent / "elsewhere"
    shutil.copytree(config.parent, elsewhere)
    there = elsewhere / config.name
    operate(there, "issue", every=DAY, count=3)
    with opened(there, write=False) as (_, state):
        data = bundle.collect(state, NOW).pack()
    shutil.rmtree(elsewhere)
    return data


def _first_key(config: Path) -> str:
    return newest(config).link_keys[0].id.hex()


# name: (arguments from the hub, by how many cards it moves on)
CHANGES: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "rotate": ("rotate", lambda _: {}),
    "rotate now": ("rotate", lambda _: {"at_once": True}),
    "a series": ("issue", lambda _: {"every": DAY, "count": 3}),
    "revoke": ("revoke", lambda config: {"key": _first_key(config)}),
    "new identity": ("rotate", lambda _: {"identity": True}),
    "import": ("import", lambda config: {"data": _bundle(config)}),
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = hub(tmp_path / "a")
    with opened(path) as (loaded, state):
        operations.recover(state, operations.Caller(0, "root"), NOW)
        assert loaded.peers
    return path


def _copy(config: Path, name: str) -> Path:
    return Path(shutil.copytree(config.parent, config.parent.parent / name)) / config.name


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("change", CHANGES)
def test_killed_at_every_write(config: Path, change: str, after: bool) -> None:
    operation, arguments_of = CHANGES[change]
    arguments = arguments_of(config)
    before = newest(config)
    found = set()
    for step in range(1, STEPS_MAX):
        victim = _copy(config, f"killed-{step}")
        killed = killed_at(step, lambda victim=victim: operate(victim, operation, **arguments), after=after)  # type: ignore[misc]
        card = check(victim)
        found.add(card.serial - before.serial)
        assert card.serial - before.serial in (0, 1)
        _again(victim, operation, arguments)
        shutil.rmtree(victim.parent)
        if not killed:
            assert step > 10, "the faults were never placed"
            assert card.serial == before.serial + 1
            break
    else:
        raise AssertionError("never came to its end")
    assert found == {0, 1}


def _again(config: Path, operation: str, arguments: dict[str, Any]) -> None:
    """Whatever was left, the same can be done (again), and leaves no key that no card lists."""
    if operation == "revoke" and bytes.fromhex(arguments["key"]) in newest(config).revoked:
        operation, arguments = "rotate", {}
    operate(config, operation, **arguments)
    check(config)
    with opened(config) as (_, state):
        listed = {key.id.hex() for signed in state.cards() for key in signed.card.link_keys}
        assert {path.stem for path in state.link_key_files()} <= listed
        identities = {state.identity_file(signed.card.idfp) for signed in state.cards()}
        assert set(state.identities_aside()) <= identities


@pytest.mark.timeout(300)
@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_disk_full_at_every_write(config: Path, change: str) -> None:
    operation, arguments_of = CHANGES[change]
    arguments = arguments_of(config)
    before = newest(config)
    failed = 0
    for step in range(1, STEPS_MAX):
        victim = _copy(config, f"full-{step}")
        full = DiskFull(step)
        with patched(full):
            try:
                result = operate(victim, operation, **arguments)
            except HubtunnelError as exc:
                failed += "No space left on device" in str(exc)
            else:
                # The card is in force; what could not be written any more was said.
                assert not full.hit or any("No space left" in warning for warning in result["warnings"])
        card = check(victim)
        assert card.serial - before.serial in (0, 1)
        _again(victim, operation, arguments)
        shutil.rmtree(victim.parent)
        if not full.hit:
            break
    else:
        raise AssertionError("never came to its end")
    assert failed > 5


@pytest.mark.root
def test_really_full_disk(tmp_path: Path) -> None:
    """A tmpfs without room for one more card: the old state stays, and with room again all goes on."""
    if os.geteuid() != 0:
        pytest.skip("mounts need root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=True)
    try:
        config = hub(place / "a", peers=())
        before = check(config)
        filler = place / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(1 << 20))
        with pytest.raises(HubtunnelError, match="No space left on device"):
            operate(config, "rotate")
        with opened(config) as (_, state):
            assert state.cards()[-1].card.hash == before.hash
            assert len(state.link_key_files()) == len(before.link_keys)
            assert Trail(state).verify() is not None
        filler.unlink()
        operate(config, "rotate")
        assert check(config).serial == before.serial + 1
    finally:
        subprocess.run(["umount", place], check=True)


def test_two_signers_cannot_write_one_number(config: Path) -> None:
    """Where two processes sign at once in spite of the lock, the kernel lets one of the two cards be."""
    with opened(config) as (_, state):
        twin = State(state.folder, state._lock)
        other = _copy(config, "twin")
        operate(other, "rotate")
        with opened(other, write=False) as (_, theirs):
            twin.add_card(theirs.cards()[-1])
            with pytest.raises(HubtunnelError, match="never overwritten"):
                state.add_card(theirs.cards()[-1])
