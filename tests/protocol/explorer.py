"""An exhaustive bounded search over the real code of two hubs: every interleaving of what can happen, up to a depth.

    python -m tests.protocol.explorer --depth 12 --json result.json

Each scenario says what may happen how often (dials, cuts at both ends or at one, ratchet steps, letters, restarts, a
second process with A's key, CLOSE, drain, time). Deliveries, record by record or all at once, jobs and the end of TCP
are always possible. The search is breadth first over states that are told apart by `canonical.digest_of`; in each, the
invariants of `World.check` hold, and a continuation without faults leads to one ready session and all letters arrived.
Crypto is that of `standins`; every so many states the way to one is gone again with the real primitives.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from hubtunnel import crypto
from tests.protocol import standins
from tests.protocol.canonical import digest_of
from tests.protocol.world import Action, Violation, World


@dataclass(frozen=True)
class Scenario:
    """What may happen how often, and whether a session that A dialled is already up when the search begins."""

    up: bool
    allowed: dict[str, int]


SCENARIOS = {
    "first dial": Scenario(False, {"dial": 2, "again": 1, "cut": 2, "write": 1}),
    "ratchet and resume": Scenario(True, {"dial": 2, "cut": 2, "rekey": 1, "write": 1}),
    "overlapping carriers": Scenario(True, {"dial": 2, "again": 2, "cut": 2, "write": 1}),
    "crossing dials": Scenario(False, {"dial": 2, "again": 1, "cut": 1, "write": 1, "tick": 2}),
    "crossing later": Scenario(True, {"dial": 2, "again": 1, "cut": 2, "tick": 3}),
    "restart": Scenario(True, {"dial": 2, "cut": 1, "write": 1, "restart": 1, "tick": 2}),
    "second boot": Scenario(True, {"dial": 2, "cut": 1, "impostor": 2, "tick": 3}),
    "close and drain": Scenario(True, {"dial": 2, "cut": 1, "write": 1, "close": 1, "drain": 1, "rekey": 1}),
    "everything": Scenario(
        True,
        {
            "dial": 4,
            "again": 1,
            "cut": 2,
            "rekey": 1,
            "write": 2,
            "restart": 1,
            "close": 1,
            "drain": 1,
            "impostor": 1,
            "tick": 3,
        },
    ),
}
CONTINUATION_STEPS = 400


class Stuck(Violation):
    """A continuation without faults does not lead to a ready link."""


@dataclass
class Result:
    """What a search has seen."""

    scenario: str
    depth: int
    states: int = 0
    transitions: int = 0
    complete: bool = True  # whether everything up to the depth was seen
    exhausted: bool = False  # whether nothing more can happen, at any depth
    deepest: int = 0
    continuations: int = 0
    replayed_with_real_primitives: int = 0
    seconds: float = 0.0
    actions: dict[str, int] = field(default_factory=dict)


class _Current:
    """The world whose seals and coins the stand-ins are asked for."""

    world: World


@contextmanager
def standing_in() -> Iterator[None]:
    """Stand-ins for the primitives, which report to the current world."""
    with standins.in_place(
        lambda public: _Current.world.coins.encapsulate(public),
        lambda key, nonce: _Current.world.note_sealed(key, nonce),
    ):
        yield


def thaw(frozen: bytes) -> World:
    """A copy of a world."""
    _Current.world = pickle.loads(frozen)
    return _Current.world


def went(world: World, way: list[Action]) -> World:
    """A world after these actions."""
    _Current.world = world
    for action in way:
        world.apply(action)
    return world


# --- no deadlock --------------------------------------------------------------------------------------------------


def next_fair_step(world: World) -> Action | None:
    """What happens next when nothing fails any more: what was sent arrives, work is done, hubs dial, time passes."""
    impostor = world.nodes.get("X")
    for number, cable in enumerate(world.cables):
        if impostor is not None and "X" in cable.ends:
            return ("lose", number, "X")  # the second process has gone
        for name in sorted(cable.ends):
            if cable.to[name] or cable.other(name) not in cable.ends:
                return ("all", number, name)
    for name, node in world.nodes.items():
        if node.jobs:
            return ("job", name)
    for name in ("A", "B"):
        if world.nodes[name].link.wants_carrier(world.now):
            return ("dial", name)
    if world.unfinished:
        return ("finish",)
    return None if world.settled else ("tick",)


def check_continuation(world: World, digest: bytes, fine: set[bytes]) -> bool:
    """Follow the fair continuation until it has settled, or meets a state from which it is known to settle."""
    met: list[bytes] = []
    for _ in range(CONTINUATION_STEPS):
        if met:
            digest = digest_of(world)
        if digest in fine:
            break
        met.append(digest)
        action = next_fair_step(world)
        if action is None:
            break
        world.apply(action)
    else:
        raise Stuck(f"no ready link after {CONTINUATION_STEPS} fair steps")
    fine.update(met)
    return bool(met)


def state_of(alike: bytes, world: World) -> bytes:
    """What the search tells states apart by: how they behave, and what may still happen to them."""
    return alike + bytes(world.left[kind] for kind in sorted(world.left) if world.left[kind] >= 0)


# --- the search ---------------------------------------------------------------------------------------------------


@dataclass
class Found(Exception):
    """A violation, and the way to it."""

    violation: str
    way: list[Action]

    def __str__(self) -> str:
        return f"{self.violation}\nafter " + "\n      ".join(map(str, self.way))


class Search:
    """One scenario, breadth first."""

    def __init__(
        self,
        name: str,
        depth: int,
        *,
        scenario: Scenario | None = None,
        seconds: float = float("inf"),
        replay_every: int = 0,
    ) -> None:
        self.result = Result(name, depth)
        self._scenario = scenario or SCENARIOS[name]
        self._until = time.monotonic() + seconds
        self._replay_every = replay_every
        self._seen: dict[bytes, tuple[bytes, Action] | None] = {}
        self._fine: set[bytes] = set()
        self._actions: Counter[str] = Counter()

    def run(self) -> Result:
        """Search. Raises `Found`."""
        begun = time.monotonic()
        with standing_in():
            world = self._first()
            level = [(state_of(digest_of(world), world), pickle.dumps(world))]
            self._seen[level[0][0]] = None
            for depth in range(1, self.result.depth + 1):
                level = self._next_level(level)
                self.result.deepest = depth
                if not level:
                    self.result.exhausted = self.result.complete
                    break
                if not self.result.complete:
                    break
        self.result.states = len(self._seen)
        self.result.actions = dict(sorted(self._actions.items()))
        self.result.seconds = round(time.monotonic() - begun, 1)
        return self.result

    def _first(self) -> World:
        """The world in which the search begins."""
        _Current.world = world = World(self._scenario.allowed)
        if self._scenario.up:
            world.apply(("dial", "A"))
            while (action := next_fair_step(world)) is not None:
                world.apply(action)
            world.left = dict(self._scenario.allowed)
        return world

    def _next_level(self, level: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        following = []
        for digest, frozen in level:
            if time.monotonic() > self._until:
                self.result.complete = False
                return following
            for action in thaw(frozen).actions():
                new = self._step(digest, frozen, action)
                if new is not None:
                    following.append(new)
        return following

    def _step(self, digest: bytes, frozen: bytes, action: Action) -> tuple[bytes, bytes] | None:
        world = thaw(frozen)
        self.result.transitions += 1
        self._actions[str(action[0])] += 1
        try:
            world.apply(action)
            alike = digest_of(world)
            reached = state_of(alike, world)
            if reached in self._seen:
                return None
            self._seen[reached] = (digest, action)
            frozen = pickle.dumps(world, pickle.HIGHEST_PROTOCOL)
            self.result.continuations += check_continuation(world, alike, self._fine)
        except Exception as exc:
            raise Found(f"{type(exc).__name__}: {exc}", [*self.way(digest), action]) from exc
        if self._replay_every and len(self._seen) % self._replay_every == 0:
            self._replay(reached)
        return reached, frozen

    def way(self, digest: bytes) -> list[Action]:
        """The actions that lead to a state."""
        way = []
        while (before := self._seen[digest]) is not None:
            digest, action = before
            way.append(action)
        return way[::-1]

    def _replay(self, digest: bytes) -> None:
        """The same way with the real primitives: each action is possible there too, and every invariant holds."""
        way = self.way(digest)
        with real_primitives():
            went(self._first(), way)
        self.result.replayed_with_real_primitives += 1


@contextmanager
def real_primitives() -> Iterator[None]:
    """Take the stand-ins out again for a while."""
    fakes = {name: getattr(crypto, name) for name in ORIGINALS}
    try:
        for name, original in ORIGINALS.items():
            setattr(crypto, name, original)
        yield
    finally:
        for name, fake in fakes.items():
            setattr(crypto, name, fake)


ORIGINALS = {
    name: getattr(crypto, name)
    for name in (
        "x25519_public",
        "x25519",
        "mlkem_public",
        "mlkem_check_public",
        "mlkem_encapsulate",
        "mlkem_decapsulate",
        "Aead",
    )
}


def main(arguments: list[str]) -> int:
    """Search every scenario (or one) and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each scenario, at most")
    parser.add_argument("--replay-every", type=int, default=200)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(arguments)
    results = []
    for scenario in options.scenario or SCENARIOS:
        search = Search(scenario, options.depth, seconds=options.seconds, replay_every=options.replay_every)
        try:
            results.append(asdict(search.run()))
        except Found as found:
            print(f"{scenario}: {found}")
            raise
        print(results[-1], flush=True)
    if options.json:
        with open(options.json, "w", encoding="ascii") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
