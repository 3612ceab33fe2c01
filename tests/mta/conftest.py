"""What the laboratory of mail servers needs, said in one place."""

from __future__ import annotations

import os

import pytest

from tests.mta.machines import missing_programs

PROGRAMS = ("ip", "nsenter", "unshare", "apt-get", "dnsmasq")


@pytest.fixture(scope="session")
def able() -> None:
    """Skips where the laboratory cannot be built."""
    if os.geteuid() != 0:
        pytest.skip("needs root (overlays, namespaces, real mail servers): run as root")
    absent = missing_programs(PROGRAMS)
    if absent:
        pytest.skip(f"needs {', '.join(absent)}: apt-get install --no-install-recommends iproute2 dnsmasq-base")
