"""Three thousand messages, twenty at a time, a connection each, by the load tools that Postfix brings along."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Join
from tests.e2e.lab import TUNNEL, Laboratory
from tests.e2e.processes import run

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

MESSAGES = 3000
AT_ONCE = 20
LENGTH = 10_240
SINK = ("127.0.0.1", 27)

_RECIPIENT = re.compile(rb"^X-Rcpt-Args: <(.*?)>", re.MULTILINE)


@contextmanager
def message_sink(lab: Laboratory) -> Iterator[Path]:
    """`smtp-sink` at B, which writes every message into a file of its own in the folder given."""
    folder = lab.directory / "sink"
    folder.mkdir()
    folder.chmod(0o777)
    command = ["smtp-sink", "-u", "nobody", "-d", f"{folder}/m.", f"{SINK[0]}:{SINK[1]}", "1000"]
    sink = lab.b.namespace.start("smtp-sink", command, lab.directory / "sink.log")
    try:
        sink.wait_for(lambda: lab.b.namespace.listens(*SINK), f"smtp-sink to listen on {SINK}")
        yield folder
    finally:
        sink.stop()


def test_no_message_is_lost_or_altered(lab_without_mta: Laboratory, join_on_both_loops: Join) -> None:
    """Each of the numbered recipients exactly once, and one and the same content in all messages."""
    lab = lab_without_mta
    with message_sink(lab) as folder:
        with join_on_both_loops(lab, deliver=SINK, proxy=False):
            sender = ["-s", str(AT_ONCE), "-m", str(MESSAGES), "-l", str(LENGTH), "-N"]
            addresses = ["-f", "load@a.example", "-t", "rcpt@b.example", f"{TUNNEL[0]}:{TUNNEL[1]}"]
            run(*lab.a.namespace.argv(["smtp-source", *sender, *addresses]), deadline=50)
        messages = [path.read_bytes() for path in folder.iterdir()]

    recipients = Counter(name.decode() for message in messages for name in _RECIPIENT.findall(message))
    assert recipients == Counter(f"{number}rcpt@b.example" for number in range(1, MESSAGES + 1))
    bodies = Counter(message.partition(b"\n\n")[2] for message in messages)
    assert len(bodies) == 1, f"{len(bodies)} different contents"
    (body,) = bodies
    assert len(body) >= LENGTH * 0.9
