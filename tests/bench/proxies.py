"""HAProxy, stunnel and spiped as their manuals put two of them in a row, with certificates and a secret."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.ways import Place, Program, Running, both_running
from tests.e2e.processes import run

_HAPROXY = """\
global
    tune.bufsize 65536
    maxconn 2000
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 10s
    timeout client 120s
    timeout server 120s
listen {name}
    bind {listen}{bind}
    server next {target}{server_tls}
"""

_STUNNEL = """\
foreground = yes
pid =
debug = warning
syslog = no
[mail]
client = {client}
accept = {listen}
connect = {target}
cert = {cert}
key = {cert}
CAfile = {pinned}
verifyPeer = yes
sslVersionMin = TLSv1.3
"""


def certificates(directory: Path) -> tuple[Path, Path]:
    """A self-signed P-256 certificate for each end, with its key in the same file: near, far.

    Each end is given the other's as the only one that it accepts, which is a pin.
    """
    made = []
    for name in ("near", "far"):
        path, key = directory / f"{name}.pem", directory / f"{name}.key"
        subject = ("-subj", f"/CN={name}.example", "-addext", f"subjectAltName=DNS:{name}.example")
        kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30")
        run("openssl", "req", "-x509", *kind, *subject, "-keyout", str(key), "-out", str(path))
        path.write_text(key.read_text() + path.read_text())  # Postfix wants the key first
        made.append(path)
    return made[0], made[1]


@contextmanager
def haproxy_plain(place: Place) -> Iterator[Running]:
    """HAProxy as a TCP proxy, twice, without TLS: what can be had where nothing is protected."""
    near = _haproxy(place.directory, "near", place.entrance, place.middle)
    far = _haproxy(place.directory, "far", place.middle, place.sink)
    with _both(place, near, far) as running:
        yield running


@contextmanager
def proxied_sink(place: Place, *, accept_proxy: bool) -> Iterator[str]:
    """HAProxy before the sink, which takes the PROXY header where there is one; the address to hand over to."""
    listen = f"{place.middle.rpartition(':')[0]}:2727"
    bind = " accept-proxy" if accept_proxy else ""
    argv = _haproxy(place.directory, "sink", listen, place.sink, bind=bind)
    child = place.start("sink", argv, place.far)
    try:
        child.wait_for(partial(place.accepts, listen, place.far), f"HAProxy to listen on {listen}")
        yield listen
    finally:
        child.stop()


@contextmanager
def haproxy_tls(place: Place) -> Iterator[Running]:
    """The same with TLS 1.3 between them, each end pinning the other's certificate; the rest as by default."""
    own, other = certificates(place.directory)
    near_tls = f" ssl crt {own} ca-file {other} verify required"
    far_tls = f" ssl crt {other} ca-file {own} verify required"
    near = _haproxy(place.directory, "near", place.entrance, place.middle, server_tls=near_tls)
    far = _haproxy(place.directory, "far", place.middle, place.sink, bind=far_tls)
    with _both(place, near, far) as running:
        yield running


@contextmanager
def stunnel(place: Place) -> Iterator[Running]:
    """stunnel with `verifyPeer` on both sides."""
    own, other = certificates(place.directory)
    ends = []
    for name, client, listen, target, cert, pinned in (
        ("near", "yes", place.entrance, place.middle, own, other),
        ("far", "no", place.middle, place.sink, other, own),
    ):
        config = place.directory / f"{name}.conf"
        config.write_text(_STUNNEL.format(client=client, listen=listen, target=target, cert=cert, pinned=pinned))
        ends.append(["stunnel4", str(config)])
    with _both(place, *ends) as running:
        yield running


@contextmanager
def spiped(place: Place) -> Iterator[Running]:
    """spiped with a shared secret; more connections at once than its default of 100."""
    key = place.directory / "spiped.key"
    key.write_bytes(os.urandom(32))
    ends = []
    for mode, listen, target in (("-e", place.entrance, place.middle), ("-d", place.middle, place.sink)):
        addresses = ("-s", _bracketed(listen), "-t", _bracketed(target))
        ends.append(["spiped", mode, "-F", "-n", "2000", *addresses, "-k", str(key)])
    with _both(place, *ends) as running:
        yield running


def _haproxy(
    directory: Path, name: str, listen: str, target: str, *, bind: str = "", server_tls: str = ""
) -> list[str]:
    config = directory / f"{name}.cfg"
    config.write_text(_HAPROXY.format(name=name, listen=listen, target=target, bind=bind, server_tls=server_tls))
    return ["haproxy", "-db", "-f", str(config)]


@contextmanager
def _both(place: Place, near: list[str], far: list[str]) -> Iterator[Running]:
    programs = (
        Program("near", near, place.entrance, place.near),
        Program("far", far, place.middle, place.far),
    )
    with both_running(place, *programs) as running:
        yield running


def _bracketed(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"[{host}]:{port}"
