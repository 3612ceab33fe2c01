"""What every recipe keeps: who is in it, what may stand in it, and where it may be written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubtunnel.config import Address, Config, Deliver, IpAddress, Peer
from hubtunnel.config.values import HostName, LocalAddress, Pin
from hubtunnel.errors import UsageError
from hubtunnel.mta import NAMES, File, Recipe, flush, make_plan, recipe
from hubtunnel.mta.plan import quotable

INLET = Deliver(address=Address("127.0.0.1", 26), source=IpAddress("127.0.0.25"))
BLIND = ("sendmail", "courier", "qmail")
"""Those that take no PROXY header."""


def _peer(number: int, **fields: object) -> Peer:
    name = f"mx{number}.b.example"
    values = {
        "name": HostName(name),
        "pin": Pin(bytes([number]) * 32),
        "listen": LocalAddress(f"127.0.1.{number}", 24),
        "domains": (HostName(f"b{number}.example"),),
        "deliver": INLET,
    }
    return Peer(**{**values, **fields})


def _hub(*peers: Peer, deliver: Deliver = INLET) -> Config:
    return Config(name=HostName("mx.a.example"), deliver=deliver, peers=peers)


def _text(mta: str, config: Config, smarthost: str | None = None) -> str:
    return _recipe(mta, config, smarthost).text()


def _recipe(mta: str, config: Config, smarthost: str | None = None) -> Recipe:
    if mta in BLIND:
        peers = tuple(msgspec.structs.replace(p, deliver=_blind(p.deliver)) for p in config.peers)
        config = msgspec.structs.replace(config, deliver=_blind(config.deliver), peers=peers)
    return recipe(mta, make_plan(config, smarthost=smarthost))


def _blind(deliver: Deliver) -> Deliver:
    return msgspec.structs.replace(deliver, proxy_protocol="none")


@pytest.mark.parametrize("mta", NAMES)
def test_domains_stand_in_it_with_the_address_of_their_peer(mta: str) -> None:
    text = _text(mta, _hub(_peer(2), _peer(3)))
    for number in (2, 3):
        lines = [line for line in text.splitlines() if f"127.0.1.{number}" in line and not line.startswith("#")]
        assert lines, f"127.0.1.{number}"
        assert f"b{number}.example" in text


@pytest.mark.parametrize("mta", NAMES)
def test_peers_that_are_tested_get_no_mail_and_are_named(mta: str) -> None:
    text = _text(mta, _hub(_peer(2), _peer(3, mode="testing"), _peer(4, domains=()), _peer(5, listen=None)))
    for number in (3, 4, 5):
        assert f"b{number}.example" not in text
        assert f"127.0.1.{number}" not in text
        assert f"mx{number}.b.example is left out" in " ".join(text.split())


@pytest.mark.parametrize("mta", NAMES)
def test_a_smarthost_is_a_peer_that_gets_mail(mta: str) -> None:
    config = _hub(_peer(2), _peer(3, domains=()), _peer(4, mode="testing"))
    for name in ("mx9.b.example", "mx4.b.example"):
        with pytest.raises(UsageError, match=name.replace(".", r"\.")):
            _text(mta, config, name)
    assert "127.0.1.3" in _text(mta, config, "mx3.b.example")


def test_peers_that_differ_at_one_listener_are_refused() -> None:
    other = Deliver(address=INLET.address, source=INLET.source, proxy_protocol="v1")
    with pytest.raises(UsageError, match="proxy_protocol or source"):
        make_plan(_hub(_peer(2), _peer(3, deliver=other)))


@pytest.mark.parametrize("mta", BLIND)
def test_proxy_where_none_is_spoken_is_refused(mta: str) -> None:
    """It would be read as commands, and mail would bounce."""
    with pytest.raises(UsageError, match="proxy_protocol"):
        recipe(mta, make_plan(_hub(_peer(2))))


@pytest.mark.parametrize("kind", ["v1", "none"])
def test_opensmtpd_wants_to_be_told_where_mail_is_from(kind: Literal["v1", "none"]) -> None:
    deliver = msgspec.structs.replace(INLET, proxy_protocol=kind)
    with pytest.raises(UsageError, match="relay"):
        recipe("opensmtpd", make_plan(_hub(_peer(2, deliver=deliver), deliver=deliver)))


@pytest.mark.parametrize("mta", ["exim", "sendmail", "courier"])
def test_the_address_that_may_relay_is_refused_as_a_source(mta: str) -> None:
    for source in (None, IpAddress("127.0.0.1")):
        deliver = Deliver(address=INLET.address, source=source, proxy_protocol="none")
        with pytest.raises(UsageError, match="source"):
            recipe(mta, make_plan(_hub(_peer(2, deliver=deliver), deliver=deliver)))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck: apt-get install shellcheck")
@pytest.mark.parametrize("mta", NAMES)
def test_the_steps_are_sound_shell(mta: str, tmp_path: Path) -> None:
    made = _recipe(mta, _hub(_peer(2), _peer(3)), "mx2.b.example")
    scripts = [path for path in made.write(tmp_path) if path.read_text().startswith("#!/bin/sh")]
    found = subprocess.run(["shellcheck", "--severity=warning", *scripts], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_an_own_listener_tells_a_peer() -> None:
    own = Deliver(address=Address("127.0.0.1", 27), source=INLET.source)
    plan = make_plan(_hub(_peer(2), _peer(3), _peer(4, deliver=own)))
    assert [(inlet.port, inlet.peer) for inlet in plan.inlets] == [(26, None), (27, "mx4.b.example")]


@given(st.text())
def test_nothing_but_names_and_addresses_gets_into_a_recipe(text: str) -> None:
    try:
        assert quotable(text) == text
    except UsageError:
        return
    assert text.isascii()
    assert not set(text) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-")


@pytest.mark.parametrize("text", ["", "a b", "a\nb", "$(id)", "`id`", "a;b", "{x}", "a'b", "a/b", "a,b", "a<b", "ä"])
def test_what_an_mta_would_read_as_more_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        quotable(text)


@pytest.mark.parametrize("folder", ["/etc/postfix", "/etc/mail/m4", "/etc/exim4/conf.d"])
def test_never_into_a_mail_servers_own_folder(folder: str) -> None:
    with pytest.raises(UsageError, match="own folder"):
        Recipe("postfix", (File("x", "y\n"),), "").write(Path(folder))


def test_not_through_a_symbolic_link_either(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/postfix")
    with pytest.raises(UsageError, match="own folder"):
        Recipe("postfix", (File("x", "y\n"),), "").write(tmp_path / "link")


@pytest.mark.parametrize("mta", NAMES)
def test_written_files_are_those_printed(mta: str, tmp_path: Path) -> None:
    made = _recipe(mta, _hub(_peer(2)))
    written = made.write(tmp_path / "out")
    assert {path.name: path.read_text() for path in written} == {file.name: file.text for file in made.every_file()}
    assert (tmp_path / "out" / "steps.sh").stat().st_mode & 0o111
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    assert made.write(tmp_path / "out") == written  # again, when peers have changed


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze: apt-get install systemd")
def test_the_units_that_flush_have_no_mistakes(tmp_path: Path) -> None:
    _recipe("postfix", _hub(_peer(2))).write(tmp_path)
    units = [tmp_path / f"{flush.PROGRAM}.{kind}" for kind in ("path", "service")]
    units[1].write_text(units[1].read_text().replace(flush.INSTALLED, "/bin/true"))

    def mistakes() -> str:
        command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stderr

    assert mistakes() == ""
    units[0].write_text(units[0].read_text().replace("PathExists", "PathExits"))  # the control
    assert "PathExits" in mistakes()


@pytest.mark.skipif(shutil.which("postconf") is None, reason="needs postconf: apt-get install postfix")
def test_postfix_takes_addresses_of_both_families_and_the_steps_twice(tmp_path: Path) -> None:
    """Run twice, the steps leave what they left the first time: a postmaster runs them whenever peers change."""
    if os.geteuid() != 0:
        pytest.skip("needs root: postconf changes files as root alone")
    deliver = Deliver(address=Address("::1", 26))
    six = _peer(3, listen=LocalAddress("::1", 24), deliver=deliver)
    made = recipe("postfix", make_plan(_hub(_peer(2), six, deliver=deliver), smarthost="mx3.b.example"))
    made.write(tmp_path / "recipe")
    steps = (tmp_path / "recipe" / "steps.sh").read_text().partition("\npostfix check")[0]
    conf = tmp_path / "postfix"
    conf.mkdir()
    (conf / "main.cf").write_text("compatibility_level = 3.6\ntransport_maps = hash:/etc/postfix/transport\n")
    (conf / "master.cf").write_text("")
    seen = []
    for _ in range(2):
        subprocess.run(
            ["sh", "-c", steps, str(tmp_path / "recipe" / "steps.sh")],
            check=True,
            capture_output=True,
            env={**os.environ, "MAIL_CONFIG": str(conf)},
        )
        seen.append({path.name: path.read_text() for path in conf.iterdir()})
    assert seen[0] == seen[1]
    assert "texthash:$config_directory/hubtunnel.transport, hash:/etc/postfix/transport" in seen[0]["main.cf"]
    assert "default_transport = hubtunnel:[::1]:24" in seen[0]["main.cf"]
    assert "b3.example hubtunnel:[::1]:24\n" in seen[0]["hubtunnel.transport"]
    read = subprocess.run(["postconf", "-c", str(conf), "-M"], capture_output=True, text=True, check=True)
    assert read.stderr == ""
    services = [line.split()[:2] for line in read.stdout.splitlines() if not line.startswith(" ")]
    assert services == [["hubtunnel", "unix"], ["127.0.0.1:26", "inet"], ["[::1]:26", "inet"]]
