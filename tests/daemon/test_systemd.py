"""The unit that packagers take: systemd's own verdict on it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hubtunnel.identity import credentials

UNITS = Path(__file__).parents[2] / "contrib" / "systemd"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists wherever the tests run."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    path = tmp_path / "hubtunnel.service"
    text = (UNITS / "hubtunnel.service").read_text()
    assert text.count("/usr/bin/hubtunnel") == 2
    path.write_text(text.replace("/usr/bin/hubtunnel", "/bin/true"))
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_unit_has_no_mistakes(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")


def test_sockets_have_no_mistakes(unit: Path) -> None:
    text = (UNITS / "hubtunnel.socket").read_text()
    path = unit.with_suffix(".socket")
    path.write_text(text.replace("#ListenStream=", "ListenStream="))  # as it is with a peer
    done = analyze("verify", "--man=no", str(path), str(unit))
    assert (done.returncode, done.stderr) == (0, "")
    path.write_text(text.replace("Backlog=", "Backlogg="))  # the control
    assert "Backlogg" in analyze("verify", "--man=no", str(path), str(unit)).stderr


def test_mistakes_would_be_found(unit: Path) -> None:
    """The control of the test above."""
    unit.write_text(unit.read_text().replace("ProtectClock=yes", "ProtectClok=yes"))
    assert "ProtectClok" in analyze("verify", "--man=no", str(unit)).stderr


def test_exposure(unit: Path) -> None:
    """In tenths, out of 100; a service without any sandbox has 96."""
    done = analyze("security", "--offline=yes", "--threshold=15", str(unit))
    assert done.returncode == 0, done.stdout


def test_exposure_would_be_found(unit: Path) -> None:
    """The control of the test above."""
    unit.write_text(unit.read_text().replace("SystemCallFilter=", "#SystemCallFilter="))
    assert analyze("security", "--offline=yes", "--threshold=15", str(unit)).returncode == 1


def test_user_of_the_unit_is_made() -> None:
    assert "User=hubtunnel\n" in (UNITS / "hubtunnel.service").read_text()
    lines = (UNITS / "hubtunnel.sysusers").read_text().splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith("#")] == [["u", "hubtunnel"]]


def test_credentials_in_comments_are_what_the_daemon_reads(unit: Path) -> None:
    """With the comment signs taken away systemd takes the unit, and the names are those that are looked for."""
    lines = [line for line in unit.read_text().splitlines() if line.startswith("#LoadCredential")]
    names = [line.split("=")[1].split(":")[0] for line in lines]
    assert credentials.IDENTITY_PASSPHRASE in names
    assert all(credentials.is_name(name) for name in names)
    unit.write_text(unit.read_text().replace("#LoadCredential", "LoadCredential"))
    done = analyze("verify", "--man=no", str(unit))
    assert (done.returncode, done.stderr) == (0, "")
