"""The daemon's log: one line an event, fixed event names, key=value or JSON; never mail, never secrets.

Call ``event(log.info, "carrier_up", peer=…, endpoint=…)``. Values are text, numbers or None (left out). Text that comes
from a peer is quoted and escaped, so that nobody can write lines of his own into the log.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import re
import sys
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TextIO

log = logging.getLogger("hubtunnel")

_VALUE_MAX = 500
_PLAIN = re.compile(rf"[A-Za-z0-9._:/\[\]@+%,-]{{1,{_VALUE_MAX}}}")
_NUMBERS = (int, float)
_LEVEL_NAMES = {level: logging.getLevelName(level).lower() for level in (10, 20, 30, 40, 50)}
_LEVELS = {name: level for level, name in _LEVEL_NAMES.items()}
_SYSLOG_LEVEL = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

# A line that is written alone finds all that writes it cold in the processor's caches, behind a conversation's last
# bytes: some fifty microseconds; of those written together each costs seven.
SOON = 0.05  # seconds that a line of `event_soon` waits for others, at most
_SOON_MAX = 100  # and so many lines

_Fields = dict[str, object]


class _LogMethod(Protocol):
    __name__: str

    def __call__(self, msg: object) -> None: ...


def event(method: _LogMethod, name: str, **fields: object) -> None:
    """Log one event; `method` is a bound method of `log` such as ``log.info``. From the event loop's thread alone."""
    level = _LEVELS[method.__name__]
    if not log.isEnabledFor(level):
        return
    lines = _lines_alone()
    if lines is not None:
        lines.write_event(level, name, fields)  # fast path: a record's way to the line takes half as long again
    else:
        log.handle(_record(level, name, fields))


def event_soon(method: _LogMethod, name: str, **fields: object) -> None:
    """As `event`, for what comes by the thousand: the line is written with others, at most `SOON` later.

    It has the time of the event, stands before the line of any later event, and is written before the process exits; a
    process that is killed takes it along.
    """
    lines = _lines_alone()
    if lines is None:
        event(method, name, **fields)
    elif log.isEnabledFor(level := _LEVELS[method.__name__]):
        lines.write_soon(level, name, fields)


def _lines_alone() -> _Lines | None:
    """Our handler, where nobody else listens who would need a record."""
    handlers = log.handlers
    if len(handlers) == 1 and type(handlers[0]) is _Lines and not log.propagate:
        return handlers[0]
    return None


def _record(level: int, name: str, fields: _Fields) -> logging.LogRecord:
    """The event for handlers that are not ours."""
    record = logging.LogRecord(log.name, level, "", 0, name, None, None)
    record.__dict__["fields"] = fields
    return record


def short(sid: bytes) -> str:
    """Enough of a session's name to tell it from others in a log."""
    return sid[:4].hex()


def rfc3339(unix_time: float) -> str:
    """UTC to the millisecond, for example ``2026-11-22T02:11:00.000Z``."""
    seconds, milliseconds = divmod(int(unix_time * 1000), 1000)
    return f"{_to_the_second(seconds)}.{milliseconds:03d}Z"


@functools.lru_cache(maxsize=4)
def _to_the_second(unix_time: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_time))


class _Formatter(logging.Formatter, ABC):
    """The line of an event; of a record of `logging` too, whoever made it."""

    @abstractmethod
    def line(self, level: int, unix_time: float, name: str, fields: _Fields, traceback: str = "") -> str:
        """One line, without its end. Values are bounded and escaped, whatever they are."""

    def format(self, record: logging.LogRecord) -> str:
        """One line. What was not logged by `event` is the event ``log``."""
        fields: _Fields | None = record.__dict__.get("fields")
        name = "log" if fields is None else str(record.msg)
        fields = {"text": record.getMessage()} if fields is None else fields
        traceback = self.formatException(record.exc_info) if record.exc_info else ""
        return self.line(record.levelno, record.created, name, fields, traceback)


class TextFormatter(_Formatter):
    """``2026-11-22T02:11:00.000Z info carrier_up peer=mx.b.example``; under the journal its own time and level."""

    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def line(self, level: int, unix_time: float, name: str, fields: _Fields, traceback: str = "") -> str:
        """One line, without its end."""
        if self._journal:
            line = f"<{_SYSLOG_LEVEL.get(level, 6)}>{name}"
        else:
            line = f"{rfc3339(unix_time)} {_LEVEL_NAMES.get(level, 'log')} {name}"
        plain = _PLAIN.fullmatch
        for key, value in fields.items():
            if type(value) is str and plain(value):  # fast path: most fields are this, or a number
                line += f" {key}={value}"
            elif value is not None:
                line += f" {key}={_shown(value)}"
        return f"{line} traceback={json.dumps(traceback)}" if traceback else line


def _shown(value: object) -> str:
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is float:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if kind is bool:
        return "yes" if value else "no"
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text[:_VALUE_MAX])


class JsonFormatter(_Formatter):
    """The same as one JSON object a line, with ``time``, ``level`` and ``event``."""

    def line(self, level: int, unix_time: float, name: str, fields: _Fields, traceback: str = "") -> str:
        """One line, without its end."""
        out: _Fields = {"time": rfc3339(unix_time), "level": _LEVEL_NAMES.get(level, "log"), "event": name}
        for key, value in fields.items():
            if value is not None:
                out[key] = value if isinstance(value, _NUMBERS) else str(value)[:_VALUE_MAX]
        if traceback:
            out["traceback"] = traceback
        return json.dumps(out)


class _Lines(logging.StreamHandler[TextIO]):
    """A line at a time, whole: stderr passes each on at its end, so that it need not be flushed."""

    def __init__(self, stream: TextIO, formatter: _Formatter) -> None:
        super().__init__(stream)
        self.formatter: _Formatter = formatter
        self._flushes = not getattr(stream, "line_buffering", False)
        self._waiting: list[tuple[int, float, str, _Fields]] = []

    def write_event(self, level: int, name: str, fields: _Fields) -> None:
        """What `handle` does, without a record that would be made first, and without the lock between threads."""
        self.write_waiting()
        try:
            self._write(self.formatter.line(level, time.time(), name, fields))
        except Exception:
            self.handleError(_record(level, name, fields))

    def write_soon(self, level: int, name: str, fields: _Fields) -> None:
        """The same, with those that come within `SOON`."""
        self._waiting.append((level, time.time(), name, fields))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(SOON, self.write_waiting)
        elif len(self._waiting) >= _SOON_MAX:
            self.write_waiting()

    def write_waiting(self) -> None:
        """Write what waits for others: those that came are all."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        try:
            self._write("\n".join([self.formatter.line(*each) for each in waiting]))
        except Exception:
            level, _, name, fields = waiting[0]
            self.handleError(_record(level, name, fields))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; a stream that does not take it must not end the daemon."""
        self.write_waiting()
        try:
            self._write(self.formatter.format(record))
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Write what waits: `logging` asks for it when the process exits."""
        self.write_waiting()
        super().flush()

    def _write(self, line: str) -> None:
        self.stream.write(line + "\n")
        if self._flushes:
            self.stream.flush()


def configure(fmt: str, level: str, stream: TextIO | None = None) -> None:
    """Set the process's log up: `fmt` is ``text`` or ``json``, `level` a name of `logging`."""
    out = stream or sys.stderr
    for handler in log.handlers:
        if isinstance(handler, _Lines):
            handler.write_waiting()
    log.handlers[:] = [_Lines(out, JsonFormatter() if fmt == "json" else TextFormatter(_is_journal(out)))]
    log.setLevel(level.upper())
    log.propagate = False


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream is the journal's own (systemd.exec(5), $JOURNAL_STREAM is its device and inode)."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{stat.st_dev}:{stat.st_ino}"


class Throttle:
    """Lets one line per key and interval through, and says how many it held back; bounded in keys."""

    KEYS_MAX = 1024

    def __init__(self, interval: float, clock: Callable[[], float]) -> None:
        self._interval = interval
        self._clock = clock
        self._keys: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def allow(self, key: str) -> int | None:
        """None: say nothing. Otherwise the number of lines held back since the last one let through."""
        now = self._clock()
        since, held = self._keys.get(key, (float("-inf"), 0))
        if now - since < self._interval:
            self._keys[key] = (since, held + 1)
            return None
        self._keys[key] = (now, 0)
        self._keys.move_to_end(key)
        if len(self._keys) > self.KEYS_MAX:
            self._keys.popitem(last=False)
        return held
