"""What the laboratory needs, said in one place, and the laboratory itself as a fixture."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.e2e.carriers import Carrier, plain_carrier, tunnel_carrier
from tests.e2e.lab import Laboratory, laboratory

PROGRAMS = ("ip", "postfix", "postqueue", "smtp-source", "smtp-sink")
INSTALL = "apt-get install --no-install-recommends postfix iproute2"

Join = Callable[..., AbstractContextManager[Carrier]]
"""Joins the hubs of a laboratory: called as `plain_carrier` and `tunnel_carrier` are, without the loop's name."""


def _missing() -> str:
    """Why the laboratory cannot be built here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root (network namespaces and Postfix): run as root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"needs {', '.join(absent)}: {INSTALL}" if absent else ""


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    reason = _missing()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    with laboratory() as made:
        yield made


@pytest.fixture(params=["plain", "uvloop", "asyncio"])
def join(request: pytest.FixtureRequest) -> Join:
    """Every test with it runs three times: through nothing, as the control, and through our daemons on either loop."""
    if request.param == "plain":
        return plain_carrier
    return functools.partial(tunnel_carrier, loop_name=request.param)
