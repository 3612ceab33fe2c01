"""What the demo plays on: two hubs with a mail server and users each, and a tap between them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hubtunnel.demo.hubs import Hub
from hubtunnel.demo.letters import Letter, new_marker, write_letter
from hubtunnel.demo.ports import Ports
from hubtunnel.demo.post import Posted, PostOffice
from hubtunnel.demo.show import Advance
from hubtunnel.demo.sink import Sink, Verdict
from hubtunnel.demo.tap import Tap
from hubtunnel.errors import UsageError

NEAR, FAR = "mx.near.example", "mx.far.example"
CLIENTS = 12  # SMTP sessions at once, each way
SESSION_MAX = 5  # letters over one SMTP connection, while they are small
SMALL = 20_000
FOLDER_MAX = 80  # bytes; the path of a Unix socket has at most 107 (unix(7))


@dataclass
class Side:
    """One end: a hub, the mail server behind it, the clients before it, and all that these sent to the other end."""

    hub: Hub
    sink: Sink
    office: PostOffice
    peer_domain: str
    sent: list[Letter] = field(default_factory=list)
    posted: Posted = field(default_factory=Posted)


@dataclass
class Stage:
    """Both ends and the tap. `near` dials `far` through it; `far` only listens."""

    folder: Path
    near: Side
    far: Side
    tap: Tap
    marker: bytes
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def write(self, sizes: Iterable[int], sender: str, recipient_domain: str) -> list[Letter]:
        """New letters of these sizes, each with a recipient of its own."""
        return [write_letter(next(self.numbers), sender, recipient_domain, size, self.marker) for size in sizes]

    async def send(self, side: Side, sizes: Iterable[int], advance: Advance = lambda size: None) -> Posted:
        """Send letters of these sizes through the tunnel from the clients of `side`; errors are in the result."""
        letters = await asyncio.to_thread(self.write, sizes, side.hub.domain, side.peer_domain)
        side.sent += letters
        posted = await side.office.send(
            side.hub.submit, in_sessions(letters), helo=side.hub.name, sent=lambda letter: advance(letter.size)
        )
        side.posted.add(posted)
        return posted

    def verdict(self) -> Verdict:
        """Everything sent through the tunnel, compared with what both sinks hold."""
        verdict = self.far.sink.compare(self.near.sent)
        verdict.add(self.near.sink.compare(self.far.sent))
        return verdict

    def bytes_sent(self) -> int:
        """The sum of all letters sent through the tunnel."""
        return sum(letter.size for side in (self.near, self.far) for letter in side.sent)


def in_sessions(letters: Sequence[Letter]) -> list[list[Letter]]:
    """Large letters alone, every other handful of small ones together: one message a connection, and many."""
    sessions = [[letter] for letter in letters if letter.size > SMALL]
    small = [letter for letter in letters if letter.size <= SMALL]
    for start in range(0, len(small), 2 * SESSION_MAX):
        sessions.append(small[start : start + SESSION_MAX])
        sessions += [[letter] for letter in small[start + SESSION_MAX : start + 2 * SESSION_MAX]]
    return [session for session in sessions if session]


@asynccontextmanager
async def set_up() -> AsyncIterator[Stage]:
    """Build the stage in a temporary folder. When the context ends, daemons, connections, keys and folder are gone.

    The daemons are not started yet.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtunnel-demo-")))
        if len(os.fsencode(folder)) > FOLDER_MAX:
            raise UsageError(f"{folder}: too long for the sockets in it; set TMPDIR to a folder with a shorter name")
        for name in ("control", "carriers", "mail"):
            (folder / name).mkdir()
        ports = stack.enter_context(Ports())

        async def side(name: str, peer: str) -> Side:
            sink = await stack.enter_async_context(Sink(name, proxy=True))
            place = folder / name.split(".")[1]
            hub = Hub(name, place, listen=ports.reserve(), submit=ports.reserve(), deliver=sink.port)
            stack.push_async_callback(hub.stop)
            return Side(hub, sink, stack.enter_context(PostOffice(CLIENTS)), peer.split(".", 1)[1])

        near, far = await side(NEAR, FAR), await side(FAR, NEAR)
        tap = Tap(("127.0.0.1", far.hub.listen), folder / "carriers", port=ports.reserve())
        yield Stage(folder, near, far, await stack.enter_async_context(tap), new_marker())
