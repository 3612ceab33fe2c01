"""Which addresses `doctor` looks at for mail that comes in clear."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hubtunnel.mta.clear import own_addresses
from tests.e2e.namespaces import switched_namespaces
from tests.e2e.processes import run

# As Linux 6.1 prints them, of a host with 192.0.2.2/24 and 192.0.2.9/32, fd00::2/64 and what every host has.
TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.2
              /32 host LOCAL
           |-- 192.0.2.9
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
     |-- 192.0.2.2
        /32 host LOCAL
"""
INET6 = """\
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
fd000000000000000000000000000002 04 40 00 82     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


def test_every_address_but_loopback_and_those_of_a_link(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(TRIE)
    assert own_addresses(tmp_path) == ["192.0.2.2", "192.0.2.9"]  # where there is no IPv6
    (tmp_path / "if_inet6").write_text(INET6)
    assert own_addresses(tmp_path) == ["192.0.2.2", "192.0.2.9", "fd00::2"]


def test_those_of_this_kernel_can_be_bound() -> None:
    for address in own_addresses():
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((address, 0))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a host with addresses of its own: run as root")
def test_those_that_an_interface_was_given() -> None:
    with switched_namespaces(["198.51.100.1"]) as (host,):
        for address in ("203.0.113.7/32", "2001:db8::7/128"):
            run("ip", "-n", host.name, "address", "add", address, "dev", "lo")
        with host.entered():
            found = own_addresses(Path("/proc/thread-self/net"))
        assert set(found) == {"198.51.100.1", "203.0.113.7", "2001:db8::7"}
