"""What joins the two hubs of a laboratory: our own daemons, or as the control a plain forwarder, in clear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.e2e.forward import Address, Forwarder, LoopThread, proxy_v2
from tests.e2e.hubs import Hub
from tests.e2e.lab import TUNNEL, Laboratory
from tests.e2e.postfix import INBOUND

CARRIER_PORT = 2625


@dataclass(frozen=True, slots=True)
class Carrier:
    """How the laboratory's hubs are joined in one test."""

    secret: bool
    hubs: tuple[Hub, ...] = ()


@contextmanager
def plain_carrier(lab: Laboratory, *, deliver: Address = INBOUND, proxy: bool = True) -> Iterator[Carrier]:
    """The control: the same path without a tunnel, in clear, one TCP connection over the wire for each stream."""
    with plain_wire(lab, deliver=deliver, proxy=proxy):
        yield Carrier(secret=False)


@contextmanager
def plain_wire(lab: Laboratory, *, deliver: Address = INBOUND, proxy: bool = True) -> Iterator[Forwarder]:
    """The forwarders of the control; the one given is that through which A sends its mail."""
    with LoopThread() as loop:
        wires = []
        for site, other in ((lab.a, lab.b), (lab.b, lab.a)):
            here, there = site.namespace, other.namespace
            wires.append(Forwarder(loop, inside=here, listen=TUNNEL, target=(there.address, CARRIER_PORT)))
            preface = proxy_v2 if proxy else None
            Forwarder(loop, inside=here, listen=(here.address, CARRIER_PORT), target=deliver, preface=preface)
        yield wires[0]


@contextmanager
def tunnel_carrier(
    lab: Laboratory, *, loop_name: str, deliver: Address = INBOUND, proxy: bool = True
) -> Iterator[Carrier]:
    """Our own daemons, either of which dials the other."""
    a, b = hubs = _hubs(lab, deliver)
    for hub, peer, other in ((a, b, lab.b), (b, a, lab.a)):
        endpoint = _text((other.namespace.address, CARRIER_PORT))
        hub.introduce(peer, listen=_text(TUNNEL), domains=other.domains, endpoint=endpoint)
        if not proxy:
            hub.configure_peer(peer, "[deliver]", 'proxy_protocol = "none"')
    with _running(hubs, loop_name):
        yield Carrier(secret=True, hubs=hubs)


@contextmanager
def cuttable_tunnel(lab: Laboratory, *, loop_name: str) -> Iterator[tuple[Carrier, Forwarder]]:
    """The same with one carrier at a time: A dials a forwarder beside it, and B, which has no endpoint, waits.

    B sees A's own address. A sees the forwarder's, so it is told which one to present to its MTA.
    """
    a, b = hubs = _hubs(lab, INBOUND)
    with LoopThread() as loop:
        wire_address = (lab.a.namespace.address, CARRIER_PORT + 1)
        b_address = (lab.b.namespace.address, CARRIER_PORT)
        wire = Forwarder(loop, inside=lab.a.namespace, listen=wire_address, target=b_address)
        a.introduce(b, listen=_text(TUNNEL), domains=lab.b.domains, endpoint=_text(wire_address))
        a.configure_peer(b, f'present_as = "{lab.b.namespace.address}"')
        b.introduce(a, listen=_text(TUNNEL), domains=lab.a.domains)
        with _running(hubs, loop_name):
            yield Carrier(secret=True, hubs=hubs), wire


def _hubs(lab: Laboratory, deliver: Address) -> tuple[Hub, Hub]:
    a, b = (
        Hub(
            site.postfix.hostname,
            lab.directory / f"hub-{site.domain}",
            listen=_text((site.namespace.address, CARRIER_PORT)),
            deliver=_text(deliver),
            namespace=site.namespace,
        )
        for site in (lab.a, lab.b)
    )
    return a, b


@contextmanager
def _running(hubs: Sequence[Hub], loop_name: str) -> Iterator[None]:
    """Both daemons, from the session's first moment until no stream is open any more."""
    with ExitStack() as stack:
        for hub in hubs:
            stack.callback(hub.stop)
            hub.start(loop=loop_name)
        for hub in hubs:
            hub.wait_until_up()
        yield
        for hub in hubs:
            hub.wait_until_idle()


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
