"""The daemon's log: one line an event, fixed event names, key=value or JSON; never mail, never secrets.

Call ``event(log.info, "carrier_up", peer=…, endpoint=…)``. Values are text, numbers or None (left out). Text that comes
from a peer is quoted and escaped, so that nobody can write lines of his own into the log.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TextIO

log = logging.getLogger("hubtunnel")

_PLAIN = re.compile(r"[A-Za-z0-9._:/\[\]@+%,-]+")
_VALUE_MAX = 500
_LEVEL_NAMES = {level: logging.getLevelName(level).lower() for level in (10, 20, 30, 40, 50)}
_LEVELS = {name: level for level, name in _LEVEL_NAMES.items()}
_SYSLOG_LEVEL = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _LogMethod(Protocol):
    __name__: str

    def __call__(self, msg: object) -> None: ...


def event(method: _LogMethod, name: str, **fields: object) -> None:
    """Log one event; `method` is a bound method of `log` such as ``log.info``."""
    level = _LEVELS[method.__name__]
    if log.isEnabledFor(level):
        log.handle(_Event(level, name, fields))


# What a formatter that is not ours may ask a record for.
_BLANK = vars(logging.LogRecord("", logging.INFO, "", 0, "", None, None))


class _Event(logging.LogRecord):
    """What our lines show and nothing else: thread, process and place in the source would cost more than the line."""

    def __init__(self, level: int, name: str, fields: dict[str, object]) -> None:
        self.__dict__.update(_BLANK)
        self.name = log.name
        self.levelno = level
        self.levelname = logging.getLevelName(level)
        self.msg = name
        self.created = time.time()
        self.fields = fields


def short(sid: bytes) -> str:
    """Enough of a session's name to tell it from others in a log."""
    return sid[:4].hex()


def rfc3339(unix_time: float) -> str:
    """UTC to the millisecond, for example ``2026-11-22T02:11:00.000Z``."""
    whole = int(unix_time // 1)
    return f"{_to_the_second(whole)}.{int((unix_time - whole) * 1000):03d}Z"


@functools.lru_cache(maxsize=4)
def _to_the_second(unix_time: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_time))


def _plain(value: object) -> str:
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is float:
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if kind is bool:
        return "yes" if value else "no"
    return _plain_text(str(value))


@functools.lru_cache(maxsize=512)  # peers, sessions, directions and ends of streams come again and again
def _plain_text(text: str) -> str:
    if len(text) <= _VALUE_MAX and _PLAIN.fullmatch(text):
        return text
    return json.dumps(text[:_VALUE_MAX])


class TextFormatter(logging.Formatter):
    """``2026-11-22T02:11:00.000Z info carrier_up peer=mx.b.example``; under the journal its own time and level."""

    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] | None = record.__dict__.get("fields")
        if fields is None:
            line = f"log text={_plain(record.getMessage())}"
        else:
            line = str(record.msg)
            for key, value in fields.items():
                if value is not None:
                    line += f" {key}={_plain(value)}"
        if record.exc_info:
            line += f" traceback={json.dumps(self.formatException(record.exc_info))}"
        if self._journal:
            return f"<{_SYSLOG_LEVEL.get(record.levelno, 6)}>{line}"
        return f"{rfc3339(record.created)} {_LEVEL_NAMES.get(record.levelno, 'log')} {line}"


class JsonFormatter(logging.Formatter):
    """The same as one JSON object a line, with ``time``, ``level`` and ``event``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] | None = record.__dict__.get("fields")
        level = _LEVEL_NAMES.get(record.levelno, "log")
        out: dict[str, object] = {"time": rfc3339(record.created), "level": level}
        if fields is None:
            out |= {"event": "log", "text": record.getMessage()}
        else:
            out["event"] = record.msg
            out |= {
                key: value if isinstance(value, int | float) else str(value)[:_VALUE_MAX]
                for key, value in fields.items()
                if value is not None
            }
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json.dumps(out)


class _Lines(logging.StreamHandler[TextIO]):
    """A line at a time, whole: stderr passes each on at its end, so that it need not be flushed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; a stream that does not take it must not end the daemon."""
        try:
            self.stream.write(self.format(record) + "\n")
            if not getattr(self.stream, "line_buffering", False):
                self.stream.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


def configure(fmt: str, level: str, stream: TextIO | None = None) -> None:
    """Set the process's log up: `fmt` is ``text`` or ``json``, `level` a name of `logging`."""
    out = stream or sys.stderr
    handler = _Lines(out)
    handler.setFormatter(JsonFormatter() if fmt == "json" else TextFormatter(_is_journal(out)))
    log.handlers[:] = [handler]
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
