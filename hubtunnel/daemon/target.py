"""Where a peer's mail is handed to: one target fixed by us, with the peer's real address in front of it."""

from __future__ import annotations

from dataclasses import dataclass

from hubtunnel.config import Peer
from hubtunnel.daemon import proxy
from hubtunnel.daemon.probe import MtaListener


@dataclass(frozen=True, slots=True)
class Target:
    """Where mail of one peer goes: [deliver], or the peer file's own."""

    listener: MtaListener  # which peers may share
    present_as: str  # address for the PROXY header; "" for the carrier's own
    probed: bool = True  # whether mail waits until the listener has passed a probe

    @property
    def loopback(self) -> bool:
        """Whether it is surely this host."""
        try:
            return proxy.plain_ip(self.listener.host).is_loopback
        except ValueError:
            return False

    def header(
        self, carrier: tuple[str, int], own: tuple[str, int], *, peer: str = "", session: bytes = b""
    ) -> bytes | None:
        """The PROXY header for a stream over a carrier from `carrier` to `own`; None when there is no honest one.

        Version 2 also says which peer was authenticated, and in which session.

        A carrier from a loopback address (a relay in between, two hubs on one machine) would make the MTA take the
        mail for its own user's: such a peer needs `present_as`.
        """
        kind = self.listener.proxy_protocol
        if kind == "none":
            return b""
        address = self.present_as or carrier[0]
        if not address or (not self.present_as and proxy.misleads(address)):
            return None
        return proxy.header(kind, (address, carrier[1]), own, peer=peer, session=session)


def target_of(peer: Peer) -> Target:
    """Where mail of this peer is handed to."""
    deliver = peer.deliver
    address = deliver.address
    listener = MtaListener(address.host, address.port, deliver.proxy_protocol, deliver.source or "")
    return Target(listener, peer.present_as or "", deliver.probe)
