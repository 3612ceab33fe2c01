"""What the laboratory needs, said in one place, and the laboratory itself as a fixture."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.e2e.carriers import Carrier, plain_carrier, tunnel_carrier
from tests.e2e.lab import Laboratory, laboratory
from tests.e2e.processes import missing

PROGRAMS = ("ip", "postfix", "postqueue", "smtp-source", "smtp-sink")
INSTALL = "apt-get install --no-install-recommends postfix iproute2"

Join = Callable[..., AbstractContextManager[Carrier]]
"""Joins the hubs of a laboratory: called as `plain_carrier` and `tunnel_carrier` are, without the loop's name."""


def _lacking() -> str:
    """Why the laboratory cannot be built here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root (network namespaces and Postfix): run as root"
    absent = missing(PROGRAMS)
    return f"needs {', '.join(absent)}: {INSTALL}" if absent else ""


def _need_what_it_takes() -> None:
    reason = _lacking()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    """Two hubs with a running Postfix each."""
    _need_what_it_takes()
    with laboratory() as made:
        yield made


@pytest.fixture
def lab_without_mta() -> Iterator[Laboratory]:
    """The same for tests that bring their own server and client."""
    _need_what_it_takes()
    with laboratory(mta=False) as made:
        yield made


def _join(how: str) -> Join:
    return plain_carrier if how == "plain" else functools.partial(tunnel_carrier, loop_name=how)


@pytest.fixture(params=["plain", "uvloop"])
def join(request: pytest.FixtureRequest) -> Join:
    """Every test with it runs through nothing, as the control, and through our daemons."""
    return _join(request.param)


@pytest.fixture(params=["plain", "uvloop", "asyncio"])
def join_on_both_loops(request: pytest.FixtureRequest) -> Join:
    """As `join`, and once more on asyncio's own loop."""
    return _join(request.param)
