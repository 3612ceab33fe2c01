"""Where a peer's mail is handed to: one target fixed by us, with the peer's real address in front of it."""

from __future__ import annotations

from dataclasses import dataclass

from hubtunnel.config import Peer
from hubtunnel.daemon import proxy
from hubtunnel.daemon.probe import MtaListener


@dataclass(frozen=True, slots=True)
class Target:
    """Where mail of one peer goes: [deliver], or the peer file's own."""

    host: str
    port: int
    proxy_protocol: str
    source: str  # loopback address to come from; "" for any
    present_as: str  # address for the PROXY header; "" for the carrier's own
    probed: bool = True  # whether mail waits until the listener has passed a probe
    loopback: bool = False  # whether it is surely this host

    @property
    def listener(self) -> MtaListener:
        """What peers may share of it."""
        return MtaListener(self.host, self.port, self.proxy_protocol, self.source)

    def header(
        self, carrier: tuple[str, int], own: tuple[str, int], *, peer: str = "", session: bytes = b""
    ) -> bytes | None:
        """The PROXY header for a stream over a carrier from `carrier` to `own`; None when there is no honest one.

        Version 2 also says which peer was authenticated, and in which session.

        A carrier from a loopback address (a relay in between, two hubs on one machine) would make the MTA take the
        mail for its own user's: such a peer needs `present_as`.
        """
        if self.proxy_protocol == "none":
            return b""
        address = self.present_as or carrier[0]
        if not address or (not self.present_as and proxy.misleads(address)):
            return None
        return proxy.header(self.proxy_protocol, (address, carrier[1]), own, peer=peer, session=session)


def target_of(peer: Peer) -> Target:
    """Where mail of this peer is handed to."""
    deliver = peer.deliver
    return Target(
        host=deliver.address.host,
        port=deliver.address.port,
        proxy_protocol=deliver.proxy_protocol,
        source=deliver.source or "",
        present_as=peer.present_as or "",
        probed=deliver.probe,
        loopback=_is_loopback(deliver.address.host),
    )


def _is_loopback(host: str) -> bool:
    try:
        return proxy.plain_ip(host).is_loopback
    except ValueError:
        return False
