"""One line an event, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.daemon import logs
from hubtunnel.daemon.logs import JsonFormatter, TextFormatter, Throttle, event, log, rfc3339


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = (log.handlers[:], log.level, log.propagate)
    yield
    log.handlers[:], log.level, log.propagate = before


def record(**fields: object) -> logging.LogRecord:
    made = logging.LogRecord("hubtunnel", logging.WARNING, "", 0, "carrier_up", None, None)
    made.__dict__["fields"] = fields
    made.created = 1_795_312_800.25
    return made


def test_text() -> None:
    line = TextFormatter(False).format(record(peer="mx.b.example", why='say "x"', seconds=0.5, dialled=True))
    assert line == (
        '2026-11-22T02:00:00.250Z warning carrier_up peer=mx.b.example why="say \\"x\\"" seconds=0.5 dialled=yes'
    )


def test_journal_has_its_own_clock_and_levels() -> None:
    assert TextFormatter(True).format(record(peer="b")) == "<4>carrier_up peer=b"


def test_json() -> None:
    assert json.loads(JsonFormatter().format(record(peer="b", n=3))) == {
        "time": "2026-11-22T02:00:00.250Z",
        "level": "warning",
        "event": "carrier_up",
        "peer": "b",
        "n": 3,
    }


@given(st.text())
def test_nobody_writes_lines_of_his_own(text: str) -> None:
    for formatter in (TextFormatter(False), JsonFormatter()):
        line = formatter.format(record(peer=text))
        assert len(line.splitlines()) == 1
        assert len(line) < 4000


def test_levels_and_absent_fields() -> None:
    out = io.StringIO()
    logs.configure("text", "warning", out)
    event(log.info, "not_shown", x=1)
    event(log.warning, "shown", x=1, y=None)
    assert re.fullmatch(r"\S+Z warning shown x=1\n", out.getvalue())


def test_journal_is_known_by_device_and_inode(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream, os.fdopen(read):
        stat = os.fstat(write)
        monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
        logs.configure("text", "info", stream)
        assert isinstance(log.handlers[0].formatter, TextFormatter)
        assert log.handlers[0].formatter.format(record()).startswith("<4>")


def test_throttle_counts_what_it_holds_back() -> None:
    now = 0.0
    throttle = Throttle(60, lambda: now)
    assert throttle.allow("a") == 0
    assert throttle.allow("a") is None
    assert throttle.allow("a") is None
    assert throttle.allow("b") == 0
    now = 60.0
    assert throttle.allow("a") == 2
    assert throttle.allow("a") is None


def test_throttle_is_bounded() -> None:
    throttle = Throttle(60, lambda: 0.0)
    for number in range(Throttle.KEYS_MAX + 1):
        assert throttle.allow(str(number)) == 0
    assert throttle.allow("0") == 0  # it had made room


def test_times() -> None:
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_795_312_800.9996) == "2026-11-22T02:00:00.999Z"
