"""Roots of bare Debian 12 systems, each an overlay over the one below: what debootstrap makes, and what apt adds.

They are kept in a folder, since to make them takes minutes and the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.processes import ENVIRONMENT, run

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"

# With this system's own network, resolver and certificates: a root behind a company's proxy trusts what this one does.
_CHANGE = r"""
set -eu
mount --make-rprivate /
mkdir -p "$PLACE/upper" "$PLACE/work" "$PLACE/root"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
cd "$PLACE/root"
mount -t proc proc proc
mount --rbind /dev dev
cp -L /etc/resolv.conf etc/resolv.conf
mkdir -p etc/ssl/certs mnt/given
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    cp -L /etc/ssl/certs/ca-certificates.crt mnt/certificates
fi
if [ -n "$GIVEN" ]; then
    mount --bind "$GIVEN" mnt/given
fi
# Nothing that is installed here is to be started here.
printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
chmod 755 usr/sbin/policy-rc.d
env -i HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    SSL_CERT_FILE=/mnt/certificates PIP_CERT=/mnt/certificates chroot . sh -euc "$COMMAND"
rm usr/sbin/policy-rc.d
"""


def bare(cache: Path) -> Path:
    """A Debian with nothing that it can do without."""
    made = cache / "base"
    if not made.is_dir():
        half = cache / "base.half"
        shutil.rmtree(half, ignore_errors=True)
        run("debootstrap", "--variant=minbase", SUITE, str(half), MIRROR, deadline=900.0)
        half.rename(made)
    return made


def layer(cache: Path, name: str, below: Sequence[Path], command: str) -> Path:
    """What `command` changes, made once; to be laid over `below`, of which the first is the uppermost."""
    place = cache / name
    if not (place / "done").exists():
        shutil.rmtree(place, ignore_errors=True)
        change(place, below, command)
        (place / "done").touch()
    return place / "upper"


def change(place: Path, below: Sequence[Path], command: str, *, given: Path | None = None) -> str:
    """Run a shell's command in a root; what it changes is left in `place`. `given` is at /mnt/given there.

    Returns its output; raises with it when it fails.
    """
    place.mkdir(parents=True, exist_ok=True)
    environment: Mapping[str, str] = {
        **ENVIRONMENT,
        "PLACE": str(place),
        "LOWER": ":".join(map(str, below)),
        "COMMAND": command,
        "GIVEN": "" if given is None else str(given),
    }
    ended = subprocess.run(
        ["unshare", "--mount", "--fork", "--kill-child", "sh", "-c", _CHANGE],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=1800,
        check=False,
    )
    if ended.returncode != 0:
        raise AssertionError(f"`{command}` ended with {ended.returncode}\n{ended.stdout[-6000:]}")
    return ended.stdout


def files(root: Path) -> set[str]:
    """Everything in a running machine's own file system, but what is no file."""
    found = set()
    top = root.stat().st_dev
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name).lstat().st_dev == top]
        found.update("/" + str(Path(folder, name).relative_to(root)) for name in (*folders, *names))
    return found
