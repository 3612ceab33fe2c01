"""One text for all worlds that behave alike: what the explorer has seen already it does not look at again.

The walk goes through every object of the core and of the model. Left out is what cannot change what happens next:
statistics, numbers for logs, derived values; and record counters, because a sender's and its receiver's always differ
by just what is on its way (a search is far too short for a key step). Times are taken relative to now. Tokens of PINGs
are only ever compared, so they are named in the order in which they are met; what stands in records likewise.
"""

from __future__ import annotations

import hashlib
import marshal
from collections import OrderedDict, deque
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MethodType

from tests.protocol.world import World

SKIPPED = {
    "Budget": {"peak", "limit"},
    "Cable": {"name"},
    "Carrier": {"id", "app", "opened_at", "heard_at", "rtt", "bytes_in", "bytes_out"},
    "Environment": {"seed", "random", "events", "jobs", "own_idfp", "peer_idfp", "settings", "cards"},
    "Established": {"peer", "own", "theirs", "d", "th", "root", "sid", "t_receive", "leftover", "first_flight"},
    "Job": {"_work"},
    "Link": {"_numbers"},
    "Mux": {"opened", "refused", "reset", "now", "rtt"},
    "Node": {"draws", "tokens", "identity"},
    "Reader": {"records"},
    "Session": {"resumed", "peer_version", "cards"},
    "SessionClock": {"_settings"},
    "Stream": {"_granted_at"},
    "TrafficKey": {"_aead", "_iv", "bytes", "counter"},
    "World": {"now", "coins", "sealed", "left", "cables", "alarms"},
}
_AS_THEY_ARE = frozenset((type(None), bool, int, str))
_CALLABLES = frozenset((FunctionType, MethodType, BuiltinFunctionType))
_SEQUENCES = frozenset((list, tuple, deque))
_fields: dict[type, tuple[str, ...]] = {}


def fields_of(kind: type) -> tuple[str, ...]:
    """The slots of a class that count."""
    names: dict[str, None] = {}
    for base in reversed(kind.__mro__):
        slots = base.__dict__.get("__slots__", ())
        names.update(dict.fromkeys((slots,) if isinstance(slots, str) else slots))
    skipped = SKIPPED.get(kind.__name__, set())
    return tuple(name for name in names if name not in skipped and not name.startswith("__"))


class Walk:
    """One walk through a world."""

    def __init__(self, world: World) -> None:
        self.out: list[object] = []
        self._now = world.now
        self._met: dict[int, int] = {}
        self._tokens = set().union(*(node.tokens for node in world.nodes.values()))
        self._named: dict[bytes, int] = {}

    def visit(self, thing: object) -> None:
        """Add an object, and what it holds, to `out`."""
        kind = type(thing)
        if kind in _AS_THEY_ARE:
            self.out.append(thing)
        elif kind is bytes or kind is bytearray:
            self.out.append(self._token(bytes(thing)))  # type: ignore[arg-type]
        elif kind is float:
            self.out.append(round(thing - self._now, 6))  # type: ignore[operator]
        elif kind in _SEQUENCES:
            self.out.append(len(thing))  # type: ignore[arg-type]
            for item in thing:  # type: ignore[attr-defined]
                self.visit(item)
        elif kind is dict or kind is OrderedDict:
            self._dict(thing)  # type: ignore[arg-type]
        elif isinstance(thing, Enum):
            self.out.append(thing._name_)
        elif kind is set:
            self.out.append(sorted(thing))  # type: ignore[call-overload]
        elif kind not in _CALLABLES:
            self._object(thing, kind)

    def _dict(self, thing: dict[object, object]) -> None:
        self.out.append(len(thing))
        items = list(thing.items())
        if items and isinstance(items[0][0], Enum):
            items.sort(key=lambda item: item[0]._name_)  # type: ignore[attr-defined]
        for key, value in items:
            self.visit(key)
            self.visit(value)

    def _object(self, thing: object, kind: type) -> None:
        number = self._met.get(id(thing))
        if number is not None:
            self.out.append(("met", number))
            return
        self._met[id(thing)] = len(self._met)
        self.out.append(kind.__name__)
        names = _fields.get(kind)
        if names is None:
            names = _fields[kind] = fields_of(kind)
        if not names and hasattr(thing, "__dict__"):
            skipped = SKIPPED.get(kind.__name__, ())
            for name, value in thing.__dict__.items():
                if name not in skipped:
                    self.visit(value)
        for name in names:
            self.visit(getattr(thing, name))

    def _token(self, value: bytes) -> object:
        if value in self._tokens:
            return ("token", self._named.setdefault(value, len(self._named)))
        return value

    def record(self, record: bytes) -> None:
        """A record on its way, without its tag: under the stand-ins its plaintext stands in it."""
        self.out.append(record[0])
        self.out.append(record[3])
        self.out.append(self._token(record[4:-16]))


def digest_of(world: World) -> bytes:
    """The same for worlds that behave alike. What the search still allows is no part of it."""
    walk = Walk(world)
    walk.visit(world.nodes)
    walk.visit(sorted(set(world.alarms)))
    for cable in sorted((cable for cable in world.cables if cable.ends), key=lambda cable: cable.name):
        for name, queue in sorted(cable.to.items()):
            walk.out.append((name, len(queue)))
            walk.visit(cable.ends.get(name))
            for record in queue:
                walk.record(record)
    return hashlib.blake2b(marshal.dumps(walk.out, 0), digest_size=16).digest()
