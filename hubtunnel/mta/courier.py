"""Courier, from 1.0 on."""

from __future__ import annotations

from hubtunnel.errors import UsageError
from hubtunnel.mta.plan import Inlet, Plan, Route
from hubtunnel.mta.recipe import File, Recipe
from hubtunnel.mta.text import WITHOUT_BLOCKS, block, comment, head, script

_STEPS = """\
conf=/etc/courier
routes=$conf/esmtproutes
[ -e "$routes" ] || : >"$routes"
without "$routes"
# the first line that matches a domain decides
cat hubtunnel.esmtproutes "$routes" >"$routes.new"
cat "$routes.new" >"$routes"
rm "$routes.new"

install -m 644 hubtunnel.smtpaccess "$conf/smtpaccess/hubtunnel"
makesmtpaccess

# listen ADDRESS: has the daemon listen there too
listen() {
    now=$(sed -n 's/^PORT=//p' "$conf/esmtpd" | tail -n 1)
    case ",$now," in
        *",$1,"*) ;;
        *) sed -i "s/^PORT=.*/PORT=$now,$1/" "$conf/esmtpd" ;;
    esac
}
# least NAME VALUE: raises a setting that is lower
least() {
    now=$(sed -n "s/^$1=//p" "$conf/esmtpd" | tail -n 1)
    if [ "${now:-0}" -lt "$2" ]; then
        sed -i "s/^$1=.*/$1=$2/" "$conf/esmtpd"
    fi
}
"""

_RESTART = """
if [ -d /run/systemd/system ]; then
    systemctl restart courier-mta
else
    echo 'now restart esmtpd'
fi
"""


def recipe(plan: Plan) -> Recipe:
    """The recipe for Courier. Raises `UsageError` where PROXY is wanted, or no source of its own is set."""
    for inlet in plan.inlets:
        _check(inlet)
    files = (File("hubtunnel.esmtproutes", _routes(plan)), File("hubtunnel.smtpaccess", _access(plan)))
    body = WITHOUT_BLOCKS + "\n" + _STEPS + "\n# for mail out of the tunnel\n"
    for inlet in plan.inlets:
        body += f"listen {inlet.host}.{inlet.port}\n"
    body += comment("All peers come from one address, for which Debian's limits of 5 connections are too few.")
    body += "least MAXPERIP 40\nleast MAXPERC 40\nleast MAXDAEMONS 80\n"
    return Recipe(
        "courier", files, script("Puts the files beside it into Courier, as root; may be run again.", body + _RESTART)
    )


def _check(inlet: Inlet) -> None:
    if inlet.proxy_protocol != "none":
        raise UsageError(f'{inlet.host} port {inlet.port}: Courier takes no PROXY header: set proxy_protocol = "none"')
    if not inlet.source or inlet.source in ("127.0.0.1", "::1"):
        raise UsageError(
            f'{inlet.host} port {inlet.port}: Courier relays for 127.0.0.1: set source = "127.0.0.25" in [deliver]'
        )


def _routes(plan: Plan) -> str:
    text = head(plan, "Which domains go through the tunnel (esmtproutes of courier(8)).")
    text += comment("NONE: the tunnel encrypts; STARTTLS inside it with the peer's own listener proves nothing.")
    for route in plan.routes:
        text += "".join(f"{domain}: {_relay(route)}\n" for domain in route.domains)
    if plan.smarthost:
        text += comment(f"All mail for elsewhere goes to {plan.smarthost.peer}.")
        text += f": {_relay(plan.smarthost)}\n"
    return block("hubtunnel", [text])


def _relay(route: Route) -> str:
    """Brackets: an address. Without them Courier would look for a domain of that name, find none and bounce."""
    return f"[{route.host}],{route.port} /SECURITY=NONE"


def _access(plan: Plan) -> str:
    text = head(plan, "Who connects out of the tunnel, of makesmtpaccess(8).")
    text += comment(
        "No RELAYCLIENT: to our own domains and to no other. No login. SPF cannot be checked where every peer "
        "comes from "
        "one address.",
        "Courier has one list of refused senders (badfrom in bofh) for all its ports, so peers' domains cannot "
        "be refused "
        "on port 25 alone: let a firewall admit there only whom you want, or publish SPF with -all and set "
        "BOFHSPFMAILFROM in esmtpd; the tunnel is exempt here.",
    )
    settings = "allow,ESMTPAUTH=,ESMTPAUTH_TLS=,BOFHSPFHELO=off,BOFHSPFMAILFROM=off,BOFHSPFFROM=off"
    return text + "".join(f"{source}\t{settings}\n" for source in sorted({inlet.source for inlet in plan.inlets}))
