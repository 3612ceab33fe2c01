"""The real daemon as a peer, for both roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.second.daemon import Daemon, DaemonDials, Link, WeDial
from tests.second.hub import Hub

MakeLink = Callable[..., Link]
"""Called with a role and lines for the daemon's section `[session]`; the daemon runs when it returns."""


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[type[Link], Daemon]]:
    """One daemon for each role, set up and not running, each with a peer of its own."""
    made: dict[type[Link], Daemon] = {}
    for role in (WeDial, DaemonDials):
        directory = tmp_path_factory.mktemp("second") / "real"
        made[role] = Daemon(directory, Hub("second.example"), dials=role is DaemonDials)
    yield made
    for daemon in made.values():
        daemon.end()


@pytest.fixture
def make_link(daemons: dict[type[Link], Daemon], request: pytest.FixtureRequest) -> Iterator[MakeLink]:
    """A daemon that waits for us goes on running from test to test, where its configuration stays the same.

    One that dials us begins anew: after a session was closed it would wait before it dials again.
    """
    links: list[Link] = []

    def make(role: type[Link], session: str = 'drain = "0s"', *, fresh: bool = False) -> Link:
        daemon = daemons[role]
        daemon.open_listeners()
        link = role(daemon)
        links.append(link)
        if fresh or role is DaemonDials or daemon.running_with != session:
            daemon.end()
            daemon.run(session)
        return link

    before = request.session.testsfailed
    yield make
    for link in links:
        try:
            if request.session.testsfailed == before:
                link.close_sessions()
        finally:
            link.daemon.close_sockets()
            if isinstance(link, DaemonDials):
                link.daemon.end()


@pytest.fixture(params=[WeDial, DaemonDials], ids=["initiator", "responder"])
def link(request: pytest.FixtureRequest, make_link: MakeLink) -> Link:
    """The second implementation in this role, towards a daemon that runs."""
    return make_link(request.param)
