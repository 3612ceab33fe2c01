"""The real daemon, set up by its command line, with the second implementation as its peer in either role."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hubtunnel.demo.ports import Ports
from tests.e2e.hubs import ROOT
from tests.e2e.hubs import Hub as RealHub
from tests.e2e.processes import wait_until
from tests.second import card as cards
from tests.second import tcp
from tests.second.hub import Hub, Wire
from tests.second.session import Session
from tests.second.streams import DONE

PRESENTED = "192.0.2.25"
"""What the MTA is told as our address: the carrier's own, on loopback, is none that an MTA may be told."""


class Daemon(RealHub):
    """A hub with the second implementation as its only peer, which it dials when `dials`, and else waits for.

    It is set up once and can run many times; each run is a new boot for both.
    """

    def __init__(self, directory: Path, second: Hub, ports: Ports, *, dials: bool) -> None:
        self.second = second
        self.mta_port, self.second_port, self.port, self.submit_port = (ports.reserve() for _ in range(4))
        self.ends: list[tcp.End] = []
        """Every TCP connection at the daemon's other side, ours to move and to close."""
        self.running_with: str | None = None
        """The lines of `[session]`, while it runs."""
        listen, deliver = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.mta_port}"
        super().__init__("real.example", directory, listen=listen, deliver=deliver, namespace=None)
        # The MTA of these tests says what they tell it, and nothing to a probe.
        self._made_config = self.config.read_text().replace("[deliver]\n", "[deliver]\nprobe = false\n")
        self._pin(f"127.0.0.1:{self.second_port}" if dials else None)
        self.card = second.peer = cards.from_text(self._command("card"))

    def run(self, session: str) -> None:
        """Start, with these lines in the section `[session]` of the configuration; both begin with a new boot."""
        self.config.write_text(self._made_config.replace("[session]\n", f"[session]\n{session}\n"))
        (self.directory / "run.log").unlink(missing_ok=True)
        self.second.start_process()
        self.running_with = session
        self.start()
        self.wait_until_started()

    def open_listeners(self) -> None:
        """The MTA's, and the one at which the second implementation is dialled."""
        self.mta, self.second_listens = tcp.listener(self.mta_port), tcp.listener(self.second_port)

    def close_sockets(self) -> None:
        for carrier in self.second.carriers:
            carrier.close()
        for end in self.ends:
            end.close()
        self.ends.clear()
        self.mta.close()
        self.second_listens.close()

    def ended(self) -> int:
        """The exit status of a daemon that ends by itself, or by a signal that was sent before."""
        assert self._child is not None
        child = self._child
        wait_until(lambda: not child.running, "the end of the daemon", detail=lambda: child.log)
        return self.end()

    def end(self) -> int:
        """Stop; the exit status of the daemon."""
        self.running_with = None
        return self.stop()

    def _pin(self, endpoint: str | None) -> None:
        """`peer add`, with the card that the second implementation has signed."""
        card = self.directory / "second.card"
        card.write_text(cards.to_text(self.second.card))
        arguments = [str(card), "--listen", f"127.0.0.1:{self.submit_port}", "--fingerprint", self.second.fingerprint]
        if endpoint is not None:
            arguments += ["--endpoint", endpoint]
        self._command("peer", "add", *arguments)
        peer_file = self.directory / "peers.d" / f"{self.second.name}.toml"
        peer_file.write_text(peer_file.read_text() + f'\npresent_as = "{PRESENTED}"\n')

    @contextmanager
    def psk(self, psk: bytes) -> Iterator[None]:
        """A pre-shared key of the peer, for runs that begin inside."""
        peer_file = self.directory / "peers.d" / f"{self.second.name}.toml"
        before = peer_file.read_text()
        key_file = self.directory / "psk"
        key_file.touch(mode=0o600)
        key_file.write_text(psk.hex() + "\n")
        peer_file.write_text(f'{before}psk_file = "{key_file}"\n')
        try:
            yield
        finally:
            peer_file.write_text(before)

    def begin_command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """One that the daemon may need its peer for: the test must go on while it runs."""
        log = (self.directory / "command.log").open("wb")
        with log:
            return subprocess.Popen(self._argv(*arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)


class Link:
    """What joins the second implementation and a running daemon, in one role; both roles look alike from here."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.second = daemon.second
        self.wires: list[Wire] = []

    def connect(self, resume: Session | None = None) -> Wire:
        """The next carrier, its handshake not yet done; `resume` says what the initiator wants with it."""
        wire = self._connect(resume)
        wire.poll_others = self._poll
        self.wires.append(wire)
        return wire

    def _connect(self, resume: Session | None) -> Wire:
        raise NotImplementedError

    def resume(self, session: Session) -> Wire:
        """The next carrier of a session that was cut, on which it has been resumed."""
        wire = self.connect(session)
        wire.until(lambda: wire.carrier.up, "RESUMED")
        assert wire.session is session
        return wire

    def _poll(self) -> None:
        for end in self.daemon.ends:
            end.poll()

    def wait(self, fact: Callable[[], object], what: str) -> None:
        """For a fact about the daemon's other side alone."""

        def look() -> object:
            self._poll()
            return fact()

        wait_until(look, what)

    def client(self) -> tcp.End:
        """One that hands mail for us to the daemon, as its MTA would."""
        client = tcp.End.to(self.daemon.submit_port)
        self.daemon.ends.append(client)
        return client

    def close_sessions(self) -> None:
        """Leave the daemon as it was before: each session that still has its carrier ends in order."""
        for wire in self.wires:
            if wire.carrier.up and not wire.ended and not wire.carrier.closed and wire.session.close_sent is None:
                wire.session.close(DONE)
                wire.until_ended()

    def delivered(self, wire: Wire) -> tcp.Delivered:
        """The connection that the daemon makes to its MTA, once its PROXY header is there."""
        found: list[tcp.Delivered] = []

        def accept() -> bool:
            if not found and (connection := tcp.accepted(self.daemon.mta)) is not None:
                found.append(tcp.Delivered(connection))
                self.daemon.ends.append(found[0])
            return bool(found) and found[0].introduced()

        wire.until(accept, "a connection to the MTA with its PROXY header")
        return found[0]


class WeDial(Link):
    """The second implementation is the initiator."""

    def _connect(self, resume: Session | None) -> Wire:
        connection = socket.create_connection(("127.0.0.1", self.daemon.port), timeout=5)
        return Wire(self.second.dial(resume), connection)


class DaemonDials(Link):
    """The daemon is the initiator, and resumes what it has."""

    def _connect(self, resume: Session | None) -> Wire:
        self.daemon.second_listens.setblocking(True)
        self.daemon.second_listens.settimeout(35)
        try:
            connection, _ = self.daemon.second_listens.accept()
        finally:
            self.daemon.second_listens.setblocking(False)
        return Wire(self.second.accept(), connection)

    def resume(self, session: Session) -> Wire:
        """As above, behind what the daemon may have dialled before the cut.

        After a change of keys it moves the session to another carrier by itself, at a moment that chance decides; when
        the carrier that it has is cut meanwhile it gives that dial up, and dials to resume.
        """
        given_up = self.connect(session)
        with contextlib.suppress(ConnectionError):
            given_up.until(lambda: given_up.carrier.up or given_up.ended, "RESUMED, or an end")
        if given_up.carrier.up:
            assert given_up.session is session
            return given_up
        given_up.cut()
        return super().resume(session)
