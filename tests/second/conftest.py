"""The real daemon as a peer, for both roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.second.daemon import Daemon, DaemonDials, Link, WeDial
from tests.second.hub import Hub

MakeLink = Callable[..., Link]
"""Called with a role and lines for the daemon's section `[session]`; the daemon runs when it returns."""


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> dict[type[Link], Daemon]:
    """One daemon for each role, set up and not running."""
    second = Hub("second.example")
    roles: list[type[Link]] = [WeDial, DaemonDials]
    return {
        role: Daemon(tmp_path_factory.mktemp("second") / "real", second, dials=role is DaemonDials) for role in roles
    }


@pytest.fixture
def make_link(daemons: dict[type[Link], Daemon]) -> Iterator[MakeLink]:
    running: list[Daemon] = []

    def make(role: type[Link], session: str = 'drain = "0s"') -> Link:
        running.append(daemons[role])
        daemons[role].run(session)
        return role(daemons[role])

    yield make
    for daemon in running:
        daemon.end()


@pytest.fixture(params=[WeDial, DaemonDials], ids=["initiator", "responder"])
def link(request: pytest.FixtureRequest, make_link: MakeLink) -> Link:
    """The second implementation in this role, towards a daemon that runs."""
    return make_link(request.param)
