"""`status` on every kind of screen, and against a real daemon that is there, gone, and there again."""

from __future__ import annotations

import io
import json
import re
import sys
from typing import Any

import pytest
from rich.console import Console

from hubtunnel import protocol
from hubtunnel.cli.status_screen import screen, size, span
from hubtunnel.daemon.cures import CURES, TOLD, cure_of
from hubtunnel.errors import Reason
from tests.cli.hubs import Hub, Running, environment
from tests.terminal import Terminal


def peer(name: str, **over: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "up",
        "mode": "enforce",
        "carriers": [{"endpoint": "192.0.2.7:2625", "age_s": 4000.0, "rtt_ms": 12.345}],
        "session": {"id": "00", "age_s": 90000.0, "epoch": 42, "resumed": 1},
        "streams": {"open": 3, "opened": 100, "refused": 0, "reset": 0},
        "mail_bytes": {"in": 5 << 20, "out": 900},
        "link_key": {
            "ours": {"id": "aa", "end": "2027-03-04T00:00:00.000Z"},
            "theirs": {"id": "bb", "end": "2027-01-02T00:00:00.000Z"},
        },
        "last_error": None,
    } | over


def down(name: str, code: str = "refused", text: str = "192.0.2.9:2625: Connection refused") -> dict[str, Any]:
    error = {"code": code, "text": text, "at": "2026-11-22T02:11:00.000Z"}
    return peer(name, state="backoff", carriers=[], session=None, link_key=None, last_error=error)


def hub(*peers: dict[str, Any], **over: Any) -> dict[str, Any]:
    return {
        "hub": "mx.a.example",
        "fingerprint": "aaaa-bbbb",
        "card": 4,
        "uptime_s": 7300.0,
        "memory_bytes": 2 << 20,
        "memory": {"limit": 256 << 20, "peak": 3 << 20},
        "version": "0.1.0",
        "compiled": False,
        "pid": 77,
        "draining": False,
        "warnings": [],
        "strangers": {"causes": {}},
        "limits": {"streams": {"used": 3, "bound": 500, "refused": 0}, "memory": {"used": 0, "bound": 9, "refused": 0}},
        "deliver": [],
        "peers": list(peers),
    } | over


def drawn(status: dict[str, Any], width: int = 120, height: int | None = None, *, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    console.print(screen(status, width, height))
    return out.getvalue()


def test_one_line_says_how_it_is() -> None:
    text = drawn(hub(peer("mx.b.example"), down("mx.c.example")))
    assert "mx.a.example  1 of 2 peers up  running 2h  card 4  2.0 MiB of 256.0 MiB in buffers" in text
    assert re.search(
        r"mx\.b\.example +up +192\.0\.2\.7:2625 1h +12\.3 ms +3 +5\.0 MiB +900 B +1d +42 +2027-01-02", text
    )


def test_it_is_seen_what_runs() -> None:
    assert "version 0.1.0  pid 77" in drawn(hub())
    assert "version 0.1.0 (compiled)  pid 77" in drawn(hub(compiled=True))


def test_a_peer_in_trouble_stands_first_with_its_cure() -> None:
    text = drawn(hub(peer("mx.b.example"), down("mx.z.example")))
    assert text.index("mx.z.example") < text.index("mx.b.example")
    assert f"what to do: {CURES[Reason.REFUSED]}" in text


def test_an_error_that_is_over_is_history() -> None:
    error = {"code": "refused", "text": "x: Connection refused", "at": "2026-11-22T02:11:00.000Z"}
    text = drawn(hub(peer("mx.b.example", last_error=error)))
    assert "(over)" in text
    assert "what to do" not in text


def test_a_security_event_keeps_its_cure_though_the_peer_is_up() -> None:
    error = {"code": "auth", "text": "an older card", "at": "2026-11-22T02:11:00.000Z"}
    assert f"what to do: {CURES[Reason.AUTH]}" in drawn(hub(peer("mx.b.example", last_error=error)))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_no_name_is_lost(width: int) -> None:
    long = "mail-exchanger-with-a-long-name.department.organisation.example"
    text = drawn(hub(peer(long), down("mx.c.example")), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert re.search(r" up\b", text)
    assert re.search(r" backoff\b", text)
    first_column = "".join(line.split(" ")[0] for line in text.splitlines())
    assert long in first_column


@pytest.mark.parametrize("height", [24, 50])
def test_two_hundred_peers_fit_the_screen_and_trouble_is_what_is_seen(height: int) -> None:
    peers = [peer(f"mx{number:03}.example") for number in range(197)]
    text = drawn(hub(*peers, *(down(f"bad{number}.example") for number in range(3))), 120, height)
    assert len(text.splitlines()) <= height
    for number in range(3):
        assert f"bad{number}.example" in text
    hidden = re.search(r"and (\d+) more: (\d+) up, 0 not", text)
    assert hidden is not None
    assert hidden[1] == hidden[2]
    assert int(hidden[1]) + len(re.findall(r"^(?:mx|bad)\d+\.example +(?:up|backoff)", text, re.M)) == 200


def test_without_a_height_everybody_is_listed() -> None:
    text = drawn(hub(*(peer(f"mx{number:03}.example") for number in range(200))))
    assert len(re.findall(r"^mx\d+\.example", text, re.M)) == 200


def test_colour_is_for_terminals() -> None:
    status = hub(peer("mx.b.example"), down("mx.c.example"))
    assert "\x1b[" in drawn(status, terminal=True)
    assert "\x1b[" not in drawn(status)


def test_what_else_is_said_at_the_top() -> None:
    text = drawn(
        hub(draining=True, warnings=["link key ends in 7 days"], strangers={"causes": {"unknown": 2, "gate": 1}})
    )
    assert "stopping" in text
    assert "warning: link key ends in 7 days" in text
    assert "no answer given: 1 gate, 2 unknown" in text
    assert "`hubtunnel peer add CARD`" in text


def test_limits_and_mail_servers_that_fail() -> None:
    limits = {"streams": {"used": 3, "bound": 500, "refused": 0}, "memory": {"used": 9, "bound": 9, "refused": 4}}
    assert "limits:  streams 3/500\n" in drawn(hub())
    assert "limits:  streams 3/500  memory 9/9 (4 refused)\n" in drawn(hub(limits=limits))
    listener = {
        "address": "127.0.0.1:26",
        "state": "failing",
        "since": "2026-11-22T02:11:00.000Z",
        "text": "[no] greeting",
    }
    text = drawn(hub(deliver=[listener, {**listener, "address": "127.0.0.1:27", "state": "passed"}]))
    assert "mail server at 127.0.0.1:26 fails since 2026-11-22T02:11:00.000Z: [no] greeting" in text
    assert "127.0.0.1:27" not in text


def test_an_address_in_brackets_is_no_markup() -> None:
    carrier = {"endpoint": "[fe80::1]:2625", "age_s": 1.0, "rtt_ms": None}
    assert "[fe80::1]:2625" in drawn(hub(peer("mx.b.example", carriers=[carrier])))


def test_markup_in_what_a_peer_says_is_text() -> None:
    assert "[bold]x[/bold]" in drawn(hub(down("mx.b.example", "told", "limit: [bold]x[/bold]")))


def test_what_a_peer_told_is_not_over_while_it_is_up() -> None:
    error = {"code": "told", "text": "mta_unreachable: x", "at": "2026-11-22T02:11:00.000Z", "over": False}
    text = drawn(hub(peer("mx.b.example", last_error=error)), 300)
    assert f"what to do: {TOLD['mta_unreachable']}" in text
    assert "(over)" in drawn(hub(peer("mx.b.example", last_error=error | {"over": True})))


def test_who_was_left_without_an_answer_may_be_a_peer() -> None:
    causes = {"unknown_hint": 2}
    source = {"network": "192.0.2.7", "causes": causes, "last": "2026-11-22T02:11:00.000Z"}
    text = drawn(hub(strangers={"causes": causes, "sources": [source]}), 400)
    assert "no answer given: 2 unknown_hint; the last to 192.0.2.7 at 2026-11-22T02:11:00.000Z" in text
    assert "if a peer comes from 192.0.2.7: " in text
    scanner = {**source, "causes": {"bad_gate": 2}}
    assert "if a peer" not in drawn(hub(strangers={"causes": {"bad_gate": 2}, "sources": [scanner]}), 400)


def test_every_reason_has_a_cure() -> None:
    assert set(CURES) == set(Reason)
    assert cure_of("told", "limit: the peer is at its limit") == TOLD["limit"]
    assert cure_of("told", "a word of a later version: x") == CURES[Reason.TOLD]
    assert "newer cards" in cure_of("silent", "not dialled: no link key")
    assert cure_of("of a later version") == "`hubtunnel doctor` looks further"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86400 * 40, "40d")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5120.0 GiB"), (3 << 29, "1.5 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


# --- with a daemon ----------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_plain_and_json_of_a_real_daemon(anywhere: Hub) -> None:
    daemon = Running(anywhere)
    try:
        shown = anywhere.run("status")
        assert shown.status == 0
        assert "0 of 0 peers up" in shown.out
        assert "\x1b" not in shown.out
        told = json.loads(anywhere.run("status", "--json").out)
        assert told["peers"] == []
        assert told["compiled"] is protocol.compiled()
    finally:
        daemon.stop()
    assert anywhere.run("status").status == 1


@pytest.mark.e2e
def test_watch_outlives_a_restart_of_the_daemon(anywhere: Hub) -> None:
    """On a terminal of its own; Ctrl-C ends it with status 0 and gives the screen back."""
    daemon = Running(anywhere)
    command = [sys.executable, "-m", "hubtunnel", "--config", str(anywhere.config), "status", "--watch"]
    screen = {**environment(), "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    try:
        with Terminal(command, environment=screen) as watch:
            watch.reads("0 of 0 peers up")
            daemon.stop()
            watch.reads("waiting for it")
            daemon = Running(anywhere)
            watch.reads("0 of 0 peers up")
            watch.types("\x03")
            assert "Traceback" not in watch.reads("\x1b[?1049l")
            assert watch.ends() == 0
    finally:
        daemon.end()
