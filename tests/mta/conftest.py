"""What the laboratory of mail servers needs, said in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.mta import servers
from tests.mta.lab import Laboratory, laboratory, next_to
from tests.mta.machines import missing_programs

PROGRAMS = ("ip", "nsenter", "unshare", "apt-get", "dnsmasq")


@pytest.fixture(scope="session")
def ring() -> Iterator[Laboratory]:
    """All mail servers in a ring; one laboratory for all tests here, for it takes most of their time."""
    _need_what_it_takes()
    with laboratory([(server, f"mx.{server.name}.example") for server in servers.ALL], next_to) as lab:
        yield lab


def _need_what_it_takes() -> None:
    """Skips where the laboratory cannot be built."""
    if os.geteuid() != 0:
        pytest.skip("needs root (overlays, namespaces, real mail servers): run as root")
    absent = missing_programs(PROGRAMS)
    if absent:
        pytest.skip(f"needs {', '.join(absent)}: apt-get install --no-install-recommends iproute2 dnsmasq-base")
