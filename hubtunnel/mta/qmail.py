"""qmail, netqmail and notqmail."""

from __future__ import annotations

from hubtunnel.errors import UsageError
from hubtunnel.mta.plan import Inlet, Plan, Route
from hubtunnel.mta.recipe import File, Recipe
from hubtunnel.mta.text import comment, head, script

_STEPS = """\
control=${QMAIL:-/var/qmail}/control
[ -e "$control/smtproutes" ] || : >"$control/smtproutes"
# qmail reads no comments there: what an earlier run put in is found by the addresses of the tunnel
grep -v -x -F -f hubtunnel.smtproutes.before "$control/smtproutes" >"$control/smtproutes.new" || :
cat hubtunnel.smtproutes "$control/smtproutes.new" >"$control/smtproutes"
rm "$control/smtproutes.new"
cp hubtunnel.smtproutes hubtunnel.smtproutes.before
"""


def recipe(plan: Plan) -> Recipe:
    """The recipe for qmail. Raises `UsageError` for IPv6 and for PROXY, neither of which it speaks."""
    for inlet in plan.inlets:
        _check_inlet(inlet)
    for route in plan.routes:
        _check_route(route)
    files = [File("hubtunnel.smtproutes", _routes(plan))]
    files += [File(f"hubtunnel-{inlet.port}.run", _run(plan, inlet)) for inlet in plan.inlets]
    body = "touch hubtunnel.smtproutes.before\n" + _STEPS
    body += comment("qmail-send reads nothing of this; qmail-remote reads smtproutes anew for every message.")
    body += comment("The listeners are for supervise(8), or for whatever runs your other tcpserver:")
    for inlet in plan.inlets:
        folder = f"/etc/hubtunnel-qmail-{inlet.port}"
        body += f"install -d {folder}\ninstall -m 755 hubtunnel-{inlet.port}.run {folder}/run\n"
    return Recipe(
        "qmail", tuple(files), script("Puts the files beside it into qmail, as root; may be run again.", body)
    )


def _check_inlet(inlet: Inlet) -> None:
    if ":" in inlet.host:
        raise UsageError(
            f"{inlet.host}: qmail and tcpserver speak IPv4 alone: give [deliver] an address of 127.0.0.0/8"
        )
    if inlet.proxy_protocol != "none":
        raise UsageError(f'{inlet.host} port {inlet.port}: qmail takes no PROXY header: set proxy_protocol = "none"')


def _check_route(route: Route) -> None:
    if ":" in route.host:
        raise UsageError(f"{route.host}: qmail speaks IPv4 alone: give {route.peer} a listen address of 127.0.0.0/8")


def _routes(plan: Plan) -> str:
    """Without a comment: qmail-remote(8) knows none in this file."""
    text = "".join(f"{domain}:{route.host}:{route.port}\n" for route in plan.routes for domain in route.domains)
    if plan.smarthost:
        _check_route(plan.smarthost)
        text += f":{plan.smarthost.host}:{plan.smarthost.port}\n"
    return text


def _run(plan: Plan, inlet: Inlet) -> str:
    text = "#!/bin/sh\n" + head(plan, f"Mail of {', '.join(inlet.peers) or 'peers'}, handed over by hubtunnel alone.")
    text += comment(
        'A listener of its own and no -x: the usual rule 127.:allow,RELAYCLIENT="" would let every peer relay. '
        "So rcpthosts alone decides, and only our own domains may stand in it.",
        "-l0 -R -H: no lookups for connections from loopback. -c: hubtunnel has limits of its own.",
        "qmail's table of dead hosts goes by address without port, and only timeouts count: hubtunnel answers or "
        "refuses at once, and every peer has an address of its own.",
    )
    return text + (
        "unset RELAYCLIENT\n"
        f'exec tcpserver -v -l0 -R -H -c 500 -u "$(id -u qmaild)" -g "$(id -g qmaild)" {inlet.host} {inlet.port} \\\n'
        "    /var/qmail/bin/qmail-smtpd 2>&1\n"
    )
