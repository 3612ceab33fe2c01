"""The world that the explorer searches: two hubs and a second copy of one, every wire between them, and a clock.

Everything in a `World` can be pickled; an action is a tuple of texts and numbers. All that is random is a function of
who draws it and for the how-manieth time, so that the same actions always give the same world.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hubtunnel.protocol import constants as c
from hubtunnel.protocol import events as ev
from hubtunnel.protocol.bytestream import Budget
from hubtunnel.protocol.carrier import Carrier
from hubtunnel.protocol.constants import Code
from hubtunnel.protocol.handshake import Established
from hubtunnel.protocol.link import Link, Settings
from hubtunnel.protocol.pair import LinkPublic, LinkSecret
from hubtunnel.protocol.session import Phase, Session
from hubtunnel.protocol.streams import Stream
from tests.protocol.standins import Coins, digest

Action = tuple[str | int, ...]

SETTINGS = Settings(version="x", ratchet_interval_min=0.0, ratchet_interval_refused=0.0)
IDFP = {"A": b"\xaa" * 32, "B": b"\xbb" * 32}


class Violation(AssertionError):
    """An invariant does not hold."""


def keys_of(identity: str) -> LinkSecret:
    """The link key of A or of B."""
    name = identity.encode()
    return LinkSecret(b"link key", digest(b"x", name), digest(b"m", name) * 2, 0.0, 4e9)


def public_of(secret: LinkSecret) -> LinkPublic:
    """Its public half."""
    public = secret.public
    return LinkPublic(secret.id, public[:32], public[32:], 0.0, 4e9)


@dataclass(eq=False)
class Sent:
    """A stream that a hub opened: a letter's bytes, the first of which names it."""

    name: int
    data: bytearray
    stream: Stream
    over: bool = False  # reset, or its session ended
    ended: bool = False  # this end says nothing more


@dataclass(eq=False)
class Received:
    """The other end of it."""

    boot: int
    stream: Stream
    data: bytearray = field(default_factory=bytearray)
    over: bool = False
    ended: bool = False


@dataclass(eq=False)
class Node:
    """A process of a hub: A, B, or X, which is another process with A's key."""

    name: str
    identity: str
    boots: int = 0
    draws: int = 0
    dials: int = 0
    link: Link = field(init=False)
    sent: list[Sent] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    jobs: list[tuple[ev.Job, object]] = field(default_factory=list)  # with the result that is still to be given
    tokens: set[bytes] = field(default_factory=set)

    @property
    def peer(self) -> str:
        """The identity at the other end."""
        return "A" if self.identity == "B" else "B"

    def draw(self, n: int) -> bytes:
        """`n` bytes that nobody else draws."""
        self.draws += 1
        out = digest(self.name.encode(), bytes((self.boots,)), self.draws.to_bytes(4, "big"))[:n]
        if n == 8:
            self.tokens.add(out)
        return out

    def seed(self, _secret: LinkSecret) -> bytes:
        """96 bytes for ephemerals."""
        one = self.draw(32)
        return one + digest(b"1", one) + digest(b"2", one)

    def boot(self) -> None:
        """A new process."""
        self.boots += 1
        self.sent, self.received, self.jobs = [], [], []
        self.link = Link(
            own_idfp=IDFP[self.identity],
            peer_idfp=IDFP[self.peer],
            boot=digest(b"boot", self.name.encode(), bytes((self.boots,)))[: c.BOOT_LEN],
            settings=SETTINGS,
            budget=Budget(1 << 30),
            seed=self.seed,
            random=self.draw,
        )


@dataclass(eq=False)
class Cable:
    """One TCP connection: the carriers at its ends, and the records on their way."""

    name: tuple[str, int, int]  # who dialled it, which process, which dial
    ends: dict[str, Carrier]
    to: dict[str, list[bytes]]

    def other(self, node: str) -> str:
        """The node at the other end."""
        return next(name for name in self.to if name != node)


def records_of(stream: bytes) -> list[bytes]:
    """Bytes that a carrier wrote, record by record."""
    found, at = [], 0
    while at < len(stream):
        length = c.RECORD_HEADER_LEN + int.from_bytes(stream[at + 1 : at + 3], "big")
        found.append(stream[at : at + length])
        at += length
    return found


class World:
    """Hubs, cables, a clock, and what may still be done."""

    def __init__(self, allowed: dict[str, int]) -> None:
        self.now = 1000.0
        self.coins = Coins()
        self.sealed: set[tuple[bytes, bytes]] = set()
        self.left = dict(allowed)
        self.nodes = {"A": Node("A", "A"), "B": Node("B", "B")}
        if allowed.get("impostor"):
            self.nodes["X"] = Node("X", "A")
        self.cables: list[Cable] = []
        self.alarms: list[str] = []
        for node in self.nodes.values():
            node.boot()

    # --- instruments ------------------------------------------------------------------------------------------

    def note_sealed(self, key: bytes, nonce: bytes) -> None:
        """No key and nonce twice."""
        if (key, nonce) in self.sealed:
            raise Violation("a key and nonce were used twice")
        self.sealed.add((key, nonce))

    # --- the shell --------------------------------------------------------------------------------------------

    def pump(self, node: Node, *, jobs: bool = False) -> None:
        """Events, jobs (their results wait, unless `jobs`), flush, as a shell does after every call."""
        link = node.link
        while True:
            while (event := link.next_event()) is not None:
                self._event(node, event)
            moved = False
            while (job := link.next_job()) is not None:
                result = job.run()
                job._work = lost  # its closure is done with, and cannot be pickled
                node.jobs.append((job, result))
            while jobs and node.jobs:
                link.job_done(*node.jobs.pop(0), self.now)
                moved = True
            for cable in self.cables:
                moved |= self._flush(node, cable)
            if not moved:
                return

    def _flush(self, node: Node, cable: Cable) -> bool:
        carrier = cable.ends.get(node.name)
        moved = False
        while carrier is not None and (out := bytes(node.link.data_to_send(carrier, self.now))):
            moved = True
            other = cable.other(node.name)
            if other in cable.ends:
                cable.to[other] += records_of(out)
        return moved

    def _event(self, node: Node, event: ev.Event) -> None:
        if isinstance(event, ev.Notice) and event.code == "protocol_error":
            raise Violation(f"{node.name} found fault with an honest peer: {event.text}")
        if isinstance(event, ev.CarrierClosing):
            if event.code in ("bad_record", "bad_ratchet", "bad_proof"):
                raise Violation(f"{node.name} dropped the carrier of an honest peer: {event.text}")
            for cable in self.cables:
                if cable.ends.get(node.name) is event.carrier:
                    self._flush(node, cable)
                    self.hang_up(node, cable)
        elif isinstance(event, ev.StreamOpened):
            event.stream.app = Received(node.boots, event.stream)
            node.received.append(event.stream.app)
        elif isinstance(event, ev.StreamData):
            if isinstance(event.stream.app, Received):
                event.stream.app.data += event.data
            event.stream.consumed(len(event.data))
        elif isinstance(event, ev.StreamReset):
            if isinstance(event.stream.app, (Sent, Received)):
                event.stream.app.over = True
        elif isinstance(event, ev.Alarm):
            self.alarms.append(event.code)

    def hang_up(self, node: Node, cable: Cable) -> None:
        """This end closes its socket: what was on its way to it is lost, what it wrote may still arrive."""
        carrier = cable.ends.pop(node.name, None)
        cable.to[node.name].clear()
        if carrier is not None:
            node.link.detach(carrier, "closed", self.now)

    # --- actions ----------------------------------------------------------------------------------------------

    def actions(self) -> list[Action]:
        """Everything that can happen now."""
        found: list[Action] = []
        for name, node in self.nodes.items():
            found += [action for action in self._local(name, node) if self.left.get(kind_of(action), 0) > 0]
            if node.jobs:
                found.append(("job", name))
        for number, cable in enumerate(self.cables):
            for name in cable.ends:
                if cable.to[name] or cable.other(name) not in cable.ends:
                    found.append(("all", number, name))
                if len(cable.to[name]) > 1:
                    found.append(("one", number, name))
            if self.left.get("cut", 0) > 0 and cable.ends:
                found.append(("cut", number))
                if len(cable.ends) == 2:
                    found += [("lose", number, name) for name in cable.ends]
        if self.left.get("tick", 0) > 0 and self.next_deadline() is not None:
            found.append(("tick",))
        return found

    def _local(self, name: str, node: Node) -> list[Action]:
        found: list[Action] = []
        if name == "X":
            if not node.link.carriers:
                found.append(("impostor", name))
            return found
        found.append(("dial", name) if node.link.wants_carrier(self.now) else ("again", name))
        if node.link.ready or any(not one.over for one in node.sent):
            found.append(("write", name))
        if any(s.initiator and s.phase is Phase.UP for s in node.link.sessions):
            found.append(("rekey", name))
        if node.link.sessions:
            found += [("close", name), ("drain", name), ("restart", name)]
        return found

    def apply(self, action: Action) -> None:
        """Do one of `actions`, and check what must always hold."""
        kind, *rest = action
        self.left[kind_of(action)] = self.left.get(kind_of(action), 0) - 1
        if kind in ("dial", "again", "impostor"):
            self.dial(self.nodes[str(rest[0])])
        elif kind in ("all", "one"):
            self.deliver(self.cables[int(rest[0])], str(rest[1]), one=kind == "one")
        elif kind in ("cut", "lose"):
            cable = self.cables[int(rest[0])]
            for name in list(cable.ends) if kind == "cut" else [str(rest[1])]:
                self.hang_up(self.nodes[name], cable)
        elif kind == "job":
            node = self.nodes[str(rest[0])]
            node.link.job_done(*node.jobs.pop(0), self.now)
        elif kind == "tick":
            self.tick()
        elif kind == "finish":
            self.finish()
        else:
            getattr(self, f"_{kind}")(self.nodes[str(rest[0])])
        for node in self.nodes.values():
            self.pump(node)
        self.cables = [cable if cable.ends else _gone(cable) for cable in self.cables]
        self.check()

    def dial(self, node: Node) -> None:
        """A handshake that succeeds, at once: what it gives is drawn for this dial alone."""
        other = self.nodes["B" if node.identity == "A" else "A"]
        node.dials += 1
        name = (node.name, node.boots, node.dials)
        context = repr(name).encode()
        root, th, t_i, t_r = (digest(what, context) for what in (b"root", b"th", b"t_i", b"t_r"))
        both = {"d": digest(b"D", context) * 2, "sid": digest(b"sid", context)[:16], "root": root, "th": th}
        mine, theirs = keys_of(node.identity), keys_of(other.identity)
        cable = Cable(name, {}, {node.name: [], other.name: []})
        self.cables.append(cable)
        # Both ends are there before either speaks: what the first one writes is on its way, not lost.
        ours = Established(True, "peer", mine, public_of(theirs), **both, t_send=t_i, t_receive=t_r)
        others = Established(False, "peer", theirs, public_of(mine), **both, t_send=t_r, t_receive=t_i)
        cable.ends[other.name] = other.link.attach(others, self.now)
        cable.ends[node.name] = node.link.attach(ours, self.now)

    def deliver(self, cable: Cable, name: str, *, one: bool = False) -> None:
        """Records that are on their way to a node: all of them, or the first; at the end of them, the end of TCP."""
        node, queue = self.nodes[name], cable.to[name]
        if not queue:
            self.hang_up(node, cable)
            return
        data = b"".join(queue[: 1 if one else None])
        del queue[: 1 if one else None]
        node.link.receive_data(cable.ends[name], data, self.now)

    def next_deadline(self) -> float | None:
        """The first of all deadlines."""
        return min((at for n in self.nodes.values() if (at := n.link.next_deadline()) is not None), default=None)

    def tick(self) -> None:
        """Time passes until something is due, and it is dealt with."""
        at = self.next_deadline()
        if at is None:
            return
        self.now = max(self.now, at)
        for node in self.nodes.values():
            due = node.link.next_deadline()
            if due is not None and due <= self.now:
                node.link.handle_deadline(self.now)
                left = node.link.next_deadline()
                if left is not None and left <= self.now:
                    raise Violation("a deadline that was handled is still due")

    @property
    def unfinished(self) -> list[Sent | Received]:
        """Ends of streams that could still say something."""
        return [
            one for node in self.nodes.values() for one in (*node.sent, *node.received) if not (one.over or one.ended)
        ]

    def finish(self) -> None:
        """Every conversation comes to its end, so that a session that was superseded can close."""
        for one in self.unfinished:
            one.ended = True
            one.stream.end()

    def _write(self, node: Node) -> None:
        sent = next((one for one in node.sent if not one.over), None)
        if sent is None:
            name = 16 * len(node.sent) + (1 if node.name == "A" else 2)
            stream = node.link.open_stream(None, self.now)
            sent = Sent(name, bytearray((name,)), stream)
            stream.app = sent
            node.sent.append(sent)
            stream.write(bytes((name,)))
        more = bytes((len(sent.data),))
        sent.data += more
        sent.stream.write(more)

    def _rekey(self, node: Node) -> None:
        node.link.rekey(self.now)
        node.link.handle_deadline(self.now)

    def _close(self, node: Node) -> None:
        node.link.close(Code.DONE, self.now)

    def _drain(self, node: Node) -> None:
        node.link.drain(Code.DRAINED, self.now)

    def _restart(self, node: Node) -> None:
        for cable in self.cables:
            if cable.ends.pop(node.name, None) is not None:
                cable.to[node.name].clear()
        node.boot()

    # --- what must always hold --------------------------------------------------------------------------------

    def check(self) -> None:
        """Invariants of every state."""
        if "X" not in self.nodes and self.alarms:
            raise Violation(f"an alarm without an impostor: {self.alarms}")
        for node in self.nodes.values():
            self._check_bounds(node)
            self._check_bytes(node)
        for node in self.nodes.values():
            for session in node.link.sessions:
                if session.initiator:
                    self._check_roots(node, session)

    def _check_bounds(self, node: Node) -> None:
        sessions = [s for s in node.link.sessions if not s.ended]
        closing = sum(s.phase is Phase.CLOSING for s in sessions)
        if closing > c.SESSIONS_PER_LINK or len(sessions) - closing > c.SESSIONS_PER_LINK:
            raise Violation(f"{node.name} has {len(sessions)} sessions, {closing} of them closing")
        for session in sessions:
            if len(session.roots) > (1 if session.initiator else 2):
                raise Violation(f"{node.name} holds {len(session.roots)} roots of one session")
            if session.carrier is not None and session.carrier.session is not session:
                raise Violation("a carrier that is another session's")
        if node.link._env.budget.used < 0:
            raise Violation("more memory was given back than was taken")

    def _check_bytes(self, node: Node) -> None:
        letters = {
            one.name: bytes(one.data) for other in self.nodes.values() if other is not node for one in other.sent
        }
        names = []
        for received in node.received:
            if not received.data:
                continue
            whole = letters.get(received.data[0])
            if whole is None:
                continue  # of a process that has gone
            if not whole.startswith(bytes(received.data)):
                raise Violation(f"{node.name} received {received.data.hex()} of {whole.hex()}")
            names.append(received.data[0])
        if len(names) != len(set(names)):
            raise Violation(f"{node.name} received a letter twice")

    def _check_roots(self, node: Node, session: Session) -> None:
        """The responder always holds the one root that the initiator holds: else the session could not be resumed."""
        for other in self.nodes.values():
            if other.identity == node.identity:
                continue
            for theirs in other.link.sessions:
                if theirs.sid != session.sid or theirs.initiator or not session.heard:
                    continue
                if Phase.ENDED in (theirs.phase, session.phase):
                    continue
                if theirs.roots.get(session.index) != session.roots[session.index]:
                    raise Violation(f"roots of one session differ at index {session.index}")

    # --- the end ----------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Both hubs have one link that is ready, over one session, and every letter has arrived or was reset."""
        a, b = self.nodes["A"], self.nodes["B"]
        sessions = [[s for s in node.link.sessions if not s.ended] for node in (a, b)]
        if [len(found) for found in sessions] != [1, 1] or not (a.link.ready and b.link.ready):
            return False
        ((ours,), (theirs,)) = sessions
        if ours.sid != theirs.sid or a.jobs or b.jobs or any(cable.to[n] for cable in self.cables for n in cable.to):
            return False
        return all(self._arrived(node, other) for node, other in ((a, b), (b, a)))

    def _arrived(self, node: Node, other: Node) -> bool:
        got = [bytes(one.data) for one in other.received if not one.over]
        sent = [bytes(one.data) for one in node.sent if not one.over]
        return set(sent) <= set(got) and not self.unfinished


def lost() -> object:
    """The work of a job whose result is already known."""
    raise AssertionError("a job is run once")


def kind_of(action: Action) -> str:
    """The allowance that an action uses up: losing one end is a cut, too."""
    return "cut" if action[0] == "lose" else str(action[0])


def _gone(cable: Cable) -> Cable:
    for queue in cable.to.values():
        queue.clear()
    return cable
