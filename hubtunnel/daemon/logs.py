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
from typing import Any, Protocol, TextIO

log = logging.getLogger("hubtunnel")

_PLAIN = re.compile(r"[A-Za-z0-9._:/\[\]@+%,-]+")
_VALUE_MAX = 500
_SYSLOG_LEVEL = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _LogMethod(Protocol):
    def __call__(self, msg: object, *, extra: dict[str, Any]) -> None: ...


def event(method: _LogMethod, name: str, **fields: object) -> None:
    """Log one event; `method` is a bound method of `log` such as ``log.info``."""
    method(name, extra={"fields": {k: v for k, v in fields.items() if v is not None}})


def rfc3339(unix_time: float) -> str:
    """UTC to the millisecond, for example ``2026-11-22T02:11:00.000Z``."""
    whole = int(unix_time // 1)
    return f"{_to_the_second(whole)}.{int((unix_time - whole) * 1000):03d}Z"


@functools.lru_cache(maxsize=4)
def _to_the_second(unix_time: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(unix_time))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = str(value)[:_VALUE_MAX]
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class TextFormatter(logging.Formatter):
    """``2026-11-22T02:11:00.000Z info carrier_up peer=mx.b.example``; under the journal its own time and level."""

    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = getattr(record, "fields", {})
        parts = [record.getMessage() if "fields" in record.__dict__ else f"log text={_plain(record.getMessage())}"]
        parts += [f"{key}={value if type(value) is int else _plain(value)}" for key, value in fields.items()]
        if record.exc_info:
            parts.append(f"traceback={json.dumps(self.formatException(record.exc_info))}")
        if self._journal:
            return f"<{_SYSLOG_LEVEL.get(record.levelno, 6)}>{' '.join(parts)}"
        return f"{rfc3339(record.created)} {record.levelname.lower()} {' '.join(parts)}"


class JsonFormatter(logging.Formatter):
    """The same as one JSON object a line, with ``time``, ``level`` and ``event``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = getattr(record, "fields", {})
        out: dict[str, object] = {"time": rfc3339(record.created), "level": record.levelname.lower()}
        if "fields" in record.__dict__:
            out["event"] = record.getMessage()
        else:
            out |= {"event": "log", "text": record.getMessage()}
        out |= {
            key: value if isinstance(value, int | float) else str(value)[:_VALUE_MAX] for key, value in fields.items()
        }
        if record.exc_info:
            out["traceback"] = self.formatException(record.exc_info)
        return json.dumps(out)


def configure(fmt: str, level: str, stream: TextIO | None = None) -> None:
    """Set the process's log up: `fmt` is ``text`` or ``json``, `level` a name of `logging`."""
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter() if fmt == "json" else TextFormatter(_is_journal(out)))
    log.handlers[:] = [handler]
    log.setLevel(level.upper())
    log.propagate = False


class _LightRecord(logging.LogRecord):
    """What our lines show and nothing else: no thread, process or place in the source."""

    def __init__(
        self, name: str, level: int, pathname: str, lineno: int, msg: object, args: Any, exc_info: Any, *_: object
    ) -> None:
        self.name = name
        self.levelno = level
        self.levelname = logging.getLevelName(level)
        self.msg = msg
        self.args = args
        self.exc_info = exc_info
        self.exc_text = None
        self.stack_info = None
        self.created = time.time()


def lighten() -> None:
    """Make logging cheap for the whole process, a daemon's: a line is written per SMTP conversation.

    The walk up the stack for a line's place in the source is left out as the documentation of `logging` advises under
    "Optimization", the rest by a record of our own.
    """
    logging._srcfile = None
    logging.setLogRecordFactory(_LightRecord)


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
