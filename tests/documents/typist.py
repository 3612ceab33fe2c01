"""Types what the documents say on hosts that are as the documents assume: /etc/hubtunnel, /var/lib/hubtunnel, root."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hubtunnel.daemon.control import request
from tests.e2e.hubs import ROOT
from tests.e2e.namespaces import ADDRESSES
from tests.e2e.processes import Child
from tests.failures.lab import Host, hosts
from tests.terminal import Terminal

COMMAND = "/usr/local/bin/hubtunnel"
WORK = "/srv"
"""The folder in which everything is typed."""

_START = ("systemctl start hubtunnel", "systemctl enable --now hubtunnel")
_COMMAND = """\
#!/bin/sh
export PYTHONPATH={root} PYTHONDONTWRITEBYTECODE=1
exec {python} -m hubtunnel "$@"
"""


@dataclass
class Keyboard:
    """Root's terminal on one host. No systemd is there: what it would start is started here, as its unit does."""

    host: Host
    name: str
    folder: Path
    daemon: Child | None = None
    typed: list[str] = field(default_factory=list)

    def types(self, line: str, *answers: tuple[str, str]) -> str:
        """A line and, as they are asked, the answers to its questions; what is shown. Fails unless it ends with 0."""
        self.typed.append(line)
        if line in _START:
            self._start()
            return ""
        command = self.host.machine.argv(["sh", "-c", f"cd {WORK} && {line}"])
        with Terminal(command, environment=_environment()) as terminal:
            shown = ""
            for question, answer in answers:
                shown += terminal.reads(question)
                terminal.types(answer)
            shown += terminal.rest()
            assert terminal.ends() == 0, f"{self.name}: {line}\n{shown}"
        return shown

    def _start(self) -> None:
        self.stop()
        argv = self.host.machine.argv(["hubtunnel", "run"])
        self.daemon = Child(f"hubtunnel of {self.name}", argv, self.folder / f"{self.name}-{len(self.typed)}.log")
        daemon = self.daemon
        daemon.wait_for(lambda: " info started " in daemon.log, "the daemon to be started")

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()
            self.daemon = None

    def wait_until_up(self) -> None:
        """Until mail can cross to the peer."""
        assert self.daemon is not None
        daemon, socket = self.daemon, self.host.machine.path("/run/hubtunnel/control.sock")
        daemon.wait_for(
            lambda: [peer["state"] for peer in request(socket, "status")["status"]["peers"]] == ["up"],
            f"the peer of {self.name} up",
        )

    def path(self, inside: str) -> Path:
        """A file of the host; relative ones lie where everything is typed."""
        return self.host.machine.path(str(Path(WORK, inside)))

    def carries(self, file: str, other: Keyboard) -> None:
        """A file goes to the other host, by whatever way its administrator chose; who may read it is kept."""
        shutil.copy(self.path(file), other.path(file))


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "TERM": "xterm",
        "COLUMNS": "200",
        "LC_ALL": "C.UTF-8",
    }


@contextmanager
def keyboards(letters: str) -> Iterator[list[Keyboard]]:
    """A host for each letter, with this tree's command on it and nothing else of ours."""
    names = [f"mx.{letter}.example" for letter in letters]
    zone = [f"--host-record={name},{address}" for name, address in zip(names, ADDRESSES, strict=False)]
    with ExitStack() as stack:
        folder, made = stack.enter_context(hosts(letters, [], [*zone, "--local=/#/"]))
        found = []
        for host, name in zip(made, names, strict=True):
            command = host.machine.path(COMMAND)
            command.write_text(_COMMAND.format(root=shlex.quote(str(ROOT)), python=shlex.quote(sys.executable)))
            command.chmod(0o755)
            outside = Path(COMMAND)
            assert not (outside.exists() and outside.samefile(command)), "what is typed reaches this machine"
            found.append(Keyboard(host, name, folder))
            stack.callback(found[-1].stop)
        yield found


def introduced(keyboards: Sequence[Keyboard]) -> None:
    """Two hubs that know each other, and run: README.md's own walk, which its test types, without the questions."""
    one, other = keyboards
    for keyboard in keyboards:
        keyboard.host.machine.sh("mkdir -p /run/hubtunnel")
        keyboard.types(f"hubtunnel init --name {keyboard.name}")
    for here, there in ((one, other), (other, one)):
        here.path(f"{there.name}.card").write_bytes(there.path(f"/etc/hubtunnel/{there.name}.card").read_bytes())
        fingerprint = there.types("hubtunnel card --fingerprint").splitlines()[0]
        pinned = f"--domain {there.name.removeprefix('mx.')} --fingerprint {fingerprint}"
        here.types(f"hubtunnel peer add {there.name}.card --endpoint {there.name} {pinned}")
    for keyboard in keyboards:
        keyboard.types("systemctl start hubtunnel")
    for keyboard in keyboards:
        keyboard.wait_until_up()
