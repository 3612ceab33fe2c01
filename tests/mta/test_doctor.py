"""`hubtunnel doctor` on every mail server: all is proved on the generated configuration, and each mistake is found."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.processes import run
from tests.mta import servers
from tests.mta.lab import Laboratory, Site

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(300)]

NAMES = [server.name for server in servers.ALL]
FORGOTTEN = "forgotten"


def _summary(findings: list[dict[str, str]]) -> list[str]:
    return [f"{each['verdict']}: {each['check']}: {each['about']}: {each['text']}" for each in findings]


def _wrong(findings: list[dict[str, str]], check: str) -> list[dict[str, str]]:
    return [each for each in findings if each["check"] == check and each["verdict"] == "wrong"]


def _other(site: Site, folder: Path, change: Callable[[str, str], str]) -> Path:
    """A copy of the hub's configuration in which `change(file name, text)` has made a mistake."""
    place = site.directory / folder.name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(site.directory / "peers.d", place / "peers.d")
    for path in (site.config, *(site.directory / "peers.d").glob("*.toml")):
        target = place / path.relative_to(site.directory)
        target.write_text(change(path.name, path.read_text()))
    with (place / "hubtunnel.toml").open("a") as file:
        file.write(f'\n[control]\nsocket = "{site.directory / "control.sock"}"\n')
    return place / "hubtunnel.toml"


def _delivering_to_port_25(file: str, text: str) -> str:
    """The mistake that makes a relay of every stock mail server: it trusts what comes from loopback."""
    text = re.sub(r"^(source|proxy_protocol) = .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^\[deliver\]$", '[deliver]\nproxy_protocol = "none"', text, flags=re.MULTILINE)
    return re.sub(r'^address = "127\.0\.0\.1:\d+"', 'address = "127.0.0.1:25"', text, flags=re.MULTILINE)


def _with_a_forgotten_domain(file: str, text: str) -> str:
    """A domain was added to the peers' files, and the mail server knows nothing of it."""
    return re.sub(
        r'^domains = \["', f'domains = ["{FORGOTTEN}.{file.removesuffix(".toml")}", "', text, flags=re.MULTILINE
    )


def _tunnel_to_itself(file: str, text: str) -> str:
    """What the mail server is sent to for a peer leads back to itself."""
    return text.replace('listen = "127.0.1.2:24"', 'listen = "127.0.0.1:25"')


def _relay_and_way(file: str, text: str) -> str:
    return _with_a_forgotten_domain(file, _delivering_to_port_25(file, text))


_Findings = list[dict[str, str]]


@pytest.fixture(scope="module")
def examined(ring: Laboratory) -> dict[str, tuple[_Findings, _Findings, _Findings]]:
    """What it finds on every hub of the ring: as the recipes left it, and with each of the two mistakes."""

    def each(site: Site) -> list[_Findings]:
        mistakes = [_other(site, Path(mistake.__name__), mistake) for mistake in (_relay_and_way, _tunnel_to_itself)]
        # At once where a server makes clients wait after an error. Exim takes twenty connections at a time, and of this
        # host no more.
        with ThreadPoolExecutor(1 if site.server.recipe == "exim" else 3) as pool:
            return list(pool.map(site.doctor, (None, *mistakes)))

    with ThreadPoolExecutor(len(NAMES)) as pool:
        found = pool.map(each, ring.sites)
        return {name: (one, two, three) for name, (one, two, three) in zip(NAMES, found, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_proved_on_the_generated_configuration(
    examined: dict[str, tuple[_Findings, _Findings, _Findings]], name: str
) -> None:
    findings = examined[name][0]
    expected = {
        *("daemon", "check", "peer up", "inbound", "no relay", "peer's mail server", "no loop"),
        *("peer takes its mail", "no way around", "bounces too", "refused in clear"),
    }
    assert {each["check"] for each in findings if each["verdict"] == "proved"} >= expected - _cannot(name), "\n".join(
        _summary(findings)
    )
    # Two stock configurations have no postmaster, as every domain should: said, and no mistake of the tunnel's.
    left = [each for each in findings if each["check"] not in {"peer takes its mail", *_cannot(name)}]
    assert [each for each in _summary(left) if each.startswith("not proved")] == []
    wrong = {each["check"] for each in findings if each["verdict"] == "wrong"}
    assert wrong == ({"refused in clear"} if name == "courier" else set()), _summary(findings)


def _cannot(name: str) -> set[str]:
    """Courier has no rule that would refuse senders on port 25 alone, and doctor says so.

    The other two listen on loopback alone as Debian ships them, and trust their host's own address when they are told
    to listen everywhere, so that doctor cannot show it from there; test_ring does from elsewhere.
    """
    return {"refused in clear"} if name in ("courier", "opensmtpd", "sendmail") else set()


@pytest.mark.parametrize("name", NAMES)
def test_each_mistake_is_found(
    ring: Laboratory, examined: dict[str, tuple[_Findings, _Findings, _Findings]], name: str
) -> None:
    site = ring.site(name)
    _, found, itself = examined[name]
    (relay,) = _wrong(found, "no relay")
    assert "somebody@example.com" in relay["text"]
    assert relay["cure"]
    forgotten = {f"{FORGOTTEN}.{peer}" for peer in site.peers}
    assert {each["about"] for each in _wrong(found, "no way around")} == forgotten
    assert {each["about"] for each in _wrong(found, "bounces too")} == forgotten
    (loop,) = _wrong(itself, "no loop")
    assert f"named {site.name}" in loop["text"]


def test_a_second_way_is_found(ring: Laboratory) -> None:
    """A next hop behind the tunnel's, and a fallback relay: each would carry mail in clear while the tunnel is down."""
    site = ring.site("postfix")
    table = site.machine.path("/etc/postfix/hubtunnel.transport")
    table.write_text(table.read_text().replace("[127.0.1.2]:24", "[127.0.1.2]:24, [198.51.100.1]"))
    site.machine.run("postconf", "-P", "hubtunnel/unix/smtp_fallback_relay=[198.51.100.1]:587")
    try:
        found = _wrong(site.doctor(), "no way around")
    finally:
        site.apply_recipe()
    behind = next(each["text"] for each in found if "[198.51.100.1]:25" in each["text"])
    assert "smtp_fallback_relay [198.51.100.1]:587" in behind
    assert len(found) == len(site.peers), "the fallback relay concerns all of them"


def test_every_address_is_looked_at(ring: Laboratory) -> None:
    """A second address with a listener of its own that has no such rule: the first one's refusal shows nothing."""
    site = ring.site("postfix")
    first, second = site.namespace.address, "198.51.100.200"
    services = (f"127.0.0.1:smtp inet n - y - - smtpd\n{first}:smtp inet n - y - - smtpd\n"
                f"{second}:smtp inet n - y - - smtpd\n")  # fmt: skip
    run("ip", "-n", site.namespace.name, "address", "add", f"{second}/32", "dev", "lo")
    master = site.machine.path("/etc/postfix/master.cf")
    before = master.read_text()
    stock = next(line for line in before.splitlines(keepends=True) if line.startswith("smtp "))
    try:
        master.write_text(before.replace(stock, services))
        site.restart_server()
        clear = [each for each in site.doctor() if each["check"] == "refused in clear"]
        assert {each["verdict"] for each in clear} == {"proved"}  # the control: both have the rule
        assert all("and so at 1 more of this host's addresses" in each["text"] for each in clear)
        site.machine.run("postconf", "-P", f"{second}:smtp/inet/smtpd_sender_restrictions=")
        site.machine.run("postfix", "reload")
        wrong = _wrong(site.doctor(), "refused in clear")
        assert {each["about"] for each in wrong} == set(site.peers)
        assert all(f"[{second}]:25 takes mail from" in each["text"] for each in wrong)
    finally:
        master.write_text(before)
        run("ip", "-n", site.namespace.name, "address", "del", f"{second}/32", "dev", "lo")
        site.restart_server()
