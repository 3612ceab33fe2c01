"""The bench itself: two daemons in two namespaces, the line between them, and a mail server behind each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubtunnel.daemon.control import request
from hubtunnel.errors import HubtunnelError
from tests.e2e.forward import Address
from tests.e2e.hubs import Hub
from tests.e2e.namespaces import Namespace
from tests.faults.line import Line, Quality, joined
from tests.faults.mail import Account, NamespacedSink, Sender, Task, finished

HANDOVER: Address = ("127.0.1.2", 24)
INBOUND: Address = ("127.0.0.1", 26)
CARRIER_PORT = 2625
NAMES = ("mx.a.example", "mx.b.example")
UP_WITHIN = 60.0
_POLL = 0.02


@dataclass
class Side:
    """A hub, where it lives, and the mail server behind it."""

    hub: Hub
    namespace: Namespace
    sink: NamespacedSink

    async def glance(self) -> dict[str, Any]:
        """The status of the one peer, asked of the daemon itself."""
        answer = await asyncio.to_thread(request, self.hub.directory / "control.sock", "status")
        peer: dict[str, Any] = answer["status"]["peers"][0]
        return peer

    def stop_for(self, seconds: float) -> asyncio.TimerHandle:
        """SIGSTOP now, SIGCONT after so many seconds."""
        os.kill(self.hub.pid, signal.SIGSTOP)
        return asyncio.get_running_loop().call_later(seconds, os.kill, self.hub.pid, signal.SIGCONT)


@dataclass
class Bench:
    """Everything of one run."""

    a: Side
    b: Side
    line: Line
    folder: Path

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both."""
        return self.a, self.b

    def senders(self, a_to_b: list[Task], b_to_a: list[Task], *, retry: bool = False) -> tuple[Sender, Sender]:
        """One for each direction."""
        (near, far) = self.sides
        return (
            Sender(near.namespace, HANDOVER, near.hub.name, far.hub.name, a_to_b, retry),
            Sender(far.namespace, HANDOVER, far.hub.name, near.hub.name, b_to_a, retry),
        )

    async def until_one(self) -> str:
        """Both hubs are up and on one session: whatever crossed is settled. Its name."""
        end = time.monotonic() + UP_WITHIN
        while True:
            with contextlib.suppress(HubtunnelError):
                glances = [await side.glance() for side in self.sides]
                sessions = {str(glance["session"]["id"]) for glance in glances if glance["session"]}
                up = all(glance["state"] == "up" and len(glance["carriers"]) == 1 for glance in glances)
                if up and len(sessions) == 1:
                    return sessions.pop()
            if time.monotonic() > end:
                raise AssertionError(f"not on one session\n{self.log_ends()}")
            await asyncio.sleep(_POLL)

    def begin(self, quality: Quality) -> None:
        """Before another run on the same bench: an empty sink, and this line."""
        self.line.set(quality)
        self.line.kills = 0
        for side in self.sides:
            side.sink.arrived.clear()
            side.sink.answered.clear()
            side.sink.harmed.clear()

    def account(self, senders: tuple[Sender, Sender]) -> Account:
        """What became of their letters."""
        account = Account()
        account.add(senders[0], self.b.sink)
        account.add(senders[1], self.a.sink)
        return account

    async def until(self, fact: Callable[[], bool], what: str, seconds: float = UP_WITHIN) -> None:
        """Wait for something that is expected."""
        end = time.monotonic() + seconds
        while not fact():
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{self.log_ends()}")
            await asyncio.sleep(_POLL)

    async def until_up(self) -> None:
        """Both hubs can open streams."""
        end = time.monotonic() + UP_WITHIN
        for side in self.sides:
            while True:
                with contextlib.suppress(HubtunnelError):
                    if (await side.glance())["state"] == "up":
                        break
                if time.monotonic() > end:
                    raise AssertionError(f"{side.hub.name} is not up\n{self.log_ends()}")
                await asyncio.sleep(_POLL)

    def log_ends(self) -> str:
        """For a failure's text."""
        return "\n".join(
            line for side in self.sides for line in [f"--- {side.hub.name}", *side.hub.log.splitlines()[-30:]]
        )


@contextlib.asynccontextmanager
async def bench(
    quality: Quality | None = None,
    *,
    seed: int = 1,
    loop_name: str = "uvloop",
    programs: tuple[type[Hub], type[Hub]] = (Hub, Hub),
    dials: tuple[bool, bool] = (True, True),
    **session: str,
) -> AsyncIterator[Bench]:
    """Two hubs that are up. `session` goes into [session] of both configurations; who `dials` has an endpoint."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtunnel-faults-")))
        near, far, line = stack.enter_context(joined(quality, seed=seed))
        hubs = await asyncio.gather(
            *(
                asyncio.to_thread(_made, program, name, folder, namespace, session)
                for name, namespace, program in zip(NAMES, (near, far), programs, strict=True)
            )
        )
        sides = [
            Side(hub, namespace, await stack.enter_async_context(NamespacedSink(hub.name, namespace, INBOUND)))
            for hub, namespace in zip(hubs, (near, far), strict=True)
        ]
        made = Bench(sides[0], sides[1], line, folder)
        await asyncio.gather(
            *(
                asyncio.to_thread(_introduce, own, other, knows)
                for own, other, knows in ((made.a, made.b, dials[0]), (made.b, made.a, dials[1]))
            )
        )
        try:
            for side in reversed(sides):
                await asyncio.to_thread(side.hub.start, loop=loop_name)
            await made.until_one()
            yield made
        finally:
            for side in sides:
                await asyncio.to_thread(_end, side.hub)


def _made(program: type[Hub], name: str, folder: Path, namespace: Namespace, session: dict[str, str]) -> Hub:
    listen = f"{namespace.address}:{CARRIER_PORT}"
    hub = program(name, folder / name, listen=listen, deliver=_text(INBOUND), namespace=namespace)
    configure(hub, **session)
    return hub


def _introduce(own: Side, other: Side, knows: bool) -> None:
    endpoint = f"{other.namespace.address}:{CARRIER_PORT}" if knows else None
    own.hub.introduce(other.hub, listen=_text(HANDOVER), endpoint=endpoint)


def _end(hub: Hub) -> None:
    with contextlib.suppress(ProcessLookupError, AssertionError):
        os.kill(hub.pid, signal.SIGCONT)
    hub.stop()


def configure(hub: Hub, **session: str) -> None:
    """Settings of [session], as an administrator's editor would put them there."""
    heading = "[session]\n"
    text = hub.config.read_text()
    assert heading in text, f"{hub.config} has no section [session]"
    lines = "".join(f'{key} = "{value}"\n' for key, value in session.items())
    hub.config.write_text(text.replace(heading, heading + lines, 1))


async def run_mail(senders: tuple[Sender, ...], *beside: asyncio.Task[None]) -> float:
    """The senders' timetables to their end, whatever runs beside them; seconds that it took."""
    began = time.monotonic()
    await finished(*(asyncio.create_task(sender.run()) for sender in senders), *beside)
    return time.monotonic() - began


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def security_events(directory: Path) -> list[str]:
    """Lines of a hub's logs that tell of an attack: there was none."""
    return [
        line
        for log in sorted(directory.glob("run-*.log"))
        for line in log.read_text(errors="replace").splitlines()
        if " critical " in line or "code=auth" in line
    ]
