"""The Debian package as a new user meets it: built from a clean clone, then two bare Debian 12, from nothing to mail.

    python -m tests.package.bare [--cache DIR] [--json FILE]

As root, with debootstrap, git and the network (Debian's mirror, PyPI). It takes about ten minutes, two of them with a
full cache. Two machines boot a real systemd. On both an administrator types what README.md says, and mail flows both
ways; then, on one of them, the package is upgraded while mail flows, removed, installed again, and purged.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.hubs import ROOT
from tests.e2e.namespaces import ADDRESSES, Namespace, two_namespaces
from tests.e2e.processes import run, wait_until
from tests.package import roots
from tests.package.booted import Machine, working_folder

RESULTS = Path(__file__).parent / "results"
UNIT = "hubtunnel.service"
USER = "anna"
LETTERS = 300
"""How many are on their way while the package is upgraded."""

_BUILD_TOOLS = "build-essential ca-certificates debhelper dh-virtualenv git lintian python3-dev python3-venv"
_HOST = "systemd-sysv iproute2"
_INSTALLED = "postfix python3 libgcc-s1"
_INSTALL = "apt-get install -y --no-install-recommends"


@dataclass
class Host:
    """One bare Debian, and what its administrator typed."""

    name: str
    machine: Machine
    typed: list[str] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    """Seconds, of each command."""

    @property
    def domain(self) -> str:
        return self.name.removeprefix("mx.")

    def type(self, line: str) -> str:
        """A command of the administrator's, counted."""
        self.typed.append(line)
        began = time.monotonic()
        said = self.machine.run("sh", "-c", f"cd /srv && {line}", deadline=300.0)
        self.took.append(round(time.monotonic() - began, 1))
        return said

    def send(self, to: Host, count: int = 1, prefix: str = "letter") -> None:
        """Letters from a user here to a user there."""
        sender = f"/usr/sbin/sendmail -f {USER}@{self.domain} {USER}@{to.domain}"
        loop = f"for n in $(seq {count}); do printf 'Subject: {prefix}-%s\\n\\nHello.\\n' $n | {sender}; done"
        self.machine.run("sh", "-c", loop, deadline=300.0)

    def received(self, prefix: str) -> list[str]:
        """The subjects of the letters that lie in the user's mailbox."""
        box = self.machine.path(f"/var/mail/{USER}")
        text = box.read_text(errors="replace") if box.exists() else ""
        return re.findall(rf"^Subject: ({prefix}-\d+)$", text, flags=re.M)

    def wait_for_letters(self, prefix: str, count: int, *, deadline: float = 120.0) -> None:
        wait_until(
            lambda: len(self.received(prefix)) >= count,
            f"{count} letters {prefix} on {self.name}",
            deadline=deadline,
            detail=self.explain,
        )

    def explain(self) -> str:
        queue = self.machine.run("postqueue", "-p", check=False)
        return f"{queue}\n{self.machine.journal(UNIT)}\n{self.machine.journal('postfix@-.service')}"

    @property
    def pid(self) -> str:
        return self.machine.shown(UNIT, "MainPID")

    @property
    def version(self) -> str:
        return self.machine.run("dpkg-query", "-W", "-f", "${Version}", "hubtunnel", check=False).strip()


# --- what is made before -------------------------------------------------------------------------------------------


def build_packages(cache: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The package of what is committed here, and the same as a later version; and how that went."""
    base = roots.bare(cache)
    tools = roots.layer(cache, "tools", [base], f"apt-get update -qq; {_INSTALL} -qq {_BUILD_TOOLS}")
    commit = run("git", "-c", "safe.directory=*", "-C", str(ROOT), "rev-parse", "HEAD").strip()
    out = cache / f"build-{commit}"
    if (out / "about.json").exists():
        about: dict[str, Any] = json.loads((out / "about.json").read_text())
        return out / "packages" / about["package"], out / "packages" / "later.deb", about
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    run("git", "-c", "safe.directory=*", "clone", "--quiet", str(ROOT), str(out / "clone"))
    began = time.monotonic()
    roots.change(out / "root", [tools, base], "/mnt/given/clone/contrib/debian/build /mnt/given/packages", given=out)
    seconds = time.monotonic() - began
    (package,) = (out / "packages").glob("*.deb")
    found = roots.change(
        out / "root",
        [tools, base],
        f"lintian --allow-root --tag-display-limit 0 /mnt/given/packages/{package.name}",
        given=out,
    )
    later = out / "packages" / "later.deb"
    with tempfile.TemporaryDirectory(dir=out) as folder:
        run("dpkg-deb", "-R", str(package), folder)
        control = Path(folder, "DEBIAN", "control")
        version = re.sub(r"^Version: (.*)$", r"Version: \1+later", control.read_text(), flags=re.M)
        control.write_text(version)
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", folder, str(later), deadline=300.0)
    about = {
        "package": package.name,
        "bytes": package.stat().st_size,
        "seconds": round(seconds),
        "lintian": found.splitlines(),
    }
    (out / "about.json").write_text(json.dumps(about))
    return package, later, about


def host_root(cache: Path) -> list[Path]:
    """A bare Debian that starts a systemd and has in apt's cache what the package and Postfix need."""
    base = roots.bare(cache)
    keep = "echo 'Binary::apt::APT::Keep-Downloaded-Packages \"true\";' >/etc/apt/apt.conf.d/01keep"
    fetch = f"apt-get install -y -qq --download-only {_INSTALLED}"
    return [roots.layer(cache, "host", [base], f"{keep}; apt-get update -qq; {_INSTALL} -qq {_HOST}; {fetch}"), base]


@contextmanager
def two_hosts(lower: list[Path], package: Path) -> Iterator[tuple[Host, Host]]:
    with ExitStack() as stack:
        namespaces = stack.enter_context(two_namespaces())
        folder = stack.enter_context(working_folder())
        names = ("mx.a.example", "mx.b.example")
        hosts = "\n".join(f"{address} {name}" for address, name in zip(ADDRESSES, names, strict=True))
        made = []
        for namespace, name in zip(namespaces, names, strict=True):
            made.append(Host(name, _boot(stack, namespace, lower, folder, name, hosts)))
            _answer_debconf(made[-1])
            made[-1].machine.path(f"/srv/{_PACKAGE}").write_bytes(package.read_bytes())
        yield made[0], made[1]


_PACKAGE = "hubtunnel.deb"


def _boot(stack: ExitStack, namespace: Namespace, lower: list[Path], folder: Path, name: str, hosts: str) -> Machine:
    machine = Machine(namespace, lower, folder / name, host=name, hosts=hosts)
    stack.callback(machine.stop)
    return machine


def _answer_debconf(host: Host) -> None:
    """What Debian's installer of Postfix asks, and a user of the mail system."""
    answers = f"postfix postfix/main_mailer_type select Internet Site\npostfix postfix/mailname string {host.domain}\n"
    host.machine.run("debconf-set-selections", text=answers)
    host.machine.run("useradd", "--create-home", USER)


# --- what is shown -------------------------------------------------------------------------------------------------


def introduce(a: Host, b: Host) -> dict[str, Any]:
    """From two bare systems to mail both ways: what was typed, and how long it took."""
    for host in (a, b):
        assert host.machine.run("sh", "-c", "command -v hubtunnel postfix", check=False) == "", "not bare"
    began = time.monotonic()
    for host in (a, b):
        host.type(f"apt-get install -y ./{_PACKAGE} postfix")
        host.type(f"hubtunnel init --name {host.name}")
    fingerprints = {}
    for host, other in ((a, b), (b, a)):
        card = f"/etc/hubtunnel/{host.name}.card"
        # By mail, as an attachment: the one thing that is not typed on either host.
        other.machine.path(f"/srv/{host.name}.card").write_bytes(host.machine.path(card).read_bytes())
        fingerprints[host.name] = host.machine.run("hubtunnel", "card", "--fingerprint").splitlines()[0]
    for host, other in ((a, b), (b, a)):
        pin = shlex.quote(fingerprints[other.name])
        host.type(
            f"hubtunnel peer add {other.name}.card --endpoint {other.name} --domain {other.domain} --fingerprint {pin}"
        )
        host.type("hubtunnel mta postfix --write hubtunnel-postfix")
        host.type("sh hubtunnel-postfix/steps.sh")
        host.type(f"systemctl enable --now {UNIT}")
    a.send(b)
    b.send(a)
    b.wait_for_letters("letter", 1)
    a.wait_for_letters("letter", 1)
    seconds = time.monotonic() - began
    for host, other in ((a, b), (b, a)):
        peer = json.loads(host.machine.run("hubtunnel", "status", "--json"))["peers"][0]
        assert (peer["name"], peer["state"], peer["streams"]["opened"] > 0) == (other.name, "up", True), peer
        assert "postfix/hubtunnel" in host.machine.path(f"/var/mail/{USER}").read_text() or other.name in host.explain()
    return {
        "commands": {host.name: host.typed for host in (a, b)},
        "seconds_each": {host.name: host.took for host in (a, b)},
        "seconds": round(seconds, 1),
    }


def installed_right(host: Host) -> dict[str, Any]:
    """Owners, modes, what is enabled, what the package brings."""
    machine = host.machine
    owners = machine.run("stat", "-c", "%U %a %n", "/etc/hubtunnel", "/var/lib/hubtunnel").splitlines()
    assert owners == ["root 755 /etc/hubtunnel", "hubtunnel 700 /var/lib/hubtunnel"], owners
    brought = set(machine.run("dpkg", "-L", "hubtunnel").splitlines())
    for path in (
        "/usr/bin/hubtunnel",
        "/lib/systemd/system/hubtunnel.service",
        "/lib/systemd/system/hubtunnel.socket",
        "/usr/lib/sysusers.d/hubtunnel.conf",
        "/usr/share/man/man1/hubtunnel.1.gz",
        "/usr/share/man/man5/hubtunnel.toml.5.gz",
        "/usr/share/bash-completion/completions/hubtunnel",
        "/usr/share/zsh/vendor-completions/_hubtunnel",
        "/usr/share/fish/vendor_completions.d/hubtunnel.fish",
        "/usr/share/doc/hubtunnel/README.md",
        "/usr/share/doc/hubtunnel/docs/OPERATING.md",
    ):
        assert path in brought, path
    assert machine.run("dpkg", "--verify", "hubtunnel").splitlines() == []
    return {"files": len(brought)}


def flushed_by_a_hook(a: Host, b: Host) -> dict[str, Any]:
    """With `on_up` as OPERATING.md has it, the queue goes out as soon as the peer is back; not without its drop-in."""
    file = a.machine.path("/etc/hubtunnel/hubtunnel.toml")
    before = file.read_text()
    file.write_text(before.replace('# on_up = ""', 'on_up = "/usr/sbin/postqueue -f"'))
    folder = a.machine.path("/etc/systemd/system/hubtunnel.service.d")
    folder.mkdir()
    seconds = 0.0
    for lines, status in (("", "69"), ("SupplementaryGroups=postdrop\n", "0")):
        (folder / "flush.conf").write_text(f"[Service]\n{lines}")
        a.machine.run("systemctl", "daemon-reload")
        b.machine.systemctl("stop", UNIT)
        a.machine.systemctl("restart", UNIT)
        a.send(b, 1, f"flush{status}")
        wait_until(lambda: "421 4.4.1" in a.machine.run("postqueue", "-p", check=False), "a letter in the queue")
        b.machine.systemctl("start", UNIT)
        wait_until(
            lambda status=status: f"program=/usr/sbin/postqueue status={status}\n" in a.machine.journal(UNIT),
            f"the hook's status {status}",
            deadline=60.0,
            detail=a.explain,
        )
        if status == "0":
            began = time.monotonic()
            b.wait_for_letters("flush0", 1, deadline=60.0)
            seconds = time.monotonic() - began
    b.wait_for_letters("flush69", 1)
    file.write_text(before)
    shutil.rmtree(folder)
    a.machine.run("systemctl", "daemon-reload")
    a.machine.systemctl("restart", UNIT)
    return {"seconds": round(seconds, 1)}


def upgraded_while_mail_flows(a: Host, b: Host, later: Path) -> dict[str, Any]:
    """The later version is installed at B while A sends; nothing is lost, and no conversation is broken off."""
    before, version, stops = b.pid, b.version, len(_stops(b))
    b.machine.path("/srv/later.deb").write_bytes(later.read_bytes())
    a.send(b, LETTERS // 3, "early")
    began = time.monotonic()
    # In the background of A, so that letters come before, during and after.
    sender = f"/usr/sbin/sendmail -f {USER}@{a.domain} {USER}@{b.domain}"
    line = (
        f"for n in $(seq {LETTERS}); do printf 'Subject: meanwhile-%s\\n\\nHello.\\n' $n | {sender}; sleep 0.02; done"
    )
    a.machine.run("systemd-run", "--unit=sending", "sh", "-c", line)
    wait_until(lambda: len(b.received("meanwhile")) > 0, "the first letters", detail=b.explain)
    b.machine.run(*shlex.split(f"{_INSTALL} /srv/later.deb"), deadline=300.0)
    during = len(b.received("meanwhile"))
    seconds = time.monotonic() - began
    assert b.version == f"{version}+later", b.version
    assert b.pid not in ("0", before), "not restarted"
    a.machine.run("postqueue", "-f")
    b.wait_for_letters("meanwhile", LETTERS, deadline=300.0)
    assert sorted(set(b.received("meanwhile"))) == sorted(b.received("meanwhile")), "a letter came twice"
    assert len(b.received("early")) == LETTERS // 3
    cut = _stops(b)
    assert (len(cut), cut[-1]) == (stops + 1, "0"), cut
    return {"letters": LETTERS, "arrived_before_it_was_done": during, "streams_cut": 0, "seconds": round(seconds, 1)}


def _stops(host: Host) -> list[str]:
    """Of every stop so far, how many conversations it broke off."""
    return re.findall(r"stopped hub=\S+ streams_cut=(\d+)", host.machine.journal(UNIT))


def removed_and_installed_again(a: Host, b: Host) -> dict[str, Any]:
    """Removed: stopped, program gone, keys there, mail waits with its reason. Installed again: it comes."""
    b.machine.run("apt-get", "remove", "-y", "hubtunnel", deadline=300.0)
    assert b.machine.shown(UNIT, "ActiveState") == "inactive"
    assert not b.machine.path("/usr/lib/hubtunnel").exists()
    assert not b.machine.path("/usr/bin/hubtunnel").is_symlink()
    kept = [path for path in ("/etc/hubtunnel/hubtunnel.toml", "/var/lib/hubtunnel") if b.machine.path(path).exists()]
    assert len(kept) == 2, kept
    a.send(b, 1, "waits")
    reason = wait_until(
        lambda: re.findall(
            r"421 4\.4\.1 hubtunnel: .*(?=\)$| \(in reply)", a.machine.run("postqueue", "-p", check=False), re.M
        ),
        "the reason in the queue",
        deadline=60.0,
        detail=a.explain,
    )[0]
    b.machine.run(*shlex.split(f"{_INSTALL} /srv/later.deb"), deadline=300.0)
    wait_until(
        lambda: b.machine.shown(UNIT, "StatusText") == "1 of 1 peers up", "up again", deadline=90.0, detail=b.explain
    )
    a.machine.run("postqueue", "-f")
    b.wait_for_letters("waits", 1)
    return {"queue_said": reason}


def purged(b: Host, before: set[str]) -> dict[str, Any]:
    """Purged: nothing of it is left but the locked user. Installed again: nothing starts by itself."""
    machine = b.machine
    machine.run("apt-get", "purge", "-y", "hubtunnel", deadline=300.0)
    left = sorted(
        path
        for path in roots.files(machine.path("/")) - before
        if "hubtunnel" in path and "/hubtunnel-postfix" not in path
    )
    # apt keeps what it was given, and the administrator's own files are not the package's.
    left = [path for path in left if not path.startswith(("/srv/", "/etc/postfix/", "/var/spool/postfix/"))]
    assert left == [], left
    assert machine.run("systemctl", "list-unit-files", "hubtunnel*", check=False).count("hubtunnel.") == 0
    user = machine.run("getent", "passwd", "hubtunnel").strip()
    assert user.endswith("/usr/sbin/nologin"), user
    machine.run(*shlex.split(f"{_INSTALL} /srv/later.deb"), deadline=300.0)
    assert machine.shown(UNIT, "ActiveState") == "inactive"
    assert machine.run("systemctl", "is-enabled", UNIT, check=False).strip() == "disabled"
    machine.run("hubtunnel", "init", "--name", b.name)
    machine.run("systemctl", "enable", "--now", UNIT)
    assert machine.shown(UNIT, "StatusText") == "0 of 0 peers up"
    return {"left_behind": left, "user": user}


def main() -> int:
    """0: all of it was so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder for roots and packages, kept (default: one that is not)")
    parser.add_argument("--json", type=Path, help="where the result goes (default: a file of today beside this one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubtunnel-bare-") as scratch:
        cache = args.cache or Path(scratch)
        cache.mkdir(parents=True, exist_ok=True)
        result = show(cache.resolve())
    target = args.json or RESULTS / f"bare-{time.strftime('%Y-%m-%d', time.gmtime())}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def show(cache: Path) -> dict[str, Any]:
    """Everything, in order; raises `AssertionError` at the first thing that is not so."""
    result: dict[str, Any] = {}

    def part(name: str, does: Callable[[], dict[str, Any]]) -> None:
        began = time.monotonic()
        result[name] = does()
        print(f"{time.monotonic() - began:6.1f} s  {name}: {json.dumps(result[name])}", flush=True)

    package, later, about = build_packages(cache)
    part("build", lambda: about)
    assert about["lintian"] == [], about["lintian"]
    with two_hosts(host_root(cache), package) as (a, b):
        before = roots.files(b.machine.path("/"))
        part("new_user", lambda: introduce(a, b))
        part("installed", lambda: installed_right(b))
        part("flush", lambda: flushed_by_a_hook(a, b))
        part("upgrade", lambda: upgraded_while_mail_flows(a, b, later))
        part("remove", lambda: removed_and_installed_again(a, b))
        part("purge", lambda: purged(b, before))
    return result


if __name__ == "__main__":
    sys.exit(main())
