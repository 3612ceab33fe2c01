"""What joins the two hubs of a laboratory: our own daemons, or as the control a plain forwarder, in clear."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from tests.e2e.forward import Address, Forwarder, LoopThread, proxy_v2
from tests.e2e.hubs import Hub
from tests.e2e.lab import TUNNEL, Laboratory, Site
from tests.e2e.namespaces import ADDRESSES
from tests.e2e.postfix import INBOUND

T = TypeVar("T")

CARRIER_PORT = 2625

WIRE = (ADDRESSES[0], 2626)
"""Where A finds the forwarder that can be cut."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """How the laboratory's hubs are joined in one test."""

    secret: bool
    hubs: tuple[Hub, ...] = ()

    def wait_until_idle(self) -> None:
        """Until no stream is open on either hub: what SMTP has ended must not stay behind in the tunnel."""
        for hub in self.hubs:
            hub.wait_until_idle()


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

    def introduce(hub: Hub, peer: Hub, other: Site) -> None:
        endpoint = text_of((other.namespace.address, CARRIER_PORT))
        hub.introduce(peer, listen=text_of(TUNNEL), domains=other.domains, endpoint=endpoint)
        if not proxy:
            hub.configure_peer(peer, "[deliver]", 'proxy_protocol = "none"')

    _at_once(lambda: introduce(a, b, lab.b), lambda: introduce(b, a, lab.a))
    with _running(hubs, loop_name):
        yield Carrier(secret=True, hubs=hubs)


@contextmanager
def cuttable_tunnel(lab: Laboratory, *, loop_name: str) -> Iterator[tuple[Carrier, Forwarder]]:
    """The same with one carrier at a time: A dials a forwarder beside it, at WIRE, and B, without endpoint, waits.

    B sees A's own address. A sees the forwarder's, so it is told which one to present to its MTA.
    """
    a, b = hubs = _hubs(lab, INBOUND)
    with LoopThread() as loop:
        b_address = (lab.b.namespace.address, CARRIER_PORT)
        wire = Forwarder(loop, inside=lab.a.namespace, listen=WIRE, target=b_address)
        a.introduce(b, listen=text_of(TUNNEL), domains=lab.b.domains, endpoint=text_of(WIRE))
        a.configure_peer(b, f'present_as = "{lab.b.namespace.address}"')
        b.introduce(a, listen=text_of(TUNNEL), domains=lab.a.domains)
        with _running(hubs, loop_name):
            yield Carrier(secret=True, hubs=hubs), wire


def _hubs(lab: Laboratory, deliver: Address) -> tuple[Hub, Hub]:
    def make(site: Site) -> Hub:
        return Hub(
            site.postfix.hostname,
            lab.directory / f"hub-{site.domain}",
            listen=text_of((site.namespace.address, CARRIER_PORT)),
            deliver=text_of(deliver),
            namespace=site.namespace,
        )

    a, b = _at_once(lambda: make(lab.a), lambda: make(lab.b))
    return a, b


def _at_once(*works: Callable[[], T]) -> list[T]:
    """Each in a thread: what they wait for are processes."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


@contextmanager
def _running(hubs: Sequence[Hub], loop_name: str) -> Iterator[None]:
    """Both daemons, from the session's first moment on."""
    with ExitStack() as stack:
        # The one that may only be dialled comes first, and is there when the other one dials.
        for hub in reversed(hubs):
            stack.callback(hub.stop)
            hub.start(loop=loop_name)
            hub.wait_until_started()
        for hub in hubs:
            hub.wait_until_up()
        yield


def text_of(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
