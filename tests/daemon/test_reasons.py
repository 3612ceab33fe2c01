"""Codes and texts of the fixed reasons, and the one line of SMTP."""

from __future__ import annotations

import errno
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.daemon import reasons
from hubtunnel.errors import Reason
from hubtunnel.protocol.constants import Code

NOW = 1_795_312_800.0  # 2026-11-22T02:00:00Z


def test_reply() -> None:
    assert reasons.reply_421("mx.b.example", "refused: x") == b"421 4.4.1 hubtunnel: mx.b.example: refused: x\r\n"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("refused: 192.0.2.1:2625: Connection refused", "refused"),
        ("told: mta_unreachable: the tunnel is up", "told: mta_unreachable"),
        ("stopped: this hub is stopping", "stopped"),
    ],
)
def test_the_log_names_a_refusal_by_its_code(line: str, code: str) -> None:
    assert reasons.code_of(line) == code


@given(st.text(max_size=600), st.text(max_size=2000))
def test_reply_is_one_line_that_every_client_can_read(peer: str, why: str) -> None:
    """No text, whoever it comes from, can end the line, continue it or leave ASCII."""
    reply = reasons.reply_421(peer, why)
    assert reply.startswith(b"421 4.4.1 hubtunnel: ")
    assert reply.endswith(b"\r\n")
    assert len(reply) <= 512
    assert all(32 <= byte < 127 for byte in reply[:-2])


@pytest.mark.parametrize(
    ("exc", "reason", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Reason.REFUSED, "Connection refused; is the daemon there"),
        (OSError(errno.EHOSTUNREACH, "x"), Reason.UNREACHABLE, "No route to host"),
        (OSError(errno.ENETUNREACH, "x"), Reason.UNREACHABLE, "Network is unreachable"),
        (ConnectionResetError(errno.ECONNRESET, "x"), Reason.UNREACHABLE, "Connection reset by peer"),
        (TimeoutError(), Reason.TIMEOUT, "no TCP connection within the time"),
        (OSError(errno.ETIMEDOUT, "x"), Reason.TIMEOUT, "no TCP connection within the time"),
    ],
)
def test_no_connection(exc: OSError, reason: Reason, text: str) -> None:
    failure = reasons.from_connect("mx.b.example:2625", "192.0.2.1", exc, NOW)
    assert failure.reason is reason
    assert failure.text.startswith("mx.b.example:2625 (192.0.2.1): ")
    assert text in failure.text
    assert failure.line == f"{reason.value}: {failure.text}"


def test_address_is_named_once() -> None:
    failure = reasons.from_connect("192.0.2.1:2625", "192.0.2.1", TimeoutError(), NOW)
    assert failure.text.count("192.0.2.1") == 1


def test_dns() -> None:
    failure = reasons.from_dns("mx.b.example:2625", socket.gaierror(socket.EAI_AGAIN, "try again"), NOW)
    assert failure.line == "dns: mx.b.example:2625: name does not resolve: try again"


def test_silence_names_its_four_causes() -> None:
    """And fits whole into a reply, with the longest names there are."""
    host = ".".join(["a" * 50] * 2)
    failure = reasons.silent(f"{host}:65535", "mx.b.example", 7, True, NOW)
    assert failure.reason is Reason.SILENT
    for cause in ("hold our card 7", "hubtunnel peer show", "2026-11-22T02:00:00Z", "PSK", "no hub"):
        assert cause in failure.text
    reply = reasons.reply_421("mx.b.example", failure.line)
    assert b"no hub" in reply


@pytest.mark.parametrize("code", list(Code))
def test_everything_that_can_be_told_has_its_word(code: Code) -> None:
    failure = reasons.told(code, "", NOW)
    assert failure.reason is Reason.TOLD
    assert failure.text.startswith(f"{code.word}: ")


def test_what_a_newer_version_tells_has_a_number() -> None:
    assert reasons.told(999, "", NOW).text.startswith("code_999: ")


def test_never() -> None:
    assert "has not dialled since this daemon started 2026-11-22T02:00:00" in reasons.never(None, NOW, NOW + 9).text
    assert "was last connected 2026-11-22T02:00:00" in reasons.never(NOW, NOW - 99, NOW + 9).text
