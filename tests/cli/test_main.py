"""What holds for every command: exit status, where errors go, no traceback."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hubtunnel import __version__, protocol
from hubtunnel.cli import build_parser, typed_command
from hubtunnel.cli.common import rfc3339
from tests.cli.hubs import Hub, environment, run, spawn


def test_version() -> None:
    result = spawn("--version")
    built = " (compiled)" if protocol.compiled() else ""
    assert (result.status, result.out) == (0, f"hubtunnel {__version__}{built}\n")


def test_commands_of_the_contract_are_there() -> None:
    result = run("--help")
    assert result.status == 0
    for command in ("init", "card", "peer", "run", "check", "reload", "stop", "status", "ping"):
        assert f"\n    {command} " in result.out, command
    assert "not end-to-end" in result.out


@pytest.mark.parametrize(
    "arguments",
    [(), ("fly",), ("init",), ("card", "--fingerprin"), ("peer",), ("peer", "add"), ("check", "--bogus")],
    ids=" ".join,
)
def test_usage_errors_end_with_2_and_a_hint(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)

    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("hubtunnel: ")
    assert "\nhint: hubtunnel" in result.err


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("run", "run"),
        ("--config run card", "card"),
        ("--config=run --traceback card --json", "card"),
        ("mta postfix", "mta"),
        ("", None),
        ("--help run", None),
        ("--version", None),
        ("fly", None),
        ("--config", None),
        ("--conf x run", None),
    ],
)
def test_the_command_that_is_typed(line: str, command: str | None) -> None:
    assert typed_command(line.split()) == command


def test_a_command_alone_is_what_it_is_among_all() -> None:
    whole = _commands(build_parser())
    assert list(whole) == [
        *("init", "card", "peer", "key", "check", "run", "reload", "stop", "ping", "status", "mta", "doctor", "demo")
    ]
    for name, parser in whole.items():
        assert _commands(build_parser(name))[name].format_help() == parser.format_help(), name


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(action.choices)


# Of a daemon's fifty megabytes each of these took some, and other commands need them: the mail servers' configuration,
# tables for people, the demo, reading mail.
_NOT_IN_THE_DAEMON = ("rich", "smtplib", "email", "hubtunnel.mta", "hubtunnel.demo", "hubtunnel.cli.peer")


def test_the_daemon_imports_what_it_needs_and_no_more(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hubtunnel", "--config", str(tmp_path / "none.toml"), "run"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=50,
        check=False,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hubtunnel.daemon.hub" in imported, "or it ended too early to tell"
    assert [name for name in _NOT_IN_THE_DAEMON if name in imported] == []


@pytest.mark.parametrize("command", ["card", "check", "peer list", "peer show x", "peer remove x"])
def test_a_missing_configuration_is_told_by_every_command(tmp_path: Path, command: str) -> None:
    result = run("--config", tmp_path / "none.toml", *command.split())

    assert result.status == (1 if command == "check" else 2)
    assert "there is no such file" in result.err + result.out


def test_config_is_taken_before_and_behind_the_command_and_from_the_environment(
    a: Hub, b: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = a.run("card").out
    assert run("card", "--config", a.config).out == expected
    monkeypatch.setenv("HUBTUNNEL_CONFIG", str(a.config))
    assert run("card").out == expected
    assert run("--config", b.config, "card").out != expected
    assert run("peer", "--config", b.config, "list", "--json").out == "[]\n"


def test_reading_commands_have_json(a: Hub, b: Hub) -> None:
    assert a.run("peer", "add", b.card, "--fingerprint", b.fingerprint).status == 0
    for command in ("card", "peer list", f"peer show {b.name}", "check"):
        json.loads(a.run(*command.split(), "--json").out)


def test_an_internal_error_is_no_traceback_unless_asked_for(a: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret thing")

    monkeypatch.setattr("hubtunnel.cli.card.open_state", fail)
    result = a.run("card")
    assert result.status == 1
    assert "internal error" in result.err
    assert "ZeroDivisionError" in result.err
    assert "secret thing" not in result.err
    with pytest.raises(ZeroDivisionError):
        a.run("card", "--traceback")


def test_a_reader_that_has_seen_enough_is_no_error(a: Hub) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "hubtunnel", "card", "--config", str(a.config)],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=50,
        check=False,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


def test_no_output_to_a_pipe_has_colour(a: Hub, b: Hub) -> None:
    a.run("peer", "add", b.card, "--fingerprint", b.fingerprint)
    for command in (("peer", "list"), ("check",), ("peer", "show", b.name)):
        assert "\x1b" not in spawn("--config", a.config, *command).out


def test_no_command_takes_a_secret_on_its_command_line() -> None:
    """Others can read argv (proc(5))."""
    text = build_parser().format_help()
    assert "passphrase" not in text
    assert "psk" not in text


@pytest.mark.parametrize(
    ("moment", "text"),
    [(0, "1970-01-01T00:00:00Z"), (1_800_000_000.9, "2027-01-15T08:00:00Z"), (1 << 63, f"@{1 << 63}")],
)
def test_times_are_rfc_3339(moment: float, text: str) -> None:
    assert rfc3339(moment) == text
