"""OpenSMTPD, from 6.6 on (the grammar with actions and matches)."""

from __future__ import annotations

from collections.abc import Iterable

from hubtunnel.errors import UsageError
from hubtunnel.mta.plan import Inlet, Plan, Route
from hubtunnel.mta.recipe import File, Recipe
from hubtunnel.mta.text import WITHOUT_BLOCKS, comment, head, script

_STEPS = """\
conf=/etc/smtpd.conf
if [ -e /etc/mail/smtpd.conf ]; then
    conf=/etc/mail/smtpd.conf
fi
folder=$(dirname "$conf")
install -m 644 smtpd.hubtunnel.conf "$folder/"

# The first rule that matches decides: ours have to stand before all others, and behind the actions that they name.
without "$conf"
awk -v file="$folder/smtpd.hubtunnel.conf" '
    /^match/ && !done { print "# BEGIN hubtunnel"; print "include \\"" file "\\""; print "# END hubtunnel"; done = 1 }
    { print }
' "$conf" >"$conf.new"
cat "$conf.new" >"$conf"
rm "$conf.new"
grep -q smtpd.hubtunnel.conf "$conf" || { echo "no rule (match) in $conf to stand before" >&2; exit 1; }

smtpd -n -f "$conf"
if [ -d /run/systemd/system ]; then
    systemctl restart opensmtpd
else
    echo 'now restart OpenSMTPD'
fi
"""


def recipe(plan: Plan) -> Recipe:
    """The recipe for OpenSMTPD.

    Raises `UsageError` without PROXY v2: it takes every loopback address for its own users', and knows no PROXY v1.
    """
    for inlet in plan.inlets:
        if inlet.proxy_protocol != "v2":
            raise UsageError(
                f"{inlet.host} port {inlet.port}: OpenSMTPD lets all of 127.0.0.0/8 relay unless a PROXY header of "
                'version 2 says where mail is from: set proxy_protocol = "v2" in [deliver]'
            )
    steps = script(
        "Puts the file beside it into OpenSMTPD, as root; may be run again at any time.", WITHOUT_BLOCKS + "\n" + _STEPS
    )
    return Recipe("opensmtpd", (File("smtpd.hubtunnel.conf", _conf(plan)),), steps)


def _conf(plan: Plan) -> str:
    text = head(plan, "Included in smtpd.conf before its first rule.")
    for number, inlet in enumerate(plan.inlets, 1):
        text += "\n" + _inwards(plan, inlet, f"HUBTUNNEL{number}")
    if plan.domains:
        senders = _listed(f"@{domain}" for domain in plan.domains)
        text += "\n" + comment(
            "Peers' domains in clear. Whoever stands between two hubs could otherwise send as the peer on port "
            "25. Mail "
            "of these domains that others forward with the sender unchanged is refused with it."
        )
        text += f"match !from local mail-from {senders} for any reject\n"
    text += "\n" + comment(
        "Into the tunnel. notls: smtp:// alone would try STARTTLS inside it with the peer's own listener. Only "
        "from this "
        "machine and from users who logged in: from any would relay a stranger's mail to our peers."
    )
    for route in plan.routes:
        text += _outwards(route, f"for domain {_listed(route.domains)}")
    if plan.smarthost:
        text += comment(f"All mail for elsewhere goes to {plan.smarthost.peer}.")
        text += _outwards(plan.smarthost, "!for local")
    return text


def _listed(names: Iterable[str]) -> str:
    return "{ " + ", ".join(f'"{name}"' for name in names) + " }"


def _inwards(plan: Plan, inlet: Inlet, tag: str) -> str:
    text = comment(
        f"Mail of {', '.join(inlet.peers) or 'peers'}, handed over by hubtunnel alone; the log shows the tag. "
        "To our own domains and to no other. What an alias or a .forward makes of it counts as `from local`."
    )
    own = [f'match tag {tag} from any for local action "local"\n']
    if plan.local_domains:
        own.append(f'match tag {tag} from any for domain {_listed(plan.local_domains)} action "local"\n')
    else:
        text += comment("Domains that are not those of `for local`: --local-domain of `hubtunnel mta` adds them.")
    return (
        text
        + f"listen on {inlet.host} port {inlet.port} tag {tag} proxy-v2\n"
        + "".join(own)
        + f"match tag {tag} !from local for any reject\n"
    )


def _outwards(route: Route, condition: str) -> str:
    host = f"[{route.host}]" if ":" in route.host else route.host
    name = f"hubtunnel {route.peer}" if condition.startswith("for") else f"hubtunnel smarthost {route.peer}"
    return (
        f'action "{name}" relay host "smtp+notls://{host}:{route.port}"\n'
        f'match from local {condition} action "{name}"\n'
        f'match from auth {condition} action "{name}"\n'
    )
