"""A Postfix of its own for a hub: configuration, queue, log and maildir in one folder, its sockets in one namespace.

The configuration is the recipe that we give to postmasters, and nothing that would make the test easier: outwards the
`hubtunnel` transport, inwards a dedicated listener on port 26 that insists on a PROXY header and trusts nobody.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tests.e2e.namespaces import Namespace
from tests.e2e.processes import Child, run

SUBMIT = ("127.0.0.1", 587)
"""Where the test hands its letters to the MTA, as a user's mail program would."""

INBOUND = ("127.0.0.1", 26)
"""Where the tunnel hands a peer's mail to the MTA."""

_OUTBOUND_OPTIONS = ("smtp_tls_security_level=none", "smtp_fallback_relay=")

_INBOUND_OPTIONS = (
    "smtpd_upstream_proxy_protocol=haproxy",
    "mynetworks=",
    "smtpd_relay_restrictions=reject_unauth_destination",
    "smtpd_authorized_xclient_hosts=",
    "smtpd_sasl_auth_enable=no",
    "smtpd_tls_security_level=none",
    "syslog_name=postfix/hubtunnel",
)

_INTERNAL_SERVICES = """\
pickup     unix       n - n 60    1 pickup
cleanup    unix       n - n -     0 cleanup
qmgr       unix       n - n 300   1 qmgr
tlsmgr     unix       - - n 1000? 1 tlsmgr
rewrite    unix       - - n -     - trivial-rewrite
bounce     unix       - - n -     0 bounce
defer      unix       - - n -     0 bounce
trace      unix       - - n -     0 bounce
verify     unix       - - n -     1 verify
flush      unix       n - n 1000? 0 flush
proxymap   unix       - - n -     - proxymap
smtp       unix       - - n -     - smtp
relay      unix       - - n -     - smtp
showq      unix       n - n -     - showq
error      unix       - - n -     - error
retry      unix       - - n -     - error
virtual    unix       - n n -     - virtual
anvil      unix       - - n -     1 anvil
scache     unix       - - n -     1 scache
postlog    unix-dgram n - n -     1 postlogd
"""


class Postfix:
    """One running instance. `routes`: domain -> the address where its mail is handed to the tunnel."""

    def __init__(
        self,
        namespace: Namespace,
        directory: Path,
        *,
        hostname: str,
        domains: tuple[str, ...],
        routes: Mapping[str, str],
    ) -> None:
        self.namespace = namespace
        self.hostname = hostname
        self._directory = directory
        self._config = directory / "etc"
        self._log = directory / "mail.log"
        self._maildir = directory / "mail" / "all"
        self._child: Child | None = None
        for folder in (self._config, directory / "queue", directory / "mail", directory / "data"):
            folder.mkdir(parents=True)
        shutil.chown(directory / "data", "postfix")
        shutil.chown(directory / "mail", "nobody")
        (self._config / "main.cf").write_text(self._main_cf(domains))
        (self._config / "master.cf").write_text(_master_cf())
        (self._config / "transport").write_text("".join(f"{key} {value}\n" for key, value in routes.items()))

    def _main_cf(self, domains: tuple[str, ...]) -> str:
        folder = self._directory
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": folder / "queue",
            "data_directory": folder / "data",
            "maillog_file": self._log,
            "maillog_file_prefixes": folder,
            "myhostname": self.hostname,
            "mydestination": "",
            "inet_interfaces": "127.0.0.1",
            "mynetworks": "127.0.0.0/8",
            "alias_maps": "",
            "alias_database": "",
            "virtual_mailbox_domains": " ".join(domains),
            "virtual_mailbox_base": folder / "mail",
            "virtual_mailbox_maps": "static:all/",
            "virtual_uid_maps": f"static:{(folder / 'mail').stat().st_uid}",
            "virtual_gid_maps": "static:65534",
            "virtual_mailbox_limit": "0",
            "message_size_limit": str(64 << 20),
            "transport_maps": f"texthash:{self._config / 'transport'}",
            # Mail that has no route must never find one of its own.
            "default_transport": "error:5.1.2 no route in the laboratory",
            "smtpd_peername_lookup": "no",
            "smtputf8_enable": "yes",
            "smtpd_client_event_limit_exceptions": "192.0.2.0/24",
        }
        return "".join(f"{key} = {value}\n" for key, value in settings.items())

    def extend(
        self,
        main: Mapping[str, str],
        services: Sequence[tuple[str, Sequence[str]]],
        routes: Mapping[str, str],
    ) -> None:
        """Settings that replace ours, services with their options, and further routes; before `start`."""
        for key, value in main.items():
            self._set(key, value)
        with (self._config / "master.cf").open("a") as file:
            file.writelines(_service(line, *options) for line, options in services)
        with (self._config / "transport").open("a") as file:
            file.writelines(f"{key} {value}\n" for key, value in routes.items())

    def set_main(self, key: str, value: str) -> None:
        """Change a setting of the running MTA."""
        self._set(key, value)
        run("postfix", "-c", str(self._config), "reload")

    def _set(self, key: str, value: str) -> None:
        run("postconf", "-c", str(self._config), "-e", f"{key} = {value}")

    def start(self) -> None:
        self._child = self.namespace.start(
            f"postfix of {self.hostname}",
            ["postfix", "-c", str(self._config), "start-fg"],
            self._directory / "postfix.out",
        )

    def wait_until_ready(self) -> None:
        assert self._child is not None
        for address in (SUBMIT, INBOUND):
            self._child.wait_for(
                partial(self.namespace.listens, *address),
                f"a listener on {address}",
                deadline=60.0,
                detail=lambda: self.log,
            )

    def stop(self) -> None:
        """Ends the master and its children by Postfix's own command: they are in a session of their own."""
        if self._child is not None and self._child.running:
            run("postfix", "-c", str(self._config), "stop")
            self._child.stop()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def queued(self) -> list[str]:
        """The queue ids of all messages that still wait, with the reason of each recipient that has one."""
        lines = run("postqueue", "-c", str(self._config), "-j").splitlines()
        return [
            f"{entry['queue_id']} {entry['queue_name']} "
            + "; ".join(r.get("delay_reason", r["address"]) for r in entry["recipients"])
            for entry in map(json.loads, lines)
        ]

    def flush(self) -> None:
        run("postqueue", "-c", str(self._config), "-f")

    def delivered(self) -> list[bytes]:
        """Every file of the maildir in which all local mail ends: one a recipient."""
        return [path.read_bytes() for path in self._delivered_paths()]

    def delivered_count(self) -> int:
        return len(self._delivered_paths())

    def _delivered_paths(self) -> list[Path]:
        folder = self._maildir / "new"
        return list(folder.iterdir()) if folder.is_dir() else []


def _service(line: str, *options: str) -> str:
    return "\n".join([line, *(f"  -o {option}" for option in options)]) + "\n"


def _master_cf() -> str:
    def inet(address: tuple[str, int]) -> str:
        return f"{address[0]}:{address[1]} inet n - n - - smtpd"

    return (
        _service(inet(SUBMIT), "syslog_name=postfix/submit")
        + _service(inet(INBOUND), *_INBOUND_OPTIONS)
        + _service("hubtunnel unix - - n - - smtp", *_OUTBOUND_OPTIONS)
        # The same, but a new connection for every message, and connections kept for as many as there are.
        + _service("hubtunnel-single unix - - n - - smtp", *_OUTBOUND_OPTIONS, "smtp_connection_cache_on_demand=no")
        + _service(
            "hubtunnel-kept unix - - n - - smtp", *_OUTBOUND_OPTIONS, "smtp_connection_cache_destinations=127.0.1.2"
        )
        + _INTERNAL_SERVICES
    )
