"""Everything that is measured side by side. A further peer is one more function and one more line in PAIRS."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench import compiled, proxies, wireguard
from tests.bench.ways import Pair, Place, Running
from tests.e2e.hubs import ROOT, Hub


@contextmanager
def direct(place: Place) -> Iterator[Running]:
    """No pair at all."""
    yield Running((), place.direct)


@contextmanager
def hubtunnel(
    place: Place,
    *,
    loop: str,
    proxy: str = "none",
    hub: Sequence[str] = (),
    peer: Sequence[str] = (),
    package: Path = ROOT,
) -> Iterator[Running]:
    """Our own daemons, with their default settings but for what the sinks do not understand.

    That is the PROXY header, and for the sink of bulk data the question whether it is an SMTP server. `hub` and `peer`
    are lines for the files of both hubs and of both peers.
    """
    near, far = (
        Hub(
            f"{name}.example",
            place.directory / name,
            listen=listen,
            deliver=place.sink,
            namespace=inside,
            package=package,
        )
        # The near end needs no listener that anybody dials: any port will do.
        for name, listen, inside in (
            ("near", f"{_nobody_dials(place)}:0", place.near),
            ("far", place.middle, place.far),
        )
    )
    unused = f"127.0.0.{100 + place.number}:2523"
    near.introduce(far, listen=place.entrance, endpoint=place.middle)
    far.introduce(near, listen=unused if place.far else f"{_nobody_dials(place)}:2523")
    delivery = ("[deliver]", f'proxy_protocol = "{proxy}"', "probe = false")
    near.configure_peer(far, *peer, *delivery)
    far.configure_peer(near, *peer, *delivery)
    try:
        began = time.perf_counter()
        for end in (far, near):
            end.start(loop=loop)
        for end in (near, far):
            end.wait_until_up()
        seconds = time.perf_counter() - began
        for end, line in itertools.product((near, far), hub):
            end.configure(line)
        yield Running((near.pid, far.pid), place.entrance, seconds)
    finally:
        for end in (near, far):
            end.stop()


def _nobody_dials(place: Place) -> str:
    return "127.0.0.1" if place.near is not None else place.entrance.rpartition(":")[0]


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("direct", "no proxy: the load generator and the sink alone", direct),
        Pair("haproxy", "HAProxy, plain TCP, two in a row", proxies.haproxy_plain, ("haproxy",)),
        Pair(
            "haproxy-tls",
            "HAProxy, TLS 1.3 with pinned certificates both ways (P-256)",
            proxies.haproxy_tls,
            ("haproxy", "openssl"),
        ),
        Pair(
            "stunnel",
            "stunnel, TLS 1.3, verifyPeer both ways (P-256)",
            proxies.stunnel,
            ("stunnel4", "openssl"),
            share=0.4,
        ),
        Pair("spiped", "spiped, one shared secret", proxies.spiped, ("spiped",), share=0.1),
        Pair(
            "wireguard-go",
            "wireguard-go between two network namespaces",
            wireguard.wireguard,
            ("wireguard-go", "wg", "ip"),
            own_network=True,
            lacking=wireguard.lacking,
        ),
        Pair("hubtunnel", "hubtunnel on uvloop", partial(hubtunnel, loop="uvloop")),
        Pair("hubtunnel-asyncio", "hubtunnel on asyncio's own loop", partial(hubtunnel, loop="asyncio")),
        Pair(
            "hubtunnel-compiled",
            "hubtunnel on uvloop, compiled (docs/OPERATING.md)",
            partial(hubtunnel, loop="uvloop", package=compiled.FOLDER),
            lacking=compiled.lacking,
        ),
    )
}

REFERENCE = "haproxy"
"""The pair that ratios are taken against where nothing else is said."""
