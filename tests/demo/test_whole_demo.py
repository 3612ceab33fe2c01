"""`hubtunnel demo` as it is typed: what it prints, what it proves, and that nothing of it is left afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import hubtunnel.cli.demo
from hubtunnel.cli import main

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

COMMAND = [sys.executable, "-u", "-m", "hubtunnel", "demo"]
CLAIMS = 9


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for the demo's own, with a name short enough for Unix sockets; it has to be empty afterwards."""
    with tempfile.TemporaryDirectory(prefix="ht-") as folder:
        yield Path(folder)
        assert list(Path(folder).iterdir()) == [], "files left behind"
        assert processes_naming(folder) == [], "processes left behind"


def processes_naming(text: str) -> list[str]:
    """Command lines of running processes with `text` in them."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if text in line:
            lines.append(line)
    return lines


def start(scratch: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *options],
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_everything_is_proved(scratch: Path) -> None:
    with start(scratch, "--json") as demo:
        output, complaints = demo.communicate()
    assert demo.returncode == 0, output + complaints
    assert complaints == ""
    report = json.loads(output)
    assert report["ok"] is True
    assert report["messages"] == report["identical"] == 232
    assert report["bytes"] > 50_000_000
    assert report["plaintext_on_wire"] == 0
    assert report["plaintext_in_control"] > 10_000
    assert report["wire_bytes"] > report["bytes"]
    assert report["epochs"] >= 5
    assert report["carriers_cut"] == 2
    assert report["carriers_flipped"] == 1
    assert report["sessions_resumed"] == 3
    assert report["rotations"] == 1
    assert report["seconds"] > 0
    assert len(report["proofs"]) == CLAIMS
    assert all(proof["proved"] and proof["evidence"] for proof in report["proofs"])


@pytest.mark.parametrize(
    ("step", "number"),
    [("two hubs", signal.SIGINT), ("two daemons", signal.SIGTERM), ("one bit flipped", signal.SIGHUP)],
)
def test_it_can_be_interrupted_anywhere(scratch: Path, step: str, number: signal.Signals) -> None:
    with start(scratch) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if step in line:
                break
        demo.send_signal(number)
        _, complaints = demo.communicate()
    assert demo.returncode == 130
    assert complaints == ""


def test_kept_hubs_take_mail_by_hand(scratch: Path) -> None:
    with start(scratch, "--keep") as demo:
        assert demo.stderr is not None
        told = ""
        for line in demo.stderr:
            told += line
            if "Ctrl-C" in line:
                break
        match = re.search(r"python3 -c '(.+)'$", told, re.MULTILINE)
        assert match, told
        subprocess.run([sys.executable, "-c", match[1]], check=True, timeout=30)
        path = Path(demo.stderr.readline().removeprefix("arrived: ").strip())
        assert path.read_bytes().endswith(b"Subject: by hand\r\n\r\nHello.\r\n")
        port = int(re.search(r"nc 127.0.0.1 (\d+)", told)[1])  # type: ignore[index]
        with smtplib.SMTP("127.0.0.1", port, local_hostname="me.example", timeout=30) as client:
            client.sendmail("a@near.example", ["b@far.example", "c@far.example"], "Subject: two\n\nHello again.\n")
        path = Path(demo.stderr.readline().removeprefix("arrived: ").strip())
        assert b"Delivered-To: b@far.example\r\nDelivered-To: c@far.example\r\n" in path.read_bytes()
        status = re.search(r"near hub:\s+(.+)$", told, re.MULTILINE)
        assert status, told
        shown = subprocess.run(status[1].split(), capture_output=True, text=True, timeout=30, check=True)
        assert "mx.far.example" in shown.stdout
        demo.send_signal(signal.SIGINT)
        _, complaints = demo.communicate()
    assert demo.returncode == 130
    assert complaints == ""


def test_a_temporary_folder_with_too_long_a_name(scratch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = scratch / ("x" * 80)
    long.mkdir()
    with start(long) as demo:
        _, complaints = demo.communicate()
    long.rmdir()
    assert demo.returncode == 2
    assert "set TMPDIR to a folder with a shorter name" in complaints


def test_without_its_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hubtunnel.cli.demo, "find_spec", lambda name: None)
    assert main(["demo"]) == 2
    complaints = capsys.readouterr().err
    assert "aiosmtpd" in complaints
    assert "pip install 'hubtunnel[demo]'" in complaints
