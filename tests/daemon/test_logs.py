"""One line an event, whatever is in it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubtunnel.daemon import logs
from hubtunnel.daemon.logs import JsonFormatter, TextFormatter, Throttle, event, event_soon, log, rfc3339
from hubtunnel.protocol.streams import State
from tests.conftest import RunLoop


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


class Stream(io.StringIO):
    """Remembers each write, and takes none while it is `broken`."""

    def __init__(self, *, line_buffering: bool = True) -> None:
        super().__init__()
        self._line_buffering = line_buffering
        self.writes: list[str] = []
        self.flushed = 0
        self.broken = False
        self.wrote = asyncio.Event()

    @property
    def line_buffering(self) -> bool:
        return self._line_buffering

    def write(self, text: str, /) -> int:
        if self.broken:
            raise OSError(28, "No space left on device")
        self.writes.append(text)
        self.wrote.set()
        return len(text)

    def flush(self) -> None:
        self.flushed += 1

    def configure(self, fmt: str = "text", level: str = "info") -> Stream:
        logs.configure(fmt, level, self)
        return self


VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(State)


def without_time(line: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME", line)


@pytest.mark.parametrize("fmt", ["text", "json"])
@settings(max_examples=40)
@given(fields=st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), VALUES, max_size=4))
def test_an_event_is_the_line_that_logging_would_make_of_it(fmt: str, fields: dict[str, object]) -> None:
    """The short way to our handler leads to the same line as a record, which is made when a second handler is there."""
    alone, beside = Stream().configure(fmt), Stream()
    event(log.info, "carrier_up", **fields)
    beside.configure(fmt)
    log.addHandler(logging.NullHandler())
    event(log.info, "carrier_up", **fields)
    assert without_time(alone.writes[0]) == without_time(beside.writes[0])
    assert len(alone.writes[0].splitlines()) == 1


def test_whoever_else_listens_has_a_record(caplog: pytest.LogCaptureFixture) -> None:
    Stream().configure()
    log.addHandler(caplog.handler)
    event(log.warning, "carrier_down", peer="b")
    (seen,) = caplog.records
    assert (seen.msg, seen.levelno, seen.__dict__["fields"]) == ("carrier_down", logging.WARNING, {"peer": "b"})


def test_each_line_is_one_write() -> None:
    """So that no two processes, nor two threads, mix what they say."""
    stream = Stream().configure()
    for number in range(3):
        event(log.info, "shown", n=number)
    assert [line.count("\n") for line in stream.writes] == [1, 1, 1]
    assert stream.flushed == 0


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r" n=(\d+)", text)]


def test_what_comes_by_the_thousand_is_written_together(run_loop: RunLoop) -> None:
    """Within the time it may wait, without anything else to push it."""
    stream = Stream().configure()

    async def conversations_end() -> None:
        for number in range(3):
            event_soon(log.info, "stream", n=number)
        event_soon(log.debug, "stream", n=3)
        assert stream.writes == []
        await stream.wrote.wait()

    run_loop(conversations_end())
    (written,) = stream.writes
    assert (written.count("\n"), written[-1], numbers(written)) == (3, "\n", [0, 1, 2])


def test_lines_that_wait_stand_before_all_later_ones() -> None:
    """Of an event, of another library, of a reload's new form, and of the end of the process."""
    stream = Stream().configure()

    async def conversations_end() -> None:
        event_soon(log.info, "stream", n=0)
        event(log.info, "shown", n=1)
        event_soon(log.info, "stream", n=2)
        log.warning("said by a library: n=3")
        event_soon(log.info, "stream", n=4)
        stream.configure("json")
        event_soon(log.info, "stream")
        logging.shutdown([weakref.ref(log.handlers[0])])

    asyncio.run(conversations_end())
    assert numbers("".join(stream.writes)) == [0, 1, 2, 3, 4]
    assert json.loads(stream.writes[-1])["event"] == "stream"


def test_few_lines_wait() -> None:
    stream = Stream().configure()

    async def conversations_end() -> None:
        for number in range(250):
            event_soon(log.info, "stream", n=number)

    asyncio.run(conversations_end())
    assert [write.count("\n") for write in stream.writes] == [100, 100]
    log.handlers[0].flush()
    assert numbers("".join(stream.writes)) == list(range(250))


def test_lines_that_wait_and_find_a_broken_stream_end_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream().configure()

    async def conversation_ends() -> None:
        event_soon(log.info, "stream", n=0)
        stream.broken = True
        event(log.info, "lost", n=1)
        stream.broken = False
        event(log.info, "shown", n=2)

    asyncio.run(conversation_ends())
    assert numbers("".join(stream.writes)) == [2]
    assert "No space left on device" in capsys.readouterr().err


def test_whoever_else_listens_has_a_record_at_once(caplog: pytest.LogCaptureFixture) -> None:
    Stream().configure()
    log.addHandler(caplog.handler)
    event_soon(log.info, "stream", peer="b")
    assert [seen.msg for seen in caplog.records] == ["stream"]


def test_a_stream_that_keeps_lines_back_is_flushed() -> None:
    stream = Stream(line_buffering=False).configure()
    event(log.info, "shown")
    log.warning("said by a library")
    assert stream.flushed == 2


def test_a_stream_that_takes_nothing_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Stream().configure()
    stream.broken = True
    event(log.info, "lost", peer="b")
    log.warning("lost too")
    stream.broken = False
    event(log.info, "shown", peer="b")
    assert [line.split()[1:] for line in stream.writes] == [["info", "shown", "peer=b"]]
    assert capsys.readouterr().err.count("OSError: [Errno 28] No space left on device\n") == 2


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_what_others_log_has_our_form(fmt: str) -> None:
    stream = Stream().configure(fmt)
    try:
        raise ValueError("it broke")
    except ValueError:
        logging.getLogger("hubtunnel.library").exception("request %d failed", 7)
    (line,) = stream.writes
    assert len(line.splitlines()) == 1
    if fmt == "json":
        said = json.loads(line)
        assert (said["level"], said["event"], said["text"]) == ("error", "log", "request 7 failed")
        assert said["traceback"].endswith("ValueError: it broke")
    else:
        assert ' error log text="request 7 failed" traceback="Traceback ' in line
        assert line.endswith('ValueError: it broke"\n')


def test_what_is_below_the_level_is_not_put_into_words(capsys: pytest.CaptureFixture[str]) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise ValueError("was asked")

    Stream().configure(level="info")
    event(log.debug, "not_shown", x=Unspeakable())
    assert capsys.readouterr().err == ""
    event(log.info, "tried", x=Unspeakable())
    assert "was asked" in capsys.readouterr().err


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
