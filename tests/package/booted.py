"""A machine with a real systemd as its first process: a root of its own, in a network namespace that a test gives it.

The root is an overlay: what lies below (this system's `/`, or a bare Debian) is never written to. The first process
sees mounts, process ids, host name, IPC and control groups of its own, as in a container; with it everything ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.namespaces import Namespace
from tests.e2e.processes import ENVIRONMENT, wait_until

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
}
_MEMORY = Path("/dev/shm")

# A control group of its own comes first: the namespace of control groups begins where its first process stands.
_APART = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$PLACE"
mkdir "$PLACE/upper" "$PLACE/work" "$PLACE/root" "$PLACE/groups"
mount -t cgroup2 cgroup2 "$PLACE/groups"
mkdir "$PLACE/groups/$GROUP"
echo 0 >"$PLACE/groups/$GROUP/cgroup.procs"
exec unshare --cgroup sh -c "$BOOT"
"""

# /sys, /proc/sys and what may touch the kernel are taken away, as from containers: nothing in here changes this system.
_BOOT = r"""
set -eu
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
cd "$PLACE/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
printf '%s\n' "$HOST" >etc/hostname
printf '127.0.0.1 localhost\n%s\n' "$HOSTS" >etc/hosts
rm -f etc/machine-id
: >etc/machine-id
hostname "$HOST"
if [ -n "$BARE" ]; then
    # This system's own services are no part of the test.
    rm -rf etc/systemd/system
    mkdir etc/systemd/system
    printf '[Unit]\nRequires=basic.target\nAfter=basic.target\n' >etc/systemd/system/default.target
fi
printf '%s\n' "$BINDS" | while read -r from to; do
    [ -n "$from" ] || continue
    mkdir -p ".$to"
    mount --rbind "$from" ".$to"
    mount -o remount,bind,ro ".$to"
done
mkdir -p "$PLACE/root/mnt/before"
pivot_root . mnt/before
umount -l /mnt/before
# What systemd mounts beside a service, such as its credentials, has to reach it: a container is given this.
mount --make-rshared /
exec env -i PATH="$PATH" container=hubtunnel-test setpriv --bounding-set=-sys_module,-sys_rawio,-sys_time,-sys_boot \
    /lib/systemd/systemd --log-target=journal --show-status=no
"""


class Machine:
    """One running system; `run` is inside it, `path` is a file of it as seen from here."""

    def __init__(
        self,
        namespace: Namespace,
        lower: Sequence[Path],
        place: Path,
        *,
        host: str,
        hosts: str = "",
        binds: Mapping[Path, str] | None = None,
    ) -> None:
        self.namespace = namespace
        self.host = host
        self._group = f"hubtunnel-test-{os.getpid()}-{namespace.name.rpartition('-')[2]}"
        self._output = place.with_name(f"{place.name}.out")
        place.mkdir(parents=True)
        environment = {
            **ENVIRONMENT,
            **_ENVIRONMENT,
            "PLACE": str(place),
            "LOWER": ":".join(map(str, lower)),
            "HOST": host,
            "HOSTS": hosts,
            "GROUP": self._group,
            "BARE": "yes" if Path("/") in lower else "",
            "BINDS": "\n".join(f"{source} {inside}" for source, inside in (binds or {}).items()),
            "BOOT": _BOOT,
        }
        apart = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "sh", "-c", _APART]
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                namespace.argv(apart),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._init = wait_until(self._first_process, f"the first process of {host}", detail=self._said)
        wait_until(self._is_up, f"{host} to be up", deadline=60.0, detail=self._said)

    def _said(self) -> str:
        return self._output.read_text(errors="replace")

    def _first_process(self) -> int:
        """The process that is number 1 inside: the child of `unshare`, which `ip netns exec` has become."""
        if self._process.poll() is not None:
            raise AssertionError(f"{self.host} ended at once\n{self._said()}")
        found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(found[0]) if found and b"systemd" in Path(f"/proc/{found[0]}/cmdline").read_bytes() else 0

    def _is_up(self) -> bool:
        if self._process.poll() is not None:
            raise AssertionError(f"{self.host} ended while it started\n{self._said()}")
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def path(self, inside: str) -> Path:
        """A file of the machine."""
        return Path(f"/proc/{self._init}/root{inside}")

    def argv(self, command: Sequence[str]) -> list[str]:
        enter = ["nsenter", "--mount", "--uts", "--ipc", "--pid", "--net", "--cgroup", "--root", "--wd"]
        return [*enter, f"--target={self._init}", *command]

    def run(self, *command: str, deadline: float = 60.0, check: bool = True, text: str = "") -> str:
        """Run a command to its end, `text` on its standard input; its output and errors.

        A failure raises with both, unless `check` is false.
        """
        ended = subprocess.run(
            self.argv(command),
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            text=True,
            errors="replace",
            timeout=deadline,
            check=False,
        )
        if check and ended.returncode != 0:
            raise AssertionError(f"on {self.host}, {' '.join(command)} ended with {ended.returncode}\n{ended.stdout}")
        return ended.stdout

    def systemctl(self, verb: str, unit: str) -> None:
        """Ask something of a unit; a failure raises with what the unit said."""
        try:
            self.run("systemctl", verb, unit, deadline=200.0)
        except AssertionError as failed:
            raise AssertionError(f"{failed}\n{self.journal(unit)}") from None

    def shown(self, unit: str, what: str) -> str:
        """A property of a unit, as `systemctl show` has it."""
        return self.run("systemctl", "show", "--value", f"--property={what}", unit).strip()

    def journal(self, unit: str) -> str:
        """What a unit said, and what systemd says of it."""
        return self.run("journalctl", "--no-pager", "--output=short-precise", f"--unit={unit}", check=False)

    def stop(self) -> None:
        """Ends everything in it."""
        self._process.kill()
        self._process.wait()
        wait_until(lambda: not Path(f"/proc/{self._init}").exists(), f"the end of {self.host}")
        _remove_groups(self._group)


def _remove_groups(name: str) -> None:
    """The control groups of a machine that has ended: they are there for all, wherever their tree is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if fields[2] == "cgroup2" and (top := Path(fields[1], name)).is_dir():
            for folder, _, _ in os.walk(top, topdown=False):
                os.rmdir(folder)
            return


@contextmanager
def working_folder() -> Iterator[Path]:
    """For machines; in memory where there is a file system for that."""
    made = Path(tempfile.mkdtemp(prefix="hubtunnel-machines-", dir=_MEMORY if _MEMORY.is_dir() else None))
    try:
        made.chmod(0o755)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
