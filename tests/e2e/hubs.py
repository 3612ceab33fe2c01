"""Hubs of ours for a test: set up by the command line as an admin would, and run as real daemons."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.e2e.namespaces import Namespace
from tests.e2e.processes import Child, run, wait_until

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder: `-m hubtunnel` finds the package there, installed or not."""

_COMMAND = (sys.executable, "-m", "hubtunnel")


class Hub:
    """One hub with all its files in one folder; inside `namespace`, or on this machine's own network without one.

    `package` is the folder in which the package stands that it runs.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        listen: str,
        deliver: str,
        namespace: Namespace | None,
        package: Path = ROOT,
    ) -> None:
        self.name = name
        self.directory = directory
        self._package = package
        self._namespace = namespace
        self._child: Child | None = None
        self._starts = 0
        init = ["init", "--name", name, "--dir", str(directory), "--listen", listen, "--deliver", deliver]
        run(*_COMMAND, *init, cwd=self._package)

    @property
    def config(self) -> Path:
        return self.directory / "hubtunnel.toml"

    def _argv(self, *arguments: str) -> list[str]:
        argv = [*_COMMAND, "--config", str(self.config), *arguments]
        return argv if self._namespace is None else self._namespace.argv(argv)

    def _command(self, *arguments: str) -> str:
        return run(*self._argv(*arguments), cwd=self._package)

    @property
    def fingerprint(self) -> str:
        return self._command("card", "--fingerprint").split()[0]

    def introduce(self, peer: Hub, *, listen: str, domains: Sequence[str] = (), endpoint: str | None = None) -> None:
        """Pin `peer` here by its card, as two admins who compared fingerprints do."""
        card = self.directory / f"{peer.name}.received.card"
        card.write_text(peer._command("card"))
        arguments = ["--listen", listen, "--fingerprint", peer.fingerprint]
        for domain in domains:
            arguments += ["--domain", domain]
        if endpoint is not None:
            arguments += ["--endpoint", endpoint]
        self._command("peer", "add", str(card), *arguments)

    def configure_peer(self, peer: Hub, *lines: str) -> None:
        """Add lines to the peer's file, as an admin with an editor does; before `start`."""
        with self._peer_file(peer).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def configure(self, setting: str) -> None:
        """Put a setting in the place of its default in the hub's file, and reload: in force when this returns."""
        key = setting.partition(" =")[0]
        text, found = re.subn(rf"^# {key} = .*$", setting, self.config.read_text(), flags=re.MULTILINE)
        assert found == 1, setting
        self.config.write_text(text)
        self._command("reload")

    def move_peer(self, peer: Hub, *endpoints: str) -> None:
        """Give the peer's file other endpoints, and reload: in force when this returns."""
        file = self._peer_file(peer)
        listed = ", ".join(f'"{endpoint}"' for endpoint in endpoints)
        file.write_text(re.sub(r"^endpoints = .*$", f"endpoints = [{listed}]", file.read_text(), flags=re.MULTILINE))
        self._command("reload")

    def _peer_file(self, peer: Hub) -> Path:
        return self.directory / "peers.d" / f"{peer.name}.toml"

    def start(self, *, loop: str = "uvloop") -> None:
        self._starts += 1
        log = self.directory / f"run-{self._starts}.log"
        self._child = Child(f"hubtunnel of {self.name}", self._argv("run", "--loop", loop), log, cwd=self._package)

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    @property
    def log(self) -> str:
        return self._child.log if self._child is not None else ""

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._command("status", "--json"))
        return answer

    def peer_status(self) -> dict[str, Any]:
        """Of the one peer that a hub in these tests has."""
        (peer,) = self.status()["peers"]
        assert isinstance(peer, dict)
        return peer

    def wait_until_started(self) -> None:
        """Until its listeners stand."""
        self._wait_for_event("started")

    def wait_until_up(self) -> None:
        """Until the session with the peer stands. The log tells it sooner than a `status` command could."""
        self._wait_for_event("peer_up")

    def _wait_for_event(self, event: str) -> None:
        assert self._child is not None
        child = self._child
        child.wait_for(lambda: f" info {event} " in child.log, f"`{event}` in the log")

    def wait_until_idle(self) -> None:
        """Until no stream is open any more."""
        wait_until(
            lambda: self.peer_status()["streams"]["open"] == 0,
            "no open streams",
            detail=lambda: str(self.peer_status()),
        )

    def stop(self) -> int:
        """By SIGTERM; the exit status of the daemon."""
        return self._child.stop() if self._child is not None else 0

    def kill(self) -> None:
        """By SIGKILL, as a crash ends it."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()
