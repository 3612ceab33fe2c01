"""A hub with Postfix on one host, and on another all those that fail it, each in a way of its own and all at once.

Both hosts are machines of tests/mta: mounts, network and host name of their own over this system's files. What each
failure says is read where its operator would read it: Postfix's queue, `status`, the log, `doctor` and `check`.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hubtunnel import cli
from hubtunnel.daemon.control import request
from tests.e2e.hubs import ROOT
from tests.e2e.namespaces import Namespace, two_namespaces
from tests.e2e.processes import Child, run, wait_until
from tests.mta.lab import SystemLog, hubtunnel
from tests.mta.machines import Machine, interpreter, removed_at_end

T = TypeVar("T")

USER = "alice"
NETWORK = "192.0.2"
PYTHON = (sys.executable, "-m", "hubtunnel")
RESOLVER = "127.0.0.1"

# Debian's own main.cf, for a host whose packages were installed without one, with a name and one domain.
_POSTFIX = """
cp /usr/share/postfix/main.cf.debian /etc/postfix/main.cf
cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf
touch /etc/aliases
postconf -e 'myhostname = {host}' 'mydestination = {domains}' 'mynetworks = 127.0.0.0/8' 'inet_interfaces = all' \\
    'smtpd_relay_restrictions = permit_mynetworks reject_unauth_destination' 'smtputf8_enable = no'
newaliases
id {user} >/dev/null 2>&1 || useradd --create-home {user}
"""


@dataclass
class Hub:
    """One hub, all its files in a folder that has the same path on both hosts."""

    who: str
    host: Host
    folder: Path
    address: str
    daemon: Child | None = None
    starts: int = 0

    @property
    def name(self) -> str:
        return f"mx.{self.who}.example"

    @property
    def domain(self) -> str:
        return f"{self.who}.example"

    @property
    def config(self) -> Path:
        return self.folder / "hubtunnel.toml"

    def init(self, *before: str, listen: str = "", deliver: str = "127.0.0.1:26") -> None:
        """`hubtunnel init`; behind a command `before` where one is given."""
        arguments = ("init", "--name", self.name, "--dir", str(self.folder))
        arguments += ("--listen", listen or f"{self.address}:2625", "--deliver", deliver)
        if before:
            run(*before, *PYTHON, *arguments, cwd=ROOT)
        else:
            hubtunnel(*arguments)

    def command(self, *arguments: str) -> str:
        """A command that needs no network, in this process."""
        return hubtunnel("--config", str(self.config), *arguments)

    def says(self, *arguments: str) -> str:
        """A command that asks the daemon or looks at files, in this process, whatever its exit status: what it says."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main(["--config", str(self.config), *arguments])
        return said.getvalue().strip()

    def on_host(self, *arguments: str) -> str:
        """A command on the hub's own host, whatever its exit status: all that it says."""
        words = shlex.join([*PYTHON, "--config", str(self.config), *arguments])
        said = self.host.machine.run("sh", "-c", f"cd {ROOT} && {words} 2>&1", check=False, deadline=120.0)
        return said.strip()

    def introduce(self, other: Hub, *, endpoint: str = "", listen: str = "", domains: Sequence[str] = ()) -> None:
        """Pin another hub, without an endpoint unless one is given."""
        card = self.folder / f"{other.name}.received"
        card.write_text(other.command("card"))
        words = ["peer", "add", str(card), "--fingerprint", other.command("card", "--fingerprint").splitlines()[0]]
        words += ["--endpoint", endpoint] if endpoint else []
        words += ["--listen", listen] if listen else []
        for domain in domains:
            words += ["--domain", domain]
        self.command(*words)

    def edit(self, path: Path, pattern: str, text: str) -> None:
        """As an editor does; fails where there is nothing to change."""
        before = path.read_text()
        after, count = re.subn(pattern, text, before, count=1, flags=re.M)
        assert count, f"{pattern} is not in {path}:\n{before}"
        path.write_text(after)

    def peer_file(self, other: Hub) -> Path:
        return self.folder / "peers.d" / f"{other.name}.toml"

    def start(self, *before: str) -> None:
        """`hubtunnel run`, in the background; behind a command `before` where one is given."""
        self.starts += 1
        argv = self.host.machine.argv([*before, *PYTHON, "--config", str(self.config), "run"])
        self.daemon = Child(f"hubtunnel of {self.name}", argv, self.folder / f"run-{self.starts}.log", cwd=ROOT)

    def wait_until_started(self) -> None:
        assert self.daemon is not None
        daemon = self.daemon
        daemon.wait_for(lambda: " info started " in daemon.log, "the daemon to be started")

    @property
    def log(self) -> str:
        assert self.daemon is not None
        return self.daemon.log

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = request(self.folder / "control.sock", "status")["status"]
        return answer

    def peer(self, other: Hub) -> dict[str, Any]:
        """Of `status`: one peer."""
        return next(peer for peer in self.status()["peers"] if peer["name"] == other.name)

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()


@dataclass
class Host:
    """A machine, and the network it stands in."""

    machine: Machine
    namespace: Namespace
    syslog: SystemLog

    def make_postfix(self, name: str, *domains: str) -> None:
        """Stock Postfix of a host of that name, which takes mail for these domains; not started."""
        self.machine.sh(_POSTFIX.format(host=name, domains=" ".join(domains), user=USER))

    def start_postfix(self, hub: Hub, *others: Hub) -> None:
        """Stock Postfix with what `hubtunnel mta postfix` says of the hub; the domains of `others` are its own too."""
        self.make_postfix(hub.name, *(each.domain for each in (hub, *others)))
        self.machine.run("sh", str(hub.folder / "postfix" / "steps.sh"))
        self.machine.sh("postfix start")
        for port in (25, 26):
            wait_until(partial(self._listens, port), f"Postfix at port {port}", detail=lambda: str(self.syslog.lines))

    def _listens(self, port: int) -> bool:
        return any(self.namespace.listens(address, port) for address in ("0.0.0.0", "127.0.0.1"))

    def send(self, sender: str, recipients: Sequence[str], subject: str = "to all") -> None:
        """One letter to all of them, as a user's program hands it over."""
        letter = f"Subject: {subject}\n\nHello.\n"
        self.machine.feed(["/usr/sbin/sendmail", "-f", sender, *recipients], letter.encode())

    def queue(self) -> dict[str, str]:
        """Recipient -> why it waits, as `postqueue -p` shows it."""
        lines = self.machine.run("postqueue", "-j").splitlines()
        recipients = [recipient for line in lines for recipient in json.loads(line)["recipients"]]
        return {each["address"]: each.get("delay_reason", "") for each in recipients}

    def mailbox(self) -> str:
        path = self.machine.path(f"/var/mail/{USER}")
        return path.read_text() if path.exists() else ""


@contextmanager
def hosts(letters: str, there: Sequence[str], zone: Sequence[str]) -> Iterator[tuple[Path, list[Host]]]:
    """A folder that all see; a host with a name server of these options; others, which share network and addresses."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hubtunnel-failures-")))
        folder.chmod(0o711)
        layers = stack.enter_context(removed_at_end(Path(tempfile.mkdtemp(prefix="hubtunnel-layers-", dir="/dev/shm"))))
        namespaces = stack.enter_context(two_namespaces())
        for address in there:
            run("ip", "-n", namespaces[1].name, "address", "add", f"{address}/24", "dev", namespaces[1].interface)
        dnsmasq = ("dnsmasq", "--no-hosts", "--no-resolv", "--keep-in-foreground", "--pid-file=", "--user=root")
        listens = (f"--listen-address={RESOLVER}", "--bind-interfaces")
        resolver = namespaces[0].start("dnsmasq", [*dnsmasq, *listens, *zone], folder / "dnsmasq.log")
        stack.callback(resolver.stop)

        made = []
        for number, letter in enumerate(letters):
            namespace = namespaces[min(number, 1)]
            syslog = SystemLog(folder / f"{letter}.syslog")
            stack.callback(syslog.close)
            machine = Machine(
                namespace, layers, folder / f"{letter}.machine", host=f"mx.{letter}.example", syslog=syslog.path,
                hosts=f"{namespace.address} mx.{letter}.example {letter}", resolver=RESOLVER,
                shared=(folder, ROOT, *interpreter()),
            )  # fmt: skip
            stack.callback(machine.stop)
            made.append(Host(machine, namespace, syslog))
        yield folder, made


def side_by_side(*jobs: Callable[[], T]) -> list[T]:
    """What each returns, done a few at a time; raises the first error."""
    with ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(job) for job in jobs]]
