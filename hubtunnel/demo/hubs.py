"""The two hubs of the demo: real daemon processes, set up and asked with the commands that an administrator types."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hubtunnel
from hubtunnel.daemon.control import request
from hubtunnel.demo.proofs import DemoError
from hubtunnel.errors import HubtunnelError

COMMAND_TIMEOUT_S = 20.0
UP_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 5.0
POLL_S = 0.05
LOG_LINES = 15


class Hub:
    """One hub in its own folder: its configuration, its keys and, once started, its daemon."""

    def __init__(self, name: str, folder: Path, *, listen: int, submit: int, deliver: int) -> None:
        self.name = name
        self.folder = folder
        self.listen = listen  # carriers from the peer
        self.submit = submit  # where mail for the peer is handed to this hub
        self.deliver = deliver  # the sink behind this hub
        self.domain = name.split(".", 1)[1]
        self.log = folder.parent / f"{folder.name}.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def config(self) -> Path:
        """Its `hubtunnel.toml`."""
        return self.folder / "hubtunnel.toml"

    async def make(self) -> None:
        """`init`: identity, keys, card and configuration. Ports above 1023, since there is no root here."""
        await _run(
            "init", "--name", self.name, "--dir", str(self.folder),
            "--listen", f"127.0.0.1:{self.listen}", "--deliver", f"127.0.0.1:{self.deliver}",
        )  # fmt: skip

    def configure(self, section: str, **settings: str) -> None:
        """Edit the configuration as one would by hand: settings put right under their section's heading."""
        text = self.config.read_text()
        heading = f"[{section}]\n"
        if heading not in text:
            raise DemoError(f"{self.config}: has no section [{section}]")
        lines = "".join(f'{key} = "{value}"\n' for key, value in settings.items())
        self.config.write_text(text.replace(heading, heading + lines, 1))

    def configure_peer(self, peer: Hub, **settings: str) -> None:
        """The same for the file of a peer, whose settings stand before any section."""
        file = self.folder / "peers.d" / f"{peer.name}.toml"
        lines = "".join(f'{key} = "{value}"\n' for key, value in settings.items())
        file.write_text(lines + file.read_text())

    async def card(self) -> tuple[str, str]:
        """Its card, armoured, and the fingerprint that two administrators compare."""
        card = json.loads(await self.command("card", "--json"))
        return card["card"], card["fingerprint"]

    async def introduce(self, peer: Hub, card: str, fingerprint: str, endpoint: int | None) -> None:
        """`peer add` for another hub; without an `endpoint` that hub dials us."""
        file = self.folder.parent / f"{peer.name}.card"
        file.write_text(card)
        dial = [] if endpoint is None else ["--endpoint", f"127.0.0.1:{endpoint}"]
        await self.command(
            "peer", "add", str(file), "--fingerprint", fingerprint, "--domain", peer.domain,
            "--listen", f"127.0.0.1:{self.submit}", *dial,
        )  # fmt: skip

    async def command(self, *arguments: str) -> str:
        """Run a command for this hub and return what it printed. Raises `DemoError` with what it complained of."""
        return await _run("--config", str(self.config), *arguments)

    async def status(self) -> dict[str, Any]:
        """The entry of its one peer in `status --json`."""
        peer: dict[str, Any] = json.loads(await self.command("status", "--json"))["peers"][0]
        return peer

    async def glance(self) -> dict[str, Any]:
        """The same, without starting a program for it: for who looks often. Raises `HubtunnelError`."""
        peer: dict[str, Any] = (await self.ask("status"))["status"]["peers"][0]
        return peer

    async def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask the running daemon over its control socket, as commands do. Raises `HubtunnelError`."""
        return await asyncio.to_thread(request, self.folder / "control.sock", command, **arguments)

    async def start(self) -> None:
        """Start the daemon, in a process group of its own: Ctrl-C is for the demo, which stops it in good order."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "hubtunnel", "--config", str(self.config), "run",
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), start_new_session=True,
            )  # fmt: skip

    async def wait_until(self, state: str) -> None:
        """Ask for the status until its peer is in `state`. Raises `DemoError` with the log's end."""
        deadline = time.monotonic() + UP_TIMEOUT_S
        problem = ""
        while time.monotonic() < deadline:
            if self._process is None or self._process.returncode is not None:
                raise DemoError(f"the daemon of {self.name} ended:\n{self.log_end()}")
            try:
                now = (await self.glance())["state"]
            except HubtunnelError as error:  # its control socket is not there yet
                problem = str(error)
            else:
                if now == state:
                    return
                problem = f"its peer is {now}"
            await asyncio.sleep(POLL_S)
        raise DemoError(f"{self.name} was not {state} within {UP_TIMEOUT_S:.0f} s: {problem}\n{self.log_end()}")

    async def stop(self) -> None:
        """End the daemon with SIGTERM, or with SIGKILL if that takes too long or we are cancelled meanwhile."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        except asyncio.CancelledError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise

    def log_end(self) -> str:
        """The last lines of the daemon's log."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(lines[-LOG_LINES:])


def _environment() -> dict[str, str]:
    """Ours, such that `-m hubtunnel` is this very package and not a folder of that name where the user stands."""
    package = str(Path(hubtunnel.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


async def _run(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hubtunnel", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )  # fmt: skip
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            output, complaints = await process.communicate()
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise DemoError(f"hubtunnel {' '.join(arguments)}: no end after {COMMAND_TIMEOUT_S:.0f} s") from None
        raise
    if process.returncode != 0:
        raise DemoError(
            f"hubtunnel {' '.join(arguments)} ended with status {process.returncode}:\n{complaints.decode().strip()}"
        )
    return output.decode()
