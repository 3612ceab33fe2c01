"""The real daemon as a peer, for both roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hubtunnel.demo.ports import Ports
from tests.second.daemon import Daemon, DaemonDials, Link, WeDial
from tests.second.hub import Hub

MakeLink = Callable[..., Link]
"""Called with a role and lines for the daemon's section `[session]`; the daemon runs when it returns."""


class Daemons(dict[type[Link], Daemon]):
    """One daemon for each role, each with a peer of its own; set up, and not running, when it is first asked for."""

    def __init__(self, new_folder: Callable[[], Path], ports: Ports) -> None:
        super().__init__()
        self._new_folder = new_folder
        self._ports = ports

    def __missing__(self, role: type[Link]) -> Daemon:
        second = Hub("second.example")
        made = Daemon(self._new_folder() / "real", second, self._ports, dials=role is DaemonDials)
        self[role] = made
        return made


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    with Ports() as ports:
        made = Daemons(lambda: tmp_path_factory.mktemp("second"), ports)
        yield made
        for daemon in made.values():
            daemon.end()


@pytest.fixture
def make_link(daemons: Daemons, request: pytest.FixtureRequest) -> Iterator[MakeLink]:
    """A daemon that waits for us goes on running from test to test, where its configuration stays the same.

    One that dials us begins anew: after a session was closed it would wait before it dials again. One whose test failed
    is used no more: the next test would begin with sessions and cards that nobody knows.
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
        usable = False
        try:
            if request.session.testsfailed == before:
                link.close_sessions()
                usable = True
        finally:
            link.daemon.close_sockets()
            if not usable:
                daemons.pop(type(link), None)
            if not usable or isinstance(link, DaemonDials):
                link.daemon.end()


@pytest.fixture(params=[WeDial, DaemonDials], ids=["initiator", "responder"])
def link(request: pytest.FixtureRequest, make_link: MakeLink) -> Link:
    """The second implementation in this role, towards a daemon that runs."""
    return make_link(request.param)
