"""The unit under a real systemd, with all its restrictions: two hubs, real mail, reload, restart, a hang, credentials.

Hub A is what an administrator installs: the unit files of contrib/systemd, the user made by systemd-sysusers, files in
/etc/hubtunnel and /var/lib/hubtunnel. Hub B is a plain daemon.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hubtunnel.mta import flush
from tests.e2e.carriers import CARRIER_PORT
from tests.e2e.hubs import ROOT, Hub
from tests.e2e.lab import TUNNEL, Laboratory, laboratory
from tests.e2e.letters import expected_arrivals, make_letters
from tests.e2e.postfix import INBOUND
from tests.e2e.processes import missing, wait_until
from tests.package import program
from tests.package.booted import Machine, working_folder

pytestmark = [pytest.mark.e2e, pytest.mark.root, pytest.mark.slow]

UNIT = "hubtunnel.service"
SOCKET = "hubtunnel.socket"
UNITS = ROOT / "contrib" / "systemd"
PROGRAMS = (
    "ip",
    "nsenter",
    "postfix",
    "postqueue",
    "setpriv",
    "systemctl",
    "systemd-creds",
    "systemd-sysusers",
    "unshare",
)


def lacking() -> str:
    """Why there can be no such machine here; empty when there can."""
    if os.geteuid() != 0:
        return "needs root (namespaces and a systemd of its own): run as root"
    if not Path("/lib/systemd/systemd").exists():
        return "needs systemd: apt-get install systemd"
    absent = missing(PROGRAMS)
    return f"needs {', '.join(absent)}: apt-get install iproute2 postfix systemd util-linux" if absent else ""


class Tunnel:
    """Hub A as a service of `machine`, hub B beside it."""

    def __init__(self, lab: Laboratory, machine: Machine, far: Hub) -> None:
        self.lab = lab
        self.machine = machine
        self.far = far
        self._letters = 0

    @property
    def pid(self) -> int:
        """Of the daemon, inside the machine."""
        return int(self.machine.shown(UNIT, "MainPID"))

    def proc(self, name: str) -> str:
        return self.machine.path(f"/proc/{self.pid}/{name}").read_text()

    def wait_until_up(self) -> None:
        wait_until(
            lambda: self.machine.shown(UNIT, "StatusText") == "1 of 1 peers up",
            "the peer up",
            detail=lambda: self.machine.journal(UNIT) + self.far.log,
        )

    def mail_flows(self) -> None:
        """A letter of every shape each way, whole."""
        self._letters += 1
        a, b = self.lab.a, self.lab.b
        for site in (a, b):
            site.postfix.flush()  # forgets that a destination was away
        ways = ((a, b, "a"), (b, a, "b"))
        for site, other, letter in ways:
            prefix = f"{letter}{self._letters}"
            letters = make_letters(8, prefix=prefix, sender_domain=site.domain, domains=other.domains)
            before = self.lab.arrivals(other)
            self.lab.submit(site, letters)
            expected = before + expected_arrivals(letters)
            wait_until(
                lambda other=other, expected=expected: self.lab.arrivals(other) == expected,
                "all letters",
                deadline=45.0,
                detail=self.lab.explain,
            )

    def refused_during_restart(self) -> int:
        """Restart the service, and meanwhile connect to it again and again; how often that was refused."""
        namespace = self.lab.a.namespace
        done = threading.Event()

        def ask(address: tuple[str, int]) -> int:
            refused = 0
            while not done.is_set():
                try:
                    namespace.connect(*address).close()
                except ConnectionRefusedError:
                    refused += 1
                time.sleep(0.01)
            return refused

        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask, address) for address in (TUNNEL, (namespace.address, CARRIER_PORT))]
            try:
                self.machine.systemctl("restart", UNIT)
                self.wait_until_up()
            finally:
                done.set()
            return sum(one.result() for one in asked)


@pytest.fixture(scope="module")
def tunnel() -> Iterator[Tunnel]:
    reason = lacking()
    if reason:
        pytest.skip(reason)
    with ExitStack() as stack:
        lab = stack.enter_context(laboratory())
        folder = stack.enter_context(working_folder())
        machine = Machine(lab.a.namespace, [Path("/")], folder / "a", host="mx.a.example", binds=program.binds())
        stack.callback(machine.stop)
        far = Hub(
            "mx.b.example",
            lab.directory / "hub-b",
            listen=f"{lab.b.namespace.address}:{CARRIER_PORT}",
            deliver=":".join(map(str, INBOUND)),
            namespace=lab.b.namespace,
        )
        stack.callback(far.stop)
        yield _introduced(lab, machine, far)


def _introduced(lab: Laboratory, machine: Machine, far: Hub) -> Tunnel:
    program.install(machine)
    for name, where in (("hubtunnel.service", "lib/systemd/system"), ("hubtunnel.sysusers", "usr/lib/sysusers.d")):
        shutil.copy(UNITS / name, machine.path(f"/{where}/{name.replace('.sysusers', '.conf')}"))
    # Should this very system be a hub: it keeps its files, and the machine must not have them.
    machine.run("rm", "-rf", "/etc/hubtunnel", "/var/lib/hubtunnel")
    machine.run("systemd-sysusers")
    machine.run("systemctl", "daemon-reload")
    machine.run("hubtunnel", "init", "--name", "mx.a.example")
    machine.path("/run/b.card").write_text(far._command("card"))
    (far.directory / "a.card").write_text(machine.run("hubtunnel", "card"))
    domains = [part for domain in lab.b.domains for part in ("--domain", domain)]
    endpoint = f"{lab.b.namespace.address}:{CARRIER_PORT}"
    machine.run(
        *("hubtunnel", "peer", "add", "/run/b.card", "--fingerprint", far.fingerprint),
        *("--endpoint", endpoint, "--listen", ":".join(map(str, TUNNEL)), *domains),
    )
    fingerprint = machine.run("hubtunnel", "card", "--fingerprint").split()[0]
    far._command(
        *("peer", "add", str(far.directory / "a.card"), "--fingerprint", fingerprint),
        *("--listen", ":".join(map(str, TUNNEL)), "--domain", lab.a.domain),
    )
    far.start()
    far.wait_until_started()
    machine.systemctl("start", UNIT)
    tunnel = Tunnel(lab, machine, far)
    tunnel.wait_until_up()
    return tunnel


def test_mail_flows_both_ways(tunnel: Tunnel) -> None:
    tunnel.mail_flows()


def test_the_restrictions_are_in_force(tunnel: Tunnel) -> None:
    """What the kernel itself says of the process, beside what it says of one without the unit."""
    status = dict(line.split(":\t", 1) for line in tunnel.proc("status").splitlines())
    free = dict(line.split(":\t", 1) for line in tunnel.machine.path("/proc/1/status").read_text().splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert (free["NoNewPrivs"], free["Seccomp"]) == ("0", "0")
    bind_service = 1 << 10
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")] == [bind_service] * 4
    user = int(tunnel.machine.run("id", "-u", "hubtunnel"))
    assert status["Uid"].split() == [str(user)] * 4
    assert [line for line in tunnel.proc("maps").splitlines() if " rwx" in line] == []
    mounts = tunnel.proc("mountinfo")
    assert re.search(r" / / ro[, ]", mounts), mounts
    # Where the machine itself may not lift limits (no CAP_SYS_RESOURCE), neither can its systemd.
    locks = re.search(r"^Max locked memory +unlimited", tunnel.proc("limits"), flags=re.M)
    assert (int(status["VmLck"].split()[0]) > 0) == (locks is not None)


def test_the_daemon_cannot_what_the_unit_forbids(tunnel: Tunnel) -> None:
    """Tried by a program of our own under the very same unit: it says which of these worked."""
    tries = {
        "write below /etc": "open('/etc/hubtunnel/x', 'w')",
        "write into its own program": "open('/opt/x', 'w')",
        "see root's files": "__import__('os').listdir('/root')",
        "make memory executable": "__import__('mmap').mmap(-1, 4096, prot=7)",
        "mount": "libc.mount(b'none', b'/run/hubtunnel', b'tmpfs', 0, 0) and fail()",
        "raise its priority": "__import__('os').nice(1)",
        "open a raw socket": "__import__('socket').socket(17, 3, 0)",
    }
    allowed = {
        "write its state": "open('/var/lib/hubtunnel/x', 'w')",
        "take port 24": "__import__('socket').create_server(('127.0.0.9', 24))",
        "lock memory": "libc.mlock(ctypes.create_string_buffer(64), 64) and fail()",
        "set a limit": "__import__('resource').setrlimit(4, (0, 0))",
    }
    script = [
        "import ctypes",
        "libc = ctypes.CDLL(None, use_errno=True)",
        "def fail(): raise OSError(ctypes.get_errno(), 'libc')",
        "def attempt(name, code):",
        "    try: eval(code)",
        "    except OSError: print('could not', name, flush=True)",
        "    else: print('could', name, flush=True)",
        *(f"attempt({name!r}, {code!r})" for name, code in {**tries, **allowed}.items()),
    ]
    machine = tunnel.machine
    machine.path("/opt/tries.py").write_text("\n".join(script))
    unit = (UNITS / "hubtunnel.service").read_text()
    unit = re.sub(
        r"^(Type|NotifyAccess|WatchdogSec|ExecReload|Restart\w*|RuntimeDirectory\w*)=.*\n", "", unit, flags=re.M
    )
    interpreter = machine.path(program.PROGRAM).read_text().rpartition("exec ")[2].split()[0]
    unit = unit.replace("ExecStart=/usr/bin/hubtunnel run", f"Type=oneshot\nExecStart={interpreter} /opt/tries.py")
    machine.path("/etc/systemd/system/tries.service").write_text(unit)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "tries.service", check=False)
    said = re.findall(r": (could(?: not)? .*)$", machine.journal("tries.service"), flags=re.M)
    assert said == [f"could not {name}" for name in tries] + [f"could {name}" for name in allowed]


def test_the_users_of_a_listener_are_known_under_the_restrictions(tunnel: Tunnel) -> None:
    machine = tunnel.machine
    file = machine.path("/etc/hubtunnel/peers.d/mx.b.example.toml")
    before = file.read_text()

    def greeting(user: str) -> str:
        connect = f"exec 3<>/dev/tcp/{TUNNEL[0]}/{TUNNEL[1]}; head -n 1 <&3"
        return machine.run("setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", "bash", "-c", connect)

    file.write_text(f'listen_users = ["daemon"]\n{before}')
    try:
        machine.systemctl("reload", UNIT)
        assert greeting("daemon").startswith("220 ")
        assert greeting("bin").startswith("421 4.4.1 hubtunnel: mx.b.example: user: connections of uid 2 are not taken")
    finally:
        file.write_text(before)
        machine.systemctl("reload", UNIT)
    assert greeting("bin").startswith("220 ")


def test_a_hook_has_root_flush_the_queue(tunnel: Tunnel) -> None:
    """The units that `hubtunnel mta` makes, and the hook that docs/MTA.md has; the queue is another test's."""
    machine = tunnel.machine
    machine.run("hubtunnel", "mta", "postfix", "--write", "/opt/recipe")
    program = machine.path(f"/opt/recipe/{flush.PROGRAM}")
    text = program.read_text()
    assert "\npostqueue -f\n" in text
    program.write_text(text.replace("postqueue -f", "id -u >>/opt/flushed"))
    machine.run("sh", "-euc", f"cd /opt/recipe\n{flush.STEPS}")
    flushed = machine.path("/opt/flushed")
    file = machine.path("/etc/hubtunnel/hubtunnel.toml")
    before = file.read_text()
    file.write_text(before.replace('# on_up = ""', f'on_up = "{flush.HOOK}"'))
    try:
        assert not flushed.exists()
        machine.systemctl("restart", UNIT)
        for times in (1, 2):
            wait_until(
                lambda times=times: flushed.exists() and flushed.read_text() == "0\n" * times,
                "root to flush the queue",
                detail=lambda: machine.journal(UNIT) + machine.journal(f"{flush.PROGRAM}.*"),
            )
            if times == 1:  # what it did once it does again
                machine.run("setpriv", "--reuid=hubtunnel", "--regid=hubtunnel", "--clear-groups", *flush.HOOK.split())
        assert not machine.path(flush.ASKED).exists()
    finally:
        machine.run("systemctl", "disable", "--now", f"{flush.PROGRAM}.path")
        file.write_text(before)
        machine.systemctl("restart", UNIT)
        tunnel.wait_until_up()


def test_reload_is_synchronous(tunnel: Tunnel) -> None:
    """`systemctl reload` returns when the new configuration is in force, and fails with one that is wrong."""
    machine, pid = tunnel.machine, tunnel.pid
    file = machine.path("/etc/hubtunnel/hubtunnel.toml")
    before = file.read_text()
    file.write_text(before.replace('# level = "info"', 'level = "debug"'))
    machine.systemctl("reload", UNIT)
    assert ": reloaded " in machine.journal(UNIT)
    file.write_text(before + "\n[nonsense]\n")
    assert "failed" in machine.run("systemctl", "reload", UNIT, check=False)
    assert "nonsense" in machine.journal(UNIT)
    assert (machine.shown(UNIT, "ActiveState"), tunnel.pid) == ("active", pid)
    file.write_text(before)
    machine.systemctl("reload", UNIT)
    tunnel.mail_flows()


def test_restart_costs_no_mail(tunnel: Tunnel) -> None:
    pid = tunnel.pid
    tunnel.machine.systemctl("restart", UNIT)
    assert tunnel.pid != pid
    tunnel.wait_until_up()
    tunnel.mail_flows()


def test_a_restart_refuses_connections_unless_systemd_holds_the_sockets(tunnel: Tunnel) -> None:
    """Asked at the MTA's handover and at the carrier port all the while; without the socket unit as the control."""
    machine = tunnel.machine
    assert tunnel.refused_during_restart() > 0, "nothing was seen of the restart"
    shutil.copy(UNITS / SOCKET, machine.path(f"/lib/systemd/system/{SOCKET}"))
    folder = machine.path(f"/etc/systemd/system/{SOCKET}.d")
    folder.mkdir()
    (folder / "peers.conf").write_text(f"[Socket]\nListenStream={TUNNEL[0]}:{TUNNEL[1]}\n")
    try:
        machine.run("systemctl", "daemon-reload")
        machine.systemctl("stop", UNIT)
        machine.systemctl("start", SOCKET)
        machine.systemctl("start", UNIT)
        tunnel.wait_until_up()
        assert tunnel.refused_during_restart() == 0
        tunnel.mail_flows()
    finally:
        machine.run("systemctl", "stop", SOCKET, UNIT)
        shutil.rmtree(folder)
        machine.path(f"/lib/systemd/system/{SOCKET}").unlink()
        machine.run("systemctl", "daemon-reload")
        machine.systemctl("start", UNIT)
        tunnel.wait_until_up()


def test_status_names_peers_up_and_down(tunnel: Tunnel) -> None:
    tunnel.far.stop()
    try:
        wait_until(lambda: tunnel.machine.shown(UNIT, "StatusText") == "0 of 1 peers up", "the peer down")
    finally:
        tunnel.far.start()
    tunnel.wait_until_up()


@contextmanager
def changed(machine: Machine, *lines: str) -> Iterator[None]:
    """Lines for the service, as `systemctl edit` takes them; the service itself is left to the caller."""
    folder = machine.path("/etc/systemd/system/hubtunnel.service.d")
    folder.mkdir()
    (folder / "test.conf").write_text("\n".join(["[Service]", *lines, ""]))
    machine.run("systemctl", "daemon-reload")
    try:
        yield
    finally:
        shutil.rmtree(folder)
        machine.run("systemctl", "daemon-reload")


def test_a_daemon_that_hangs_is_started_anew(tunnel: Tunnel) -> None:
    """Stopped as a loop that hangs would be: systemd hears nothing more from it, ends it and starts another one."""
    machine = tunnel.machine
    with changed(machine, "WatchdogSec=4s", "RestartSec=100ms"):
        machine.systemctl("restart", UNIT)
        pid = tunnel.pid
        machine.run("kill", "-STOP", str(pid))
        wait_until(lambda: tunnel.pid not in (0, pid), "another daemon", detail=lambda: machine.journal(UNIT))
        assert "Watchdog timeout (limit 4s)!" in machine.journal(UNIT)
        assert int(machine.shown(UNIT, "NRestarts")) > 0
        tunnel.wait_until_up()


def test_it_starts_as_soon_as_what_kept_it_from_starting_is_gone(tunnel: Tunnel) -> None:
    """And there is no number of attempts after which systemd gives up."""
    machine = tunnel.machine
    assert machine.shown(UNIT, "StartLimitIntervalUSec") == "0"
    machine.systemctl("stop", UNIT)
    with changed(machine, "RestartSec=10ms"):
        with tunnel.lab.a.namespace.listen(*TUNNEL):
            machine.run("systemctl", "start", UNIT, check=False)
            refusal = f"cannot listen on {TUNNEL[0]} port {TUNNEL[1]}: Address already in use"
            wait_until(
                lambda: machine.journal(UNIT).count(refusal) > 1,
                "two attempts",
                deadline=30.0,
                detail=lambda: machine.journal(UNIT)[-6000:],
            )
        tunnel.wait_until_up()


def test_credentials_as_the_unit_has_them_in_comments(tunnel: Tunnel) -> None:
    """With the comment signs taken away: the identity key under a passphrase, and the peer's pre-shared key, sealed."""
    machine = tunnel.machine
    passphrase = "correct horse battery staple"
    machine.run("hubtunnel", "key", "passphrase", "--identity", text=f"{passphrase}\n")
    shared = machine.run("hubtunnel", "key", "psk", "mx.b.example")
    file = machine.path("/etc/hubtunnel/peers.d/mx.b.example.psk")
    secret = file.read_text()
    assert secret.split()[-1] in shared
    # The far hub's administrator has typed it in; here in a file of the same form.
    far = tunnel.far.directory / "peers.d" / "mx.a.example.psk"
    far.write_text(secret)
    far.chmod(0o600)
    theirs = far.with_suffix(".toml")
    theirs.write_text(f'psk_file = "{far.name}"\n{theirs.read_text()}')
    tunnel.far._command("reload")
    for name, text in (("identity.passphrase", passphrase), ("mx.b.example.psk", secret)):
        sealed = f"/etc/hubtunnel/{name}.cred"
        machine.run("systemd-creds", "encrypt", "--with-key=host", f"--name={name}", "-", sealed, text=text)
        assert text.strip() not in machine.path(sealed).read_text()
    peer = machine.path("/etc/hubtunnel/peers.d/mx.b.example.toml")
    peer.write_text(
        re.sub(r"^psk_file = .*$", 'psk_file = "credential:mx.b.example.psk"', peer.read_text(), flags=re.M)
    )
    assert "credential:" in peer.read_text()
    file.unlink()
    unit = machine.path("/lib/systemd/system/hubtunnel.service")
    unit.write_text(unit.read_text().replace("#LoadCredentialEncrypted=", "LoadCredentialEncrypted="))
    machine.run("systemctl", "daemon-reload")
    machine.systemctl("restart", UNIT)
    tunnel.wait_until_up()
    cards = machine.run("hubtunnel", "key", "list")
    machine.run("hubtunnel", "key", "rotate")
    assert machine.run("hubtunnel", "key", "list") != cards, "a passphrase was asked for, or nothing happened"
    machine.systemctl("reload", UNIT)  # its process is told of the credentials' folder and may not look into it
    tunnel.mail_flows()


def test_a_configuration_that_is_wrong_is_not_tried_again(tunnel: Tunnel) -> None:
    machine = tunnel.machine
    file = machine.path("/etc/hubtunnel/hubtunnel.toml")
    before = file.read_text()
    file.write_text(before + "\n[nonsense]\n")
    try:
        machine.run("systemctl", "restart", UNIT, check=False)
        wait_until(lambda: machine.shown(UNIT, "ActiveState") == "failed", "the service failed")
        assert (machine.shown(UNIT, "ExecMainStatus"), machine.shown(UNIT, "NRestarts")) == ("2", "0")
    finally:
        file.write_text(before)
        machine.systemctl("restart", UNIT)
        tunnel.wait_until_up()


def test_stop_is_clean(tunnel: Tunnel) -> None:
    machine = tunnel.machine
    machine.systemctl("stop", UNIT)
    try:
        assert machine.shown(UNIT, "Result") == "success"
        assert machine.shown(UNIT, "ExecMainStatus") == "0"
        assert "stopped" in machine.journal(UNIT)
    finally:
        machine.systemctl("start", UNIT)
        tunnel.wait_until_up()
