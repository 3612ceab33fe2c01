"""The mail servers of Debian 12 as it ships them: how each is installed, started, asked and read.

Everything here is the distribution's; what joins a server to the tunnel comes from `hubtunnel mta` alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.mta.machines import Layer, Machine

USER = "alice"

_EXIM_DEBCONF = """\
exim4-config exim4/dc_eximconfig_configtype select internet site; mail is sent and received directly using SMTP
exim4-config exim4/mailname string DOMAIN
exim4-config exim4/dc_local_interfaces string"""

_POSTFIX_DEBCONF = """\
postfix postfix/main_mailer_type select Internet Site
postfix postfix/mailname string DOMAIN"""

# Where the package was there before the layer, its configuration may be somebody's; this makes the stock one.
_POSTFIX_STOCK = "rm -f /etc/postfix/main.cf; dpkg-reconfigure -f noninteractive postfix"

# What sendmail delivers with locks a mailbox for seconds at a time; this is the user's own choice of a folder.
_PROCMAIL = f"printf 'DEFAULT=$HOME/Maildir/\\n' >/etc/skel/.procmailrc # of {USER}, who is made next"


@dataclass(frozen=True, slots=True)
class Server:
    """One mail server. `recipe` is its word for `hubtunnel mta`, `proxy` and `source` what its inlet is told."""

    name: str
    recipe: str
    layer: Layer
    start: str
    stop: str
    queue: str
    """Shell that lists the queue as its administrator would, reasons included."""
    flush: str
    """Shell that has all queued mail tried now."""
    mailbox: str
    user: str
    """Whose its connections to other hosts are, for `listen_users`."""
    proxy: str = "v2"
    source: str = ""
    aliases: str = "/etc/aliases"
    make_aliases: str = "newaliases"
    listen_everywhere: str = ""
    """Shell that has it listen on port 25 for other hosts too, where the stock configuration does not."""
    empty: str = ""
    """What the listing says when there is nothing; nothing, where this is nothing."""
    reasons_in_log: bool = False
    logs: tuple[str, ...] = ()
    """Files in the machine besides the system log."""


def _maildir(path: Path) -> list[bytes]:
    return [file.read_bytes() for file in (path / "new").glob("*")] if path.is_dir() else []


def _mbox(path: Path) -> list[bytes]:
    """The messages of an mbox as they were before: `From ` lines unquoted, without the empty line at the end."""
    if not path.exists():
        return []
    found = re.split(rb"(?:^|(?<=\n\n))From [^\n]* \d{4}\n", path.read_bytes())
    return [re.sub(rb"^>(>*From )", rb"\1", part.removesuffix(b"\n"), flags=re.MULTILINE) for part in found if part]


def delivered(server: Server, machine: Machine) -> list[bytes]:
    """All messages that the server has put into the user's mailbox."""
    path = machine.path(server.mailbox)
    return _maildir(path) if server.mailbox.endswith("Maildir") else _mbox(path)


_EXIM = {
    "recipe": "exim",
    "start": "update-exim4.conf && exim4 -bd -q30m",
    "stop": "kill $(cat /run/exim4/exim.pid)",
    "queue": "exim4 -bp; for id in $(exim4 -bp | awk '/</ {print $3}'); do exim4 -Mvl $id; done",
    "flush": "exim4 -qff",
    "mailbox": f"/var/mail/{USER}",
    "user": "Debian-exim",
    "source": "127.0.0.25",
    "logs": ("/var/log/exim4/mainlog", "/var/log/exim4/rejectlog", "/var/log/exim4/paniclog"),
}

POSTFIX = Server(
    name="postfix",
    recipe="postfix",
    # With what judges senders for it, which does nothing until it is told to.
    layer=Layer(
        "postfix",
        ("postfix", "postfix-policyd-spf-python", "opendmarc", "dbconfig-no-thanks"),
        _POSTFIX_DEBCONF,
        _POSTFIX_STOCK,
    ),
    start="postfix start",
    stop="postfix stop",
    queue="postqueue -p",
    flush="postqueue -f",
    mailbox=f"/var/mail/{USER}",
    user="postfix",
    empty="Mail queue is empty",
)
EXIM_HEAVY = Server(name="exim-heavy", layer=Layer("exim-heavy", ("exim4-daemon-heavy",), _EXIM_DEBCONF), **_EXIM)
EXIM_LIGHT = Server(
    name="exim-light", layer=Layer("exim-light", ("exim4-daemon-light",), _EXIM_DEBCONF), proxy="none", **_EXIM
)
OPENSMTPD = Server(
    name="opensmtpd",
    recipe="opensmtpd",
    layer=Layer("opensmtpd", ("opensmtpd",)),
    start="smtpd",
    stop="pkill -o smtpd",
    listen_everywhere="sed -i 's/^listen on localhost/listen on 0.0.0.0/; s/^match for local/match from any for local/'"
    " /etc/smtpd.conf; pkill -o -x smtpd;"
    " while pgrep -x smtpd >&2; do sleep 0.1; done; smtpd",
    queue="smtpctl show queue",
    # After a failure it lets the whole route rest, whatever is scheduled.
    flush="for id in $(smtpctl show routes | sed -n 's/^\\([0-9]*\\)\\. .*/\\1/p'); do smtpctl resume route $id; done;"
    " smtpctl schedule all",
    reasons_in_log=True,
    make_aliases=":",  # read when it starts
    mailbox=f"/home/{USER}/Maildir",
    user="opensmtpd",
)
SENDMAIL = Server(
    name="sendmail",
    recipe="sendmail",
    layer=Layer("sendmail", ("sendmail",), afterwards=_PROCMAIL),
    start="mkdir -p /run/sendmail/mta && /usr/sbin/sendmail-mta -Am -L sm-mta -bd -q10m",
    stop="kill $(head -n 1 /run/sendmail/mta/sendmail.pid)",
    queue="mailq -Am",
    flush="sendmail-mta -Am -q",
    mailbox=f"/home/{USER}/Maildir",
    user="root",
    proxy="none",
    source="127.0.0.25",
    listen_everywhere="sed -i 's/Name=MTA-v4, Port=smtp, Addr=127.0.0.1/Name=MTA-v4, Port=smtp/' /etc/mail/sendmail.mc"
    " && m4 /etc/mail/sendmail.mc >/etc/mail/sendmail.cf && kill -HUP $(head -n 1 /run/sendmail/mta/sendmail.pid)",
    empty="is empty",
)
COURIER = Server(
    name="courier",
    recipe="courier",
    layer=Layer(
        "courier",
        ("courier-mta",),
        afterwards="mkdir -p "
        + " ".join(f"/etc/skel/Maildir/{each}" for each in ("cur", "new", "tmp"))
        # Every domain has one, and this package leaves it to its administrator.
        + f"; printf 'postmaster: {USER}\\n' >>/etc/courier/aliases/system; makealiases",
    ),
    start="authdaemond start; courierfilter start; courier start; esmtpd start",
    stop="esmtpd stop; courier stop; courierfilter stop",
    queue="mailq",
    empty="   0 messages.",
    reasons_in_log=True,
    flush="courier flush",
    mailbox=f"/home/{USER}/Maildir",
    user="courier",
    proxy="none",
    source="127.0.0.25",
    aliases="/etc/courier/aliases/system",
    make_aliases="makealiases",
)

ALL = (POSTFIX, EXIM_HEAVY, EXIM_LIGHT, OPENSMTPD, SENDMAIL, COURIER)
"""In the order of the ring in which each is sender to the next."""
