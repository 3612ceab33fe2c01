"""What was seen of a failure, in the words that were used, and how a row of the table in docs/OPERATING.md shows it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.failures.lab import Hub

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_ID = re.compile(r"h1[a-z0-9]{3}(?:-[a-z0-9]{5}){5,}|\b[0-9a-f]{16,64}\b")  # fingerprints, keys
_LOG = re.compile(r"^\S+ (warning|error|critical|info) (\w+) (.*)$")
_SHOWN = ("code", "cause", "proxy", "problem", "end", "why")  # fields of the log that are part of what is said
SAME = "the same text"


@dataclass
class Row:
    """One failure: what was wrong, and what each place said about it."""

    wrong: str
    queue: list[str] = field(default_factory=list)
    status: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    doctor: list[str] = field(default_factory=list)

    def cells(self) -> list[str]:
        columns = (self.queue, self.status, self.log, self.doctor)
        return [self.wrong, *("<br>".join(each.replace("|", "\\|") for each in column) or "-" for column in columns)]


def plain(text: str, hub: Hub) -> str:
    """Without what differs from run to run, and with the paths of a hub that was not made with `--dir`."""
    paths = {
        f"{hub.folder}/control.sock": "/run/hubtunnel/control.sock",
        f" --config {hub.config}": "",
        f"{hub.folder}/state": "/var/lib/hubtunnel",
        str(hub.folder): "/etc/hubtunnel",
    }
    for path, shown in paths.items():
        text = text.replace(path, shown)
    text = re.sub(r"(?<=^no answer given: )\d+|(?<=\()\d+(?= KiB left\))", "…", text)
    return _TIME.sub("…", _ID.sub("…", text)).strip()


def quoted(text: str) -> str:
    """As code, whatever is in it."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def logged(hub: Hub, *wanted: str, peer: Hub | None = None, known: str = "") -> list[str]:
    """The log's lines of these events, each once; a text that is already `known` is not said again."""
    found: dict[str, None] = {}
    for line in hub.log.splitlines():
        parts = _LOG.match(line)
        if parts is None or parts[2] not in wanted or (peer is not None and f"peer={peer.name}" not in line):
            continue
        fields = dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', parts[3]))
        if parts[2] == "stream" and "why" not in fields:
            continue  # one that was not refused
        said = " ".join([parts[2], *(f"{key}={fields[key]}" for key in _SHOWN if key in fields)])
        text = plain(fields.get("text", "").strip('"'), hub)
        if not text:
            found[quoted(said)] = None
        elif text in known:
            found[f"{quoted(said)}, {SAME}"] = None
        else:
            found[quoted(f'{said} text="{text}"')] = None
    return list(found)


def of_status(hub: Hub, screen: str, begins: str, known: str = "") -> list[str]:
    """The lines of `status` that begin so, each with what stands indented below it."""
    lines = screen.splitlines()
    found = []
    for number, line in enumerate(lines):
        if not line.startswith(begins):
            continue
        below = lines[number + 1 : number + 2]
        text = plain(line, hub).removeprefix(f"{begins} ").removeprefix("… ")
        found.append(SAME if text in known else quoted(text))
        found += [quoted(plain(each, hub)) for each in below if each.startswith("  ")]
    return found


def of_doctor(
    hub: Hub, findings: Sequence[dict[str, str]], about: Sequence[str], checks: Sequence[str], known: str = ""
) -> list[str]:
    """What `doctor` found wrong: each check with its text, unless that is `known`, and its cure likewise."""
    found = []
    for finding in findings:
        if finding["verdict"] != "wrong" or finding["check"] not in checks:
            continue
        if finding["about"] not in about and not any(each in finding["text"] for each in about):
            continue
        text, cure = (plain(finding[key], hub) for key in ("text", "cure"))
        text = re.sub(r"^(backoff|dialing|handshaking|listening); ", "", text)  # which of them it is, is chance
        said = [SAME if text in known else quoted(text)]
        said += [quoted(cure)] if cure and cure not in known else []
        found.append(f"{finding['check']}: {'; '.join(said)}")
    return list(dict.fromkeys(found))
