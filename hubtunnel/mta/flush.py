"""What has a mail server try its queue when a peer is back, and how the daemon, which may not, asks for it.

The daemon has no rights but its own, and its unit lets no program gain any by being setuid or setgid, sudo included. So
its hook leaves an empty file, and a path unit of systemd runs one fixed command as root. Nothing is read from the file.
"""

from __future__ import annotations

from hubtunnel.mta.recipe import File
from hubtunnel.mta.text import comment

PROGRAM = "hubtunnel-flush"
INSTALLED = f"/usr/local/sbin/{PROGRAM}"
ASKED = "/run/hubtunnel/flush"
HOOK = f"/usr/bin/touch {ASKED}"

_COMMANDS = {
    "postfix": "postqueue -f\n",
    "exim": 'exec "$(command -v exim4 || command -v exim)" -qf\n',
    "sendmail": "exec sendmail -Am -q\n",
    # After a failure it lets the route rest, and for ten seconds counts its mail as on its way.
    "opensmtpd": """\
flush() {
    for route in $(smtpctl show routes | sed -n 's/^\\([0-9]*\\)\\. .*/\\1/p'); do
        smtpctl resume route "$route"
    done
    smtpctl schedule all
}
flush
sleep 11
flush
""",
    "courier": "exec courier flush\n",
    "qmail": "exec pkill -ALRM -x qmail-send\n",
}

_PATH = f"""\
[Unit]
Description=A peer of hubtunnel is back, and mail waits for it

[Path]
PathExists={ASKED}

[Install]
WantedBy=multi-user.target
"""

_SERVICE = f"""\
[Unit]
Description=Mail that waited for a peer of hubtunnel goes out
# Peers may come back one after the other, and each is worth a run.
StartLimitIntervalSec=0

[Service]
Type=oneshot
# Those that come back together are worth one.
ExecStartPre=/bin/sleep 1
ExecStart={INSTALLED}
"""

STEPS = f"""
# flushes the queue when a peer is back, once hubtunnel.toml says: [hooks] on_up = "{HOOK}"
install -m 755 {PROGRAM} {INSTALLED}
if [ -d /run/systemd/system ]; then
    install -m 644 {PROGRAM}.path {PROGRAM}.service /etc/systemd/system/
    systemctl daemon-reload
    systemctl enable --quiet --now {PROGRAM}.path
fi
"""


def files(mta: str) -> tuple[File, ...]:
    """The program, and the units that run it."""
    what = comment(f"Has {mta} try all mail in its queue now; run as root, by {PROGRAM}.service or by hand.")
    # The file goes first: whoever asks from here on is served by another run.
    program = f"#!/bin/sh\n{what}set -eu\nrm -f {ASKED}\n{_COMMANDS[mta]}"
    return File(PROGRAM, program), File(f"{PROGRAM}.path", _PATH), File(f"{PROGRAM}.service", _SERVICE)
