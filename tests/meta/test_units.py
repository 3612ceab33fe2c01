"""The systemd unit is one that systemd accepts, and starts what we install."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.meta.tree import ROOT, files

UNITS = [path for path in files() if path.suffix == ".service"]


def test_there_is_a_unit() -> None:
    assert Path("contrib/systemd/hubtunnel.service") in UNITS


@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_systemd_takes_it(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    # The program need not be installed here, but systemd looks whether it is there.
    program = tmp_path / "hubtunnel"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / unit.name
    copy.write_text((ROOT / unit).read_text().replace("/usr/bin/hubtunnel", str(program)))
    verdict = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in verdict.stderr.splitlines() if unit.name in line]
    assert ours == []
    assert verdict.returncode == 0, verdict.stderr


def test_a_mistake_in_a_unit_would_be_noticed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt-get install systemd")
    broken = tmp_path / "broken.service"
    broken.write_text("[Service]\nTypo=yes\nExecStart=/bin/true\n")
    verdict = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(broken)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Typo" in verdict.stderr


def test_its_commands_are_ours() -> None:
    from hubtunnel.cli import build_parser

    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "contrib/systemd/hubtunnel.service")
    for key in ("ExecStart", "ExecReload"):
        words = unit["Service"][key].split()
        assert re.fullmatch(r"/usr/bin/hubtunnel", words[0])
        build_parser().parse_args(words[1:])
