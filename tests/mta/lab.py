"""Several machines on one switch, each a hub with a real mail server, a daemon of ours, and nothing else in common."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import shlex
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hubtunnel import cli
from hubtunnel.config.values import LocalAddress
from hubtunnel.daemon.control import request
from hubtunnel.mta import flush
from tests.e2e.hubs import ROOT
from tests.e2e.namespaces import Namespace, switched_namespaces
from tests.e2e.processes import Child, run, wait_until
from tests.mta.machines import Machine, build, interpreter, layers_folder, removed_at_end
from tests.mta.servers import USER, Server, delivered

NETWORK = "198.51.100"
"""TEST-NET-2: sendmail's stock access file refuses TEST-NET-1 by itself."""

NETWORK6 = "2001:db8:98:"
"""For hubs that reach each other by IPv6 alone."""

HERE = "/opt/hubtunnel-mta"
"""Where the recipe's files are put in a machine."""


def hubtunnel(*arguments: str) -> str:
    """One of our commands, in this process and from one thread at a time; its output. Raises when it fails."""
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        status = cli.main(arguments)
    if status != 0:
        raise AssertionError(f"hubtunnel {arguments} ended with {status}\n{output.getvalue()}{errors.getvalue()}")
    return output.getvalue()


class SystemLog:
    """What a machine's programs say to syslog, in a list."""

    def __init__(self, path: Path) -> None:
        self.lines: list[str] = []
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := self._socket.recv(8192):
            self.lines.append(re.sub(r"^<\d+>", "", data.decode(errors="replace")))

    def close(self) -> None:
        """An empty datagram is the end."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join(5)
        self._socket.close()


@dataclass
class Site:
    """One hub. `name` is its host name, its hub name and its mail domain at once, as in all stock configurations."""

    server: Server
    name: str
    namespace: Namespace
    machine: Machine
    syslog: SystemLog
    directory: Path
    peers: dict[str, str] = field(default_factory=dict)  # name -> the address at which its mail is handed over
    daemon: Child | None = None
    _everywhere: bool = False
    _starts: int = 0

    @property
    def user(self) -> str:
        return f"{USER}@{self.name}"

    @property
    def six(self) -> bool:
        """Whether IPv6 is all that there is."""
        return ":" in self.namespace.address

    @property
    def carriers(self) -> str:
        """Where its daemon takes carriers."""
        return f"[{self.namespace.address}]:2625" if self.six else f"{self.namespace.address}:2625"

    @property
    def submission(self) -> tuple[str, int]:
        """Where its users hand in mail. OpenSMTPD listens on `localhost`, which is ::1 where IPv6 is all there is."""
        return ("::1" if self.six and self.server.recipe == "opensmtpd" else "127.0.0.1", 25)

    def inlet(self, port: int) -> str:
        """A listener for mail from the tunnel: of the family of the rest, where no source of its own is needed."""
        return f"[::1]:{port}" if self.six and not self.server.source else f"127.0.0.1:{port}"

    @property
    def config(self) -> Path:
        return self.directory / "hubtunnel.toml"

    def hubtunnel(self, *arguments: str) -> str:
        """One of our commands for this hub."""
        return hubtunnel("--config", str(self.config), *arguments)

    def mailbox(self) -> list[bytes]:
        return delivered(self.server, self.machine)

    def queue(self) -> str:
        return self.machine.sh(self.server.queue, check=False)

    def where_reasons_stand(self) -> str:
        """The queue's listing, or the log: OpenSMTPD lists a text of its own, Courier none."""
        return self.log() if self.server.reasons_in_log else self.queue()

    def queue_empty(self) -> bool:
        listing, nothing = self.queue(), self.server.empty
        return nothing in listing if nothing else not listing.strip()

    def flush_by_hook(self) -> None:
        """Have the program that the recipe's steps have installed run whenever a peer comes back.

        In place of systemd, which would run it inside the machine for the daemon's hook to touch a file.
        """
        argv = shlex.join(self.machine.argv([flush.INSTALLED]))
        text = self.config.read_text()
        self.config.write_text(text.replace("[hooks]\n", f"[hooks]\non_up = '/usr/bin/env {argv}'\n"))
        self.hubtunnel("reload")

    def flush(self) -> None:
        self.machine.sh(self.server.flush)

    def log(self) -> str:
        """Everything that the mail server said."""
        files = (self.machine.path(name) for name in self.server.logs)
        return "\n".join([*self.syslog.lines, *(file.read_text(errors="replace") for file in files if file.exists())])

    def write_recipe(self, *arguments: str) -> None:
        """What an administrator does first: `hubtunnel mta NAME --write DIR`."""
        self.hubtunnel("mta", self.server.recipe, "--write", str(self.directory / "mta"), *arguments)

    def apply_recipe(self) -> None:
        """And then: the steps that are in it, and nothing else."""
        inside = self.machine.path(HERE)
        shutil.rmtree(inside, ignore_errors=True)
        shutil.copytree(self.directory / "mta", inside)
        self.machine.run("sh", f"{HERE}/steps.sh")

    def start_server(self) -> None:
        self.machine.sh(self.server.start)
        for port in (25, 26):
            wait_until(partial(self._listens, port), f"{self.server.name} at port {port}", detail=self.log)

    def restart_server(self) -> None:
        """After its administrator changed something."""
        self.machine.sh(self.server.stop)
        wait_until(lambda: not self._listens(25), f"{self.server.name} to be gone", detail=self.log)
        self.start_server()

    def _listens(self, port: int) -> bool:
        """At any address of either family, by the kernel's own tables."""
        tables = (self.machine.path(f"/proc/1/net/{name}").read_text() for name in ("tcp", "tcp6"))
        lines = (line.split() for table in tables for line in table.splitlines()[1:])
        return any(fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port for fields in lines)

    def start_daemon(self) -> None:
        self._starts += 1
        log = self.directory / f"run-{self._starts}.log"
        argv = self.namespace.argv([sys.executable, "-m", "hubtunnel", "--config", str(self.config), "run"])
        self.daemon = Child(f"hubtunnel of {self.name}", argv, log, cwd=ROOT)

    def wait_until_up(self) -> None:
        """Until every peer is up and the mail server's listeners have passed their probes."""
        assert self.daemon is not None
        daemon = self.daemon

        def ready() -> bool:
            status = self.status()
            return all(peer["state"] == "up" for peer in status["peers"])

        daemon.wait_for(lambda: " info started " in daemon.log, "the daemon to be started")
        wait_until(ready, f"all peers of {self.name} up", detail=self.explain, deadline=30)

    def accept_from_anywhere(self) -> None:
        """Let the stock configuration take mail from other hosts, where Debian's does not: as its comments say."""
        if self.server.listen_everywhere and not self._everywhere:
            self._everywhere = True
            self.machine.sh(self.server.listen_everywhere)
            wait_until(lambda: self.namespace.listens("0.0.0.0", 25), f"{self.name} at every address", detail=self.log)

    def stop_daemon(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()
            self.daemon = None

    def doctor(self, config: Path | None = None) -> list[dict[str, str]]:
        """What `hubtunnel doctor` finds in the machine; `config` is another configuration than the hub's own."""
        command = [sys.executable, "-m", "hubtunnel", "--config", str(config or self.config), "doctor", "--json"]
        said = self.machine.run("sh", "-c", f"cd {ROOT} && {shlex.join(command)}", check=False, deadline=120)
        answer = json.loads(said)
        assert answer["mta"] == self.server.recipe
        findings: list[dict[str, str]] = answer["findings"]
        assert answer["ok"] == all(finding["verdict"] != "wrong" for finding in findings)
        return findings

    def status(self) -> dict[str, Any]:
        """The daemon's own answer."""
        answer: dict[str, Any] = request(self.directory / "control.sock", "status")["status"]
        return answer

    def peer_state(self, other: Site) -> str:
        """As `hubtunnel status` has it."""
        return next(str(peer["state"]) for peer in self.status()["peers"] if peer["name"] == other.name)

    def explain(self) -> str:
        """For a failure's text."""
        daemon = self.daemon.log if self.daemon else "no daemon"
        return f"---- {self.name}\n{self.queue()}\n{self.log()[-6000:]}\n{daemon[-3000:]}"


def _configure(site: Site) -> None:
    """`init`, and the delivery that suits the mail server."""
    hubtunnel(
        "init", "--name", site.name, "--dir", str(site.directory),
        "--listen", site.carriers, "--deliver", site.inlet(26),
    )  # fmt: skip
    text = site.config.read_text()
    deliver = f'proxy_protocol = "{site.server.proxy}"\n' + (
        f'source = "{site.server.source}"\n' if site.server.source else ""
    )
    text = re.sub(r"^#? *(proxy_protocol|source) *=.*\n", "", text, flags=re.MULTILINE)
    site.config.write_text(text.replace("[deliver]\n", f"[deliver]\n{deliver}"))


def _introduce(sites: Sequence[Site], pairs: Iterable[tuple[Site, Site]]) -> None:
    """Pin every pair at both ends; the first of a pair dials."""
    card = {site.name: site.hubtunnel("card") for site in sites}
    fingerprint = {site.name: site.hubtunnel("card", "--fingerprint").split()[0] for site in sites}
    for one, other in pairs:
        for here, there in ((one, other), (other, one)):
            if there.name in here.peers:
                continue
            number = len(here.peers) + 2
            listen = here.peers[there.name] = "::1" if here.six else f"127.0.1.{number}"
            folder = here.directory / "peers.d"
            user = here.machine.run("id", "-u", here.server.user).strip()
            (folder / f"{there.name}.card").write_text(card[there.name])
            endpoint = f'"{there.carriers}"' if here is one else ""
            (folder / f"{there.name}.toml").write_text(
                f'name = "{there.name}"\npin = "{fingerprint[there.name]}"\nendpoints = [{endpoint}]\n'
                f'listen = "{LocalAddress(listen, 24)}"\ndomains = ["{there.name}"]\n'
                # By number: it is a user of that machine, and the daemon has this one's list of users.
                f'listen_users = ["{user}"]\n'
                # A listener for each peer, so that the mail server can tell them apart.
                f'[deliver]\naddress = "{here.inlet(number + 24)}"\n'
            )


@dataclass
class Laboratory:
    """Everything of it; `switch` is the network, with the name server in it."""

    directory: Path
    switch: Namespace
    sites: list[Site]
    switch_name = "mx.stranger.example"

    def site(self, name: str) -> Site:
        return next(site for site in self.sites if site.server.name == name)

    def pair(self, sender: str) -> tuple[Site, Site]:
        """A mail server of the ring and the one that it sends to."""
        return next(pair for pair in next_to(self.sites) if pair[0].server.name == sender)

    def explain(self) -> str:
        return "\n".join(site.explain() for site in self.sites)


def next_to(sites: Sequence[Site]) -> list[tuple[Site, Site]]:
    """Each with the one behind it, and the last with the first."""
    return list(zip(sites, [*sites[1:], sites[0]], strict=True))


DKIM_SELECTOR = "laboratory"


def _make_dkim_key(path: Path) -> str:
    """A key for signatures of all sites; returns what DNS says of it."""
    run("openssl", "genpkey", "-algorithm", "ED25519", "-out", str(path))
    public = path.with_suffix(".public")
    run("openssl", "pkey", "-in", str(path), "-pubout", "-outform", "DER", "-out", str(public))
    return "v=DKIM1; k=ed25519; p=" + base64.b64encode(public.read_bytes()[-32:]).decode()


def _zone(sites: Iterable[tuple[str, str]], switch: str, dkim: str) -> list[str]:
    """Options of dnsmasq: every site with its address and mail exchanger, and nothing else in the world."""
    # example.com exists everywhere; `doctor` counts on it.
    sites = [*sites, (Laboratory.switch_name, switch), ("example.com", switch)]
    options = ["--no-resolv", "--no-hosts", "--local=/#/", "--keep-in-foreground", "--pid-file=", "--user=root"]
    for name, address in sites:
        options += [
            f"--host-record={name},{address}",
            f"--mx-host={name},{name},10",
            f"--txt-record={name},v=spf1 a -all",
            f"--txt-record={DKIM_SELECTOR}._domainkey.{name},{dkim}",
            f"--txt-record=_dmarc.{name},v=DMARC1;p=none",
        ]
    return options


@contextmanager
def laboratory(
    servers: Sequence[tuple[Server, str]],
    pairs: Callable[[Sequence[Site]], Iterable[tuple[Site, Site]]],
    *,
    six: bool = False,
    options: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Iterator[Laboratory]:
    """Machines for `servers` (each with its host name), peers by `pairs`, recipes applied, all of it running.

    `six`: without IPv4 but on loopback; then a site may have one peer. `options` are those of `hubtunnel mta` by site.
    """
    network = f"{NETWORK6}:" if six else f"{NETWORK}."
    addresses = [f"{network}{number}" for number in range(1, len(servers) + 2)]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtunnel-mta-")))
        directory.chmod(0o711)
        layers = stack.enter_context(removed_at_end(layers_folder()))

        def installed(server: Server, name: str, address: str) -> Path:
            hosts = f"{address} {name} {name.partition('.')[0]}"
            return build(server.layer, layers, host=name, domain=name, hosts=hosts, user=USER)

        with ThreadPoolExecutor(3) as pool:
            # The last ones take longest, and begin first.
            futures = [
                pool.submit(installed, server, name, address)
                for (server, name), address in reversed(list(zip(servers, addresses[1:], strict=True)))
            ]
            made = [future.result() for future in reversed(futures)]
        switch, *namespaces = stack.enter_context(switched_namespaces(addresses))
        named = [(name, address) for (_, name), address in zip(servers, addresses[1:], strict=True)]
        zone = _zone(named, switch.address, _make_dkim_key(directory / "dkim.pem"))
        resolver = switch.start(
            "dnsmasq",
            ["dnsmasq", f"--listen-address={switch.address}", "--bind-interfaces", *zone],
            directory / "dnsmasq.log",
        )
        stack.callback(resolver.stop)
        sites = []
        for (server, name), namespace, layer in zip(servers, namespaces, made, strict=True):
            syslog = SystemLog(directory / f"{name}.log")
            stack.callback(syslog.close)
            machine = Machine(
                namespace, layer, directory / f"{name}.machine", host=name, syslog=syslog.path,
                # As Debian has it; where there is IPv4 nothing here asks for it.
                hosts=f"{namespace.address} {name} {name.partition('.')[0]}" + "\n::1 localhost ip6-localhost" * six,
                resolver=switch.address,
                shared=(directory, ROOT, *interpreter()),
            )  # fmt: skip
            stack.callback(machine.stop)
            site = Site(server, name, namespace, machine, syslog, directory / f"{name}.hub")
            sites.append(site)
            _configure(site)
        _introduce(sites, pairs(sites))

        for site in sites:
            site.write_recipe(*options.get(site.name, ()))  # our commands run in this process, one after the other
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(_begin, sites))
        stack.callback(_end, sites)
        for site in sites:
            site.start_daemon()
        for site in sites:
            site.wait_until_up()
        yield Laboratory(directory, switch, sites)


def _end(sites: Sequence[Site]) -> None:
    """The mail servers first: a daemon lets conversations end, and Courier keeps its own for a minute."""
    for site in sites:
        site.machine.stop()
    with ThreadPoolExecutor(len(sites)) as pool:
        list(pool.map(Site.stop_daemon, sites))


def astray(peer: str) -> str:
    """The alias of every site that leads to nobody at this peer."""
    return f"astray-{peer.replace('.', '-')}"


def _begin(site: Site) -> None:
    """The aliases are what a site's users have, and lead back to each peer, where nobody is."""
    lines = "".join(f"{astray(peer)}: nobody-at-all@{peer}\n" for peer in site.peers)
    site.machine.sh(f"printf '%s' '{lines}' >>{site.server.aliases}; {site.server.make_aliases}")
    site.apply_recipe()
    site.start_server()
