"""Every input of the corpus through the targets, without atheris; and that the harness sees what it should see."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubtunnel.errors import ProtocolError
from hubtunnel.protocol import events as ev
from hubtunnel.protocol import frames as codec
from hubtunnel.protocol.bytestream import SendBuffer
from hubtunnel.protocol.constants import Frame
from hubtunnel.protocol.mux import Mux
from hubtunnel.protocol.records import Reader
from hubtunnel.protocol.streams import Stream
from tests.fuzz import make_corpus
from tests.fuzz.__main__ import CORPUS, ROOT
from tests.fuzz.targets import TARGETS, core, hubs
from tests.fuzz.targets.files import folder

INPUTS = [path for name in TARGETS for path in sorted((CORPUS / name).glob("*"))]
BYTES_MAX = 256 << 10  # of the whole corpus


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_its_own_target_holds(path: Path) -> None:
    TARGETS[path.parent.name].run(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_on_the_inputs_of_all_others(name: str) -> None:
    """They mean nothing there, which is the point."""
    for path in INPUTS:
        if path.parent.name != name and path.stat().st_size <= TARGETS[name].longest and hash_of(path) % 4 == 0:
            TARGETS[name].run(path.read_bytes())


def hash_of(path: Path) -> int:
    return sum(path.read_bytes()) + len(path.name)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_what_its_script_writes(name: str) -> None:
    made = dict(make_corpus.MAKERS[name]())
    assert made
    kept = {path.name: path.read_bytes() for path in (CORPUS / name).iterdir()}
    assert made == {title: data for title, data in kept.items() if title in made or not is_regression(title)}


def is_regression(title: str) -> bool:
    return title.startswith(make_corpus.REGRESSION)


def test_the_corpus_is_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
    assert sum(path.stat().st_size for path in INPUTS) < BYTES_MAX
    for path in INPUTS:
        assert path.stat().st_size <= TARGETS[path.parent.name].longest


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        (
            "core",
            {
                *(ev.SessionUp, ev.SessionResumed, ev.SessionEnded, ev.CarrierLost, ev.CarrierClosing, ev.Ratcheted),
                *(ev.StreamOpened, ev.StreamData, ev.StreamEnd, ev.StreamReset, ev.PeerGoingAway, ev.Notice),
                *(ev.CardReceived, ev.CardAcknowledged, ev.CardRefused, ev.OwnCardsBehind),
            },
        ),
        (
            "hubs",
            {
                *(ev.SessionUp, ev.SessionResumed, ev.SessionEnded, ev.CarrierLost, ev.CarrierClosing, ev.Ratcheted),
                *(ev.StreamOpened, ev.StreamData, ev.StreamEnd, ev.StreamReset, ev.PeerGoingAway, ev.Pong),
            },
        ),
    ],
)
def test_the_corpus_gets_everywhere(name: str, reached: set[type]) -> None:
    """A corpus that never opens a session would hold as well."""
    seen: set[type] = set()
    for path in sorted((CORPUS / name).iterdir()):
        play = (core if name == "core" else hubs).Play(path.read_bytes())
        play.run()
        seen |= play.seen
    assert reached <= seen, reached - seen


# --- controls: seeded bugs that must be seen ----------------------------------------------------------------------


def broken(name: str) -> bool:
    """Whether some input of its corpus breaks a target."""
    for path in sorted((CORPUS / name).iterdir()):
        try:
            TARGETS[name].run(path.read_bytes())
        except Exception:
            return True
    return False


def test_an_error_of_another_kind_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(payload: bytes) -> None:
        raise KeyError(payload)

    monkeypatch.setattr(codec, "decode_open", decode)
    assert broken("payloads")
    assert broken("core")


def test_a_buffer_that_grows_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Stream.data_received

    def twice(stream: Stream, n: int) -> None:
        take(stream, n)
        stream._mux.budget.take(1)

    monkeypatch.setattr(Stream, "data_received", twice)
    assert broken("core")
    assert broken("hubs")


def test_a_change_before_authentication_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    following = Reader.next

    def next_of(reader: Reader) -> object:
        try:
            return following(reader)
        except ProtocolError:
            session = play.link.sessions[0] if play.link.sessions else None
            if session is not None:
                session.peer_version = "changed"
            raise

    monkeypatch.setattr(Reader, "next", next_of)
    play = core.Play((CORPUS / "core" / "hub-dials-raw").read_bytes())
    with pytest.raises(AssertionError):
        play.run()


def test_bytes_out_of_order_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Mux.receive

    def reversed_data(mux: Mux, kind: int, number: int, payload: bytes) -> None:
        receive(mux, kind, number, payload[::-1] if kind == Frame.DATA else payload)

    monkeypatch.setattr(Mux, "receive", reversed_data)
    assert broken("hubs")


def test_memory_that_is_not_given_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SendBuffer, "clear", lambda _: None)
    assert broken("core")


def test_the_folder_of_a_run_is_its_own() -> None:
    assert folder().is_dir()
    assert ROOT not in folder().parents


# --- atheris itself -------------------------------------------------------------------------------------------------

SEEDED = """
import sys
from hubtunnel.protocol import frames

def decode(payload):
    if payload[:1] == b"B":
        raise KeyError("seeded")
    return "smtp", None

sys.argv[0] = "engine"
import tests.fuzz.engine as engine
from tests.fuzz.targets import wire
wire.codec.decode_open = decode
engine.main()
"""


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_fuzzer_finds_a_seeded_bug_and_keeps_the_input(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-c", SEEDED, "payloads", "-runs=200000", "-max_total_time=40", "-max_len=16"),
            f"-artifact_prefix={tmp_path}/",
        ],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert run.returncode != 0
    assert "KeyError: 'seeded'" in run.stdout + run.stderr
    (kept,) = tmp_path.glob("crash-*")
    assert kept.read_bytes()[0] % 2 == 0
    assert kept.read_bytes()[1:2] == b"B"


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--found", str(tmp_path), "frames"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert run.stdout.startswith("held   frames")
    assert list((tmp_path / "frames").iterdir()) != []


def test_the_command_replays_an_input(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"\0" * 40)
    command = [sys.executable, "-m", "tests.fuzz", "--replay", "records", str(tmp_path / "input")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "records: held on 1 inputs\n")
