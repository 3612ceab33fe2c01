"""Postfix, from 3.5 on."""

from __future__ import annotations

import re

from hubtunnel.mta.plan import Inlet, Plan, Route
from hubtunnel.mta.recipe import File, Recipe
from hubtunnel.mta.text import comment, head, script

_PROXY = {"v2": "haproxy", "v1": "haproxy", "none": ""}

# Of the transport: nothing that main.cf says about mail to the rest of the world may reach into the tunnel.
_OUTWARDS = (
    ("smtp_tls_security_level", "none", "the tunnel encrypts; TLS inside it to the peer's own listener proves nothing"),
    ("smtp_tls_policy_maps", "", "a policy that demands TLS would stop all mail here"),
    ("smtp_fallback_relay", "", "no way around the tunnel while it is down"),
    ("smtp_sasl_auth_enable", "no", "passwords for a relayhost are not for peers"),
    ("inet_protocols", "all", "the address below is literal, whatever the outer world speaks"),
)
_FROM_LOOPBACK = (
    ("smtp_bind_address", "127.0.0.1", "inet_interfaces with one address would make that the source"),
    ("smtp_bind_address6", "::1", ""),
)
_INWARDS = (
    ("mynetworks", "", "loopback is trusted by default, and all that comes out of the tunnel comes from there"),
    ("smtpd_relay_restrictions", "reject_unauth_destination", "to our own domains and to no other"),
    ("local_header_rewrite_clients", "", "a peer's headers are not ours to complete"),
    ("smtpd_authorized_xclient_hosts", "", "a peer must not pass for somebody else"),
    ("smtpd_authorized_xforward_hosts", "", ""),
    ("smtpd_sasl_auth_enable", "no", "a hub is no user: whoever logs in here could relay"),
    ("smtpd_tls_security_level", "none", "nothing between the tunnel and this port leaves the machine"),
    ("smtpd_tls_wrappermode", "no", ""),
    ("smtpd_client_connection_count_limit", "0", "hubtunnel has limits of its own, for each peer"),
    ("inet_protocols", "all", "the PROXY header names the peer's address, of either family"),
    ("syslog_name", "postfix/hubtunnel", "so that the log tells this mail from the rest"),
)

_HELPERS = """\
# first PARAMETER VALUE: puts VALUE in front of what main.cf has there, once
first() {
    now=$(postconf -h "$1")
    case ", $now," in
        *", $2,"*) ;;
        *) postconf -e "$1 = $2${now:+, $now}" ;;
    esac
}
"""


def recipe(plan: Plan) -> Recipe:
    """The recipe for Postfix."""
    files = (
        File("hubtunnel.transport", _transport(plan)),
        File("hubtunnel.clients", _clients(plan)),
        File("hubtunnel.senders", _senders(plan)),
        File("hubtunnel.master", _master(plan)),
    )
    return Recipe("postfix", files, _steps(plan))


def _transport(plan: Plan) -> str:
    text = head(
        plan, "Which domains go through the tunnel: /etc/postfix/hubtunnel.transport (transport(5))."
    ) + comment(
        "Brackets: an address, no MX lookup. Nothing behind it: a second destination would be a way around the tunnel."
    )
    lines = [f"{domain} {_nexthop(route)}\n" for route in plan.routes for domain in route.domains]
    return text + "".join(lines)


def _nexthop(route: Route) -> str:
    return f"hubtunnel:[{route.host}]:{route.port}"


def _clients(plan: Plan) -> str:
    return (
        head(plan, "Who is asked about the sender's domain: everybody but this machine (cidr_table(5)).")
        + comment("Filters that hand mail back to Postfix over loopback hand back what the tunnel brought, too.")
        + "127.0.0.0/8 DUNNO\n::1/128 DUNNO\n0.0.0.0/0 hubtunnel_senders\n::/0 hubtunnel_senders\n"
    )


def _senders(plan: Plan) -> str:
    text = head(plan, "Senders who are refused in clear (regexp_table(5): only the domain itself, not those below it).")
    text += comment(
        "Whoever stands between two hubs could otherwise send as the peer on port 25. Mail of these domains that "
        "others forward with the sender unchanged is refused with it, as it is under a strict DMARC policy."
    )
    lines = [
        f"/@{domain.replace('.', chr(92) + '.')}$/ REJECT 5.7.1 mail from {domain} comes through hubtunnel only\n"
        for domain in plan.domains
    ]
    return text + "".join(lines)


def _master(plan: Plan) -> str:
    text = head(plan, "Services for /etc/postfix/master.cf; steps.sh puts them there with postconf.")
    text += comment("Outwards: a transport of its own, so that nothing of the rest's settings leaks in.")
    text += _service("hubtunnel unix - - n - - smtp", _outwards(plan))
    for inlet in plan.inlets:
        text += comment(f"Inwards: mail of {', '.join(inlet.peers) or 'peers'}, handed over by hubtunnel alone.")
        text += _service(f"{_name(inlet)} inet n - n - - smtpd", _inwards(inlet))
    return text


def _service(line: str, options: list[tuple[str, str, str]]) -> str:
    text = f"{line}\n"
    for name, value, why in options:
        text += f"# {why}\n" if why else ""
        text += f"  -o {name}={value}\n"
    return text


def _name(inlet: Inlet) -> str:
    return f"[{inlet.host}]:{inlet.port}" if ":" in inlet.host else f"{inlet.host}:{inlet.port}"


def _outwards(plan: Plan) -> list[tuple[str, str, str]]:
    routes = (*plan.routes, *((plan.smarthost,) if plan.smarthost else ()))
    return [*_OUTWARDS, *(_FROM_LOOPBACK if all(route.loopback for route in routes) else ())]


def _inwards(inlet: Inlet) -> list[tuple[str, str, str]]:
    options = list(_INWARDS)
    proxy = _PROXY[inlet.proxy_protocol]
    why = "the peer's address, for SPF and the log" if proxy else "proxy_protocol is none: all mail seems to be ours"
    options.insert(0, ("smtpd_upstream_proxy_protocol", proxy, why))
    why = "here the peers' domains are as they should be"
    if inlet.peer:
        why += "; and main.cf has the header that says which hub was authenticated"
    options.append(("hubtunnel_clear_text", f"${_verdict(inlet)}" if inlet.peer else "static:DUNNO", why))
    return options


def _verdict(inlet: Inlet) -> str:
    """The parameter with what this listener says instead of the question whether mail comes in clear."""
    return f"hubtunnel_at_{re.sub('[^0-9a-z]', '_', inlet.host)}_{inlet.port}"


def _steps(plan: Plan) -> str:
    body = _HELPERS + "\n"
    body += (
        'install -m 644 hubtunnel.transport hubtunnel.clients hubtunnel.senders "$(postconf -h config_directory)/"\n'
    )
    body += comment("The transport map decides before relayhost and before maps by sender.")
    body += "first transport_maps 'texthash:$config_directory/hubtunnel.transport'\n"
    body += comment("Peers' domains in clear: refused on every port but the tunnel's.")
    body += "postconf -e 'hubtunnel_senders = check_sender_access regexp:$config_directory/hubtunnel.senders'\n"
    body += "postconf -e 'hubtunnel_clear_text = cidr:$config_directory/hubtunnel.clients'\n"
    body += "first smtpd_restriction_classes hubtunnel_senders\n"
    body += "first smtpd_sender_restrictions 'check_client_access $hubtunnel_clear_text'\n"
    named = [inlet for inlet in plan.inlets if inlet.peer]
    if named:
        body += comment(
            "Which hub was authenticated. A message may bring such a header itself: the topmost one counts."
        )
    for inlet in named:
        body += f"postconf -e '{_verdict(inlet)} = static:{{PREPEND X-Hubtunnel-Peer: {inlet.peer}}}'\n"
    if plan.smarthost:
        body += comment(f"All mail for elsewhere goes to {plan.smarthost.peer}.")
        body += f"postconf -e 'default_transport = {_nexthop(plan.smarthost)}' 'relayhost =' "
        body += "'sender_dependent_default_transport_maps =' 'sender_dependent_relayhost_maps ='\n"
    body += comment("The services of hubtunnel.master.")
    body += _postconf("hubtunnel/unix", "hubtunnel unix - - n - - smtp", _outwards(plan))
    for inlet in plan.inlets:
        body += _postconf(f"{_name(inlet)}/inet", f"{_name(inlet)} inet n - n - - smtpd", _inwards(inlet))
    body += "\npostfix check\nif postfix status 2>/dev/null; then\n    postfix reload\nfi\n"
    return script("Puts the files beside it into Postfix, as root; may be run again at any time.", body)


def _postconf(service: str, line: str, options: list[tuple[str, str, str]]) -> str:
    parameters = " \\\n".join(f"    '{service}/{name}={value}'" for name, value, _ in options)
    return f"postconf -Me '{service}={line}'\npostconf -P \\\n{parameters}\n"
