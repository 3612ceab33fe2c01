"""What the hub holds of everything that is bounded, how much it may hold, and what it had to refuse: for `status`."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Protocol

from hubtunnel.daemon import sockets
from hubtunnel.protocol import constants as c

if TYPE_CHECKING:
    from hubtunnel.daemon.hub import Hub

# Descriptors kept back for what must go on when others have taken all: control socket, carriers of peers, state files.
RESERVE = 32
RESERVE_PART = 8  # at most this part of all
CARRIERS_PER_PEER = c.SESSIONS_PER_LINK + c.CARRIERS_PENDING_PER_LINK


class HasFileno(Protocol):
    """A socket, or what an event loop gives for one."""

    def fileno(self) -> int:
        """The descriptor's number."""


class Descriptors:
    """The descriptors of this process. The lowest free number is given out first, so a high one says that few are left.

    `bound` is what the process may have (RLIMIT_NOFILE), asked once.
    """

    def __init__(self) -> None:
        self.bound = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._last = self.bound - min(RESERVE, self.bound // RESERVE_PART)

    def short(self, sock: HasFileno | None) -> bool:
        """Whether a connection just made has taken one of those kept back: it must go."""
        return sock is not None and sock.fileno() >= self._last

    @property
    def used(self) -> int:
        """How many are open now, without the one that looks; all, when none is left to look with."""
        try:
            return len(os.listdir("/proc/self/fd")) - 1
        except OSError as exc:
            if exc.errno not in sockets.EXHAUSTED:
                raise
            return self.bound


def shown(hub: Hub) -> dict[str, dict[str, int]]:
    """`used` and `bound` in the unit of each, and how often something was `refused` for it since the start.

    `streams` and `carriers` are bounded per peer: `used` is of the peer that has most of them.
    """
    services, links = hub.services, hub.links.values()
    refused, admission, budget = services.refused, services.admission, services.budget
    streams = max((len(link.local.relays) for link in links), default=0)
    carriers = max((len(link.core.carriers) for link in links), default=0)
    streams_refused = refused["streams"] + sum(s.mux.refused for link in links for s in link.core.sessions)
    return {
        "streams": _limit(streams, hub.config.limits.streams_per_peer, streams_refused),
        "carriers": _limit(carriers, CARRIERS_PER_PEER, refused["carriers"]),
        "handshakes": _limit(admission.pending, admission.limit, admission.refused),
        "strangers": _limit(admission.pending_unknown, admission.limit_unknown, admission.refused_unknown),
        "memory": _limit(budget.used, budget.limit, refused["memory"]),
        "descriptors": _limit(services.descriptors.used, services.descriptors.bound, refused["descriptors"]),
    }


def _limit(used: int, bound: int, refused: int) -> dict[str, int]:
    return {"used": used, "bound": bound, "refused": refused}
