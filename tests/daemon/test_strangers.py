"""Slots, buckets and counts of those who have not authenticated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.daemon.strangers import (
    KNOWN_FOR,
    KNOWN_MAX,
    PER_SOURCE,
    SOURCES_MAX,
    Admission,
    Knocks,
    PinBucket,
    Slot,
    deadline_of,
    network_of,
)
from hubtunnel.protocol import constants as c


def address(number: int) -> str:
    return f"198.51.{number // 250}.{number % 250}"


def test_networks() -> None:
    assert network_of("192.0.2.7") == "192.0.2.7"
    assert network_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8:1:2233::1") == network_of("2001:db8:1:22ff::9") == "2001:db8:1:2200::/56"
    assert network_of("2001:db8:1:2333::1") != network_of("2001:db8:1:2233::1")
    assert network_of("fe80::1%eth0") == "fe80::/56"


def test_half_of_the_slots_is_kept_for_known_addresses() -> None:
    admission = Admission(8)
    admission.list_addresses("b", ["192.0.2.1"])
    admission.authenticated("192.0.2.2", 0.0)
    slots = [admission.admit(address(n), 0.0) for n in range(5)]
    assert [slot is not None for slot in slots] == [True] * 4 + [False]
    for known in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2"):
        assert admission.admit(known, 0.0)
    assert admission.admit("192.0.2.1", 0.0) is None
    assert admission.pending == 8
    assert admission.refused == 2


def test_known_addresses_are_forgotten() -> None:
    admission = Admission(2)
    admission.authenticated("192.0.2.2", 0.0)
    assert admission.admit(address(1), 0.0)
    assert admission.admit("192.0.2.2", KNOWN_FOR + 1) is None
    admission.list_addresses("b", ["192.0.2.2"])
    admission.list_addresses("b", [])
    assert admission.admit("192.0.2.2", KNOWN_FOR + 1) is None
    admission.list_addresses("b", ["192.0.2.2"])
    assert admission.admit("192.0.2.2", KNOWN_FOR + 1)


def test_an_address_is_known_as_long_as_any_peer_lists_it() -> None:
    def known(address: str) -> bool:
        admission = Admission(1)  # of which none is for strangers
        for peer, addresses in changes:
            admission.list_addresses(peer, addresses)
        return admission.admit(address, 0.0) is not None

    changes = [("b", ["192.0.2.1", "192.0.2.2"]), ("c", ["192.0.2.1"]), ("c", ["192.0.2.1"])]
    assert known("192.0.2.1")
    assert known("192.0.2.2")
    assert not known("192.0.2.3")
    changes += [("b", ["192.0.2.3"])]
    assert known("192.0.2.1")
    assert not known("192.0.2.2")
    assert known("192.0.2.3")
    changes += [("c", [])]
    assert not known("192.0.2.1")


def test_known_addresses_are_bounded() -> None:
    admission = Admission(2)
    for number in range(KNOWN_MAX + 1):
        admission.authenticated(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", 0.0)
    assert admission.admit(address(1), 0.0)
    assert admission.admit("10.0.0.0", 0.0) is None  # the oldest made room
    assert admission.admit("10.0.0.1", 0.0)


def test_one_source_holds_sixteen() -> None:
    admission = Admission(256)
    slots = [admission.admit(f"2001:db8::{n}", 0.0) for n in range(PER_SOURCE + 1)]
    assert slots[-1] is None
    assert all(slots[:-1])
    assert isinstance(slots[0], Slot)
    admission.release(slots[0])
    admission.release(slots[0])  # twice is as good as once
    assert admission.admit("2001:db8::ffff", 0.0)
    assert admission.admit("2001:db8::ffff", 0.0) is None


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=200))
def test_slots_are_never_lost_nor_made(steps: list[tuple[int, bool]]) -> None:
    """Whatever comes and goes, what was given and not given back is what is pending, within every bound."""
    admission = Admission(20)
    admission.list_addresses("b", [address(0), address(1)])
    held: list[tuple[int, Slot]] = []
    for number, come in steps:
        if come:
            slot = admission.admit(address(number), 0.0)
            if slot is not None:
                held.append((number, slot))
        elif held:
            admission.release(held.pop(number % len(held))[1])
        assert admission.pending == len(held) <= 20
        assert sum(n > 1 for n, _ in held) <= 10
    for _, slot in held:
        admission.release(slot)
    assert admission.pending == 0
    assert admission.admit(address(12), 0.0)


def test_deadline_does_not_depend_on_anything_but_chance() -> None:
    assert deadline_of(100.0, lambda: 0.0) == 100.0 + c.HANDSHAKE_TIMEOUT
    assert deadline_of(100.0, lambda: 1.0) == 100.0 + c.HANDSHAKE_TIMEOUT + c.HANDSHAKE_JITTER


def test_bucket_allows_a_burst_and_refills() -> None:
    bucket = PinBucket(0.0)
    for _ in range(20):
        assert bucket.allows(0.0)
        bucket.wrong_auth(0.0)
    assert not bucket.allows(0.0)
    assert not bucket.allows(5.9)
    assert bucket.allows(6.1)  # ten a minute
    bucket.wrong_auth(6.1)
    assert not bucket.allows(6.1)
    assert bucket.allows(4.0) is False  # a clock that goes back gives nothing


def test_knocks_are_counted_by_network_and_bounded() -> None:
    knocks = Knocks()
    assert knocks.count("192.0.2.1", "bad_gate", 1.0) == 1
    assert knocks.count("192.0.2.1", "bad_gate", 2.0) == 2
    for number in range(SOURCES_MAX):
        knocks.count(f"10.0.{number // 256}.{number % 256}", "version", 3.0)
    assert knocks.total == {"bad_gate": 2, "version": SOURCES_MAX}
    assert len(knocks.latest(5000)) == SOURCES_MAX
    assert knocks.latest(1)[0][0] == "10.0.3.255"
    assert knocks.count("192.0.2.1", "bad_gate", 4.0) == 1  # it had made room
