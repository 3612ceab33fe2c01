"""The probe of the local MTA before a real Postfix: which of its listeners pass, and what becomes of mail otherwise."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from hubtunnel.daemon import probe
from hubtunnel.daemon.probe import MtaListener, ProbeError
from tests.e2e.carriers import text_of, tunnel_carrier
from tests.e2e.lab import Laboratory
from tests.e2e.letters import expected_arrivals, make_letters
from tests.e2e.postfix import INBOUND, SUBMIT
from tests.e2e.processes import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]


def probed(lab: Laboratory, address: tuple[str, int], header: str) -> str:
    """What the probe finds wrong; empty when all is well."""

    async def ask() -> str:
        try:
            await probe.probe(MtaListener(*address, header, ""), (lab.a.namespace.address, 25))
        except ProbeError as exc:
            return str(exc)
        return ""

    with lab.b.namespace.entered():
        return asyncio.run(ask())


def test_listeners_of_postfix(lab: Laboratory) -> None:
    """The one that expects a header passes with either version of it, the other one without: nothing else does."""
    found = {
        (address, header): probed(lab, address, header)
        for address in (INBOUND, SUBMIT)
        for header in ("v2", "v1", "none")
    }
    assert {case for case, wrong in found.items() if not wrong} == {(INBOUND, "v2"), (INBOUND, "v1"), (SUBMIT, "none")}
    assert found[INBOUND, "none"].startswith("it greets with '421 4.3.0 mx.b.example Server local error'")
    for header in ("v1", "v2"):
        assert f"to the PROXY header ({header}), which it seems not to expect" in found[SUBMIT, header]


@pytest.mark.parametrize("probing", [True, False], ids=["probed", "control"])
def test_a_wrong_port_costs_no_mail(lab: Laboratory, probing: bool) -> None:
    """Mail waits, with the reason in the queue, and goes when the port is right. Without the probe it bounces."""
    letters = make_letters(3, prefix="port", sender_domain=lab.a.domain, domains=lab.b.domains)
    with tunnel_carrier(lab, loop_name="uvloop") as carrier:
        _, b = carrier.hubs
        right = b.config.read_text()
        wrong = right.replace(
            f'address = "{text_of(INBOUND)}"', f'address = "{text_of(SUBMIT)}"\nprobe = {str(probing).lower()}'
        )
        assert wrong != right
        b.config.write_text(wrong)
        b._command("reload")
        lab.submit(lab.a, letters)
        if not probing:
            wait_until(lambda: "status=bounced" in lab.a.postfix.log, "a bounce", detail=lab.explain)
            assert lab.arrivals(lab.b) == Counter()
            return
        wait_until(
            lambda: len(lab.queued()) == 3 and all(" deferred " in entry for entry in lab.queued()),
            "deferred mail",
            detail=lab.explain,
        )
        assert all("told: mta_unreachable" in entry for entry in lab.queued())
        assert "status=bounced" not in lab.a.postfix.log
        (listener,) = b.status()["deliver"]
        assert listener["state"] == "failing"
        b.config.write_text(right)
        b._command("reload")
        lab.a.postfix.flush()
        lab.wait_for_arrivals(lab.b, letters)
    assert lab.arrivals(lab.b) == expected_arrivals(letters)
