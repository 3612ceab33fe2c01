"""Machines that each run one real mail server of Debian, though their packages conflict: an overlay over `/` for each.

A *layer* is what installing the packages changes: the distribution's stock files and nothing else. A *machine* is a
process tree with its own mounts, process ids, host name and network, rooted in a layer with a fresh one above it.
When its first process ends, everything in it ends, mounts included.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.namespaces import Namespace
from tests.e2e.processes import ENVIRONMENT, wait_until

KEPT_LAYERS = "HUBTUNNEL_TEST_LAYERS"
"""Environment: a folder in which layers are kept from run to run. Without it each run makes its own."""

_MEMORY = Path("/dev/shm")
_ENTER = ("nsenter", "--mount", "--uts", "--pid", "--net", "--root", "--wd", "--target")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
}

_BUILD = r"""
set -eu
mount --make-rprivate /
mkdir -p "$LAYER/upper" "$LAYER/work" "$LAYER/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$LAYER/upper,workdir=$LAYER/work" "$LAYER/root"
cd "$LAYER/root"
mount -t proc proc proc
mount --bind /dev dev
hostname "$HOST"
printf '%s\n' "$DOMAIN" >etc/mailname
printf '127.0.0.1 localhost\n%s\n' "$HOSTS" >etc/hosts
# Debian would start what it installs.
rm -f usr/sbin/policy-rc.d
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
# Manual pages are what takes longest.
mkdir -p etc/dpkg/dpkg.cfg.d
printf 'path-exclude=/usr/share/man/*\npath-exclude=/usr/share/doc/*\nforce-unsafe-io\n' >etc/dpkg/dpkg.cfg.d/laboratory
# Their index is made anew for each package otherwise.
printf '%s\n' "man-db man-db/auto-update boolean false" "$DEBCONF" | chroot . debconf-set-selections
# shellcheck disable=SC2086
install="apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 $PACKAGES"
chroot . $install || { chroot . apt-get update -qq && chroot . $install; }
chroot . sh -euc "$AFTERWARDS"
chroot . useradd --create-home --shell /bin/sh "$USER_NAME"
cd /
umount "$LAYER/root/dev" "$LAYER/root/proc" "$LAYER/root"
"""

_BOOT = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root"
mount -t overlay overlay -o "lowerdir=$LAYER:/,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
cd "$PLACE/root"
mount -t proc proc proc
mount -t tmpfs tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts run/lock tmp/machine 2>/dev/null || :
ln -s /proc/self/fd dev/fd
: >dev/log
mount --bind "$SYSLOG" dev/log
hostname "$HOST"
printf '127.0.0.1 localhost\n%s\n' "$HOSTS" >etc/hosts
rm -f etc/resolv.conf
for folder in $SHARED; do
    mkdir -p ".$folder"
    mount --bind "$folder" ".$folder"
done
printf 'nameserver %s\noptions timeout:1 attempts:1\n' "$RESOLVER" >etc/resolv.conf
: >"$PLACE/booted"
exec chroot . sh -c 'while :; do sleep infinity & wait; done'
"""


@dataclass(frozen=True, slots=True)
class Layer:
    """What to install; `afterwards` is shell run in it at the end."""

    name: str
    packages: tuple[str, ...]
    debconf: str = ""
    afterwards: str = ":"


def in_every_root(folder: Path) -> bool:
    """Whether each machine has the folder anyhow, in its own layer. What is written into a shared one stays outside."""
    return folder in (Path("/usr"), Path("/usr/local"))


def interpreter() -> list[Path]:
    """Folders of this interpreter that a machine has to share."""
    return [folder for folder in (Path(sys.prefix), Path(sys.base_prefix)) if not in_every_root(folder)]


def layers_folder() -> Path:
    """Where layers are made: kept ones where the environment says so, else in memory."""
    kept = os.environ.get(KEPT_LAYERS)
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
        return Path(kept)
    return Path(tempfile.mkdtemp(prefix="hubtunnel-layers-", dir=_MEMORY if _MEMORY.is_dir() else None))


def build(layer: Layer, folder: Path, *, host: str, domain: str, hosts: str, user: str) -> Path:
    """Install `layer` unless it is there; returns the folder to lay over `/`."""
    place = folder / f"{layer.name}-{host}"
    done = place / "done"
    if done.exists():
        return place / "upper"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    environment = {
        **_ENVIRONMENT,
        "LAYER": str(place),
        "HOST": host,
        "DOMAIN": domain,
        "HOSTS": hosts,
        "DEBCONF": layer.debconf.replace("DOMAIN", domain),
        "PACKAGES": " ".join(layer.packages),
        "AFTERWARDS": layer.afterwards,
        "USER_NAME": user,
    }
    # A network of the machine's own is what apt needs; everything else is the layer's own.
    ended = subprocess.run(
        ["unshare", "--mount", "--uts", "--fork", "sh", "-c", _BUILD],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if ended.returncode != 0:
        raise AssertionError(f"installing {layer.packages} failed\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}")
    done.touch()
    return place / "upper"


class Machine:
    """One running machine: `run` is inside it, `path` is a file of it as seen from here.

    `shared` are folders that are at the same place inside.
    """

    def __init__(
        self,
        namespace: Namespace,
        layer: Path,
        place: Path,
        *,
        host: str,
        hosts: str,
        resolver: str,
        syslog: Path,
        shared: Sequence[Path],
    ) -> None:
        self.namespace = namespace
        self.host = host
        place.mkdir(parents=True)
        environment = {
            **ENVIRONMENT,
            **_ENVIRONMENT,
            "LAYER": str(layer),
            "PLACE": str(place),
            "HOST": host,
            "HOSTS": hosts,
            "RESOLVER": resolver,
            "SYSLOG": str(syslog),
            "SHARED": " ".join(map(str, shared)),
        }
        self._output = place.with_name(f"{place.name}.out")
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                namespace.argv(["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", _BOOT]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._init = wait_until(self._first_process, f"the first process of {host}", detail=self._said)
        wait_until(self._booted, f"{host} to be up", detail=self._said)

    def _said(self) -> str:
        return self._output.read_text(errors="replace")

    def _first_process(self) -> int:
        """The process that is number 1 inside: the child of `unshare`, which `ip netns exec` has become."""
        if self._process.poll() is not None:
            raise AssertionError(f"{self.host} ended at once\n{self._said()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        found = children.read_text().split()
        return int(found[0]) if found else 0

    def _booted(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"{self.host} ended while it came up\n{self._said()}")
        return Path(f"/proc/{self._init}/cmdline").read_bytes().startswith(b"sh\0-c\0while")

    def path(self, inside: str) -> Path:
        """A file of the machine."""
        return Path(f"/proc/{self._init}/root{inside}")

    def argv(self, command: Sequence[str]) -> list[str]:
        return [*_ENTER[:-1], f"--target={self._init}", *command]

    def run(self, *command: str, deadline: float = 60.0, check: bool = True) -> str:
        """Run a command to its end; its output and errors. A failure raises with both, unless `check` is false."""
        ended = subprocess.run(
            self.argv(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=deadline,
            check=False,
            env=_ENVIRONMENT,
            cwd="/",
        )
        output = ended.stdout.decode(errors="replace")
        if check and ended.returncode != 0:
            raise AssertionError(f"{self.host}: `{shlex.join(command)}` ended with {ended.returncode}\n{output}")
        return output

    def sh(self, script: str, *, check: bool = True) -> str:
        return self.run("sh", "-euc", script, check=check)

    def feed(self, command: Sequence[str], data: bytes) -> None:
        """Run a command with `data` on its standard input."""
        subprocess.run(
            self.argv(command), input=data, capture_output=True, timeout=60, check=True, env=_ENVIRONMENT, cwd="/"
        )

    def stop(self) -> None:
        self._process.kill()  # and with it, by --kill-child, number 1 and everything in the machine
        self._process.wait()


@contextmanager
def removed_at_end(folder: Path) -> Iterator[Path]:
    """A folder of layers, removed unless it is to be kept."""
    try:
        yield folder
    finally:
        if os.environ.get(KEPT_LAYERS) is None:
            shutil.rmtree(folder, ignore_errors=True)


def missing_programs(names: Iterable[str]) -> list[str]:
    """Those that are not installed."""
    return [name for name in names if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
