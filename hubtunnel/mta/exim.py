"""Exim, from 4.94 on: one file or Debian's split one, light (without PROXY) and heavy (with it)."""

from __future__ import annotations

from hubtunnel.errors import UsageError
from hubtunnel.mta.plan import Inlet, Plan, Route
from hubtunnel.mta.recipe import File, Recipe
from hubtunnel.mta.text import WITHOUT_BLOCKS, block, comment, head, script

_TRANSPORT = """\
hubtunnel:
  driver = smtp
  # the address is this host's own; without this Exim would defer all mail
  allow_localhost
  # the tunnel encrypts; TLS inside it to the peer's own listener proves nothing
  hosts_avoid_tls = *
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif
  # a dead host is a dead peer, and hubtunnel knows sooner than a retry rule when it is back
  hosts_max_try = 1
  # signed as on Debian's own transport, if at all: verdicts are the same with the tunnel and without
.ifdef DKIM_DOMAIN
  dkim_domain = DKIM_DOMAIN
.endif
.ifdef DKIM_SELECTOR
  dkim_selector = DKIM_SELECTOR
.endif
.ifdef DKIM_PRIVATE_KEY
  dkim_private_key = DKIM_PRIVATE_KEY
.endif
.ifdef DKIM_CANON
  dkim_canon = DKIM_CANON
.endif
.ifdef DKIM_STRICT
  dkim_strict = DKIM_STRICT
.endif
.ifdef DKIM_SIGN_HEADERS
  dkim_sign_headers = DKIM_SIGN_HEADERS
.endif
.ifdef DKIM_TIMESTAMPS
  dkim_timestamps = DKIM_TIMESTAMPS
.endif
"""

_STEPS = """\
# where CONFIG is made of one file or of many, the lines that begin a part of it stand once among them
if [ -d /etc/exim4 ]; then
    settings=/etc/exim4/update-exim4.conf.conf
    if grep -q "^dc_use_split_config='true'" "$settings" && [ ! -e /etc/exim4/exim4.conf ]; then
        files=$(find /etc/exim4/conf.d -type f)
    elif [ -e /etc/exim4/exim4.conf ]; then
        files=/etc/exim4/exim4.conf
    else
        files=/etc/exim4/exim4.conf.template
    fi
else
    settings=
    files=${EXIM_CONFIG:-/etc/exim/exim.conf}
fi

# behind PATTERN FILE: puts FILE behind the one line that matches PATTERN
behind() {
    found=
    for file in $files; do
        if grep -q "$1" "$file"; then
            sed -i "/$1/r $2" "$file"
            found=yes
        fi
    done
    if [ -z "$found" ]; then
        echo "no line like $1 in: $files" >&2
        exit 1
    fi
}

for file in $files; do
    without "$file"
done
behind '^begin routers' hubtunnel.routers
behind '^begin transports' hubtunnel.transport
behind '^acl_check_rcpt:' hubtunnel.acl
# options of the main part stand before everything that begins
for file in $files; do
    if grep -q '^begin acl' "$file"; then
        cat hubtunnel.main "$file" >"$file.new"
        cat "$file.new" >"$file"
        rm "$file.new"
    fi
done

# listen ADDRESS: has the daemon listen there too
listen() {
    if [ -z "$settings" ]; then
        echo "add $1 to local_interfaces of $files, unless it is there" >&2
        return
    fi
    now=$(sed -n "s/^dc_local_interfaces='\\(.*\\)'/\\1/p" "$settings")
    case " $now " in
        *" $1 "*) ;;
        *) sed -i "s/^dc_local_interfaces=.*/dc_local_interfaces='${now:-0.0.0.0 ; ::0} ; $1'/" "$settings" ;;
    esac
}
"""

_RESTART = """
if [ -n "$settings" ]; then
    update-exim4.conf
fi
exim -bV >/dev/null
if [ -d /run/systemd/system ]; then
    systemctl restart exim4 || systemctl restart exim
else
    echo 'now restart Exim'
fi
"""


def recipe(plan: Plan) -> Recipe:
    """The recipe for Exim.

    Raises `UsageError` for an inlet without a source of its own: Exim goes by the host that connects.
    """
    for inlet in plan.inlets:
        _check(inlet)
    files = (
        File("hubtunnel.routers", _routers(plan)),
        File("hubtunnel.transport", block("hubtunnel", [head(plan, "Into the tunnel."), _TRANSPORT])),
        File("hubtunnel.acl", _acl(plan)),
        File("hubtunnel.main", _main(plan)),
    )
    return Recipe("exim", files, _steps(plan))


def _check(inlet: Inlet) -> None:
    if not inlet.source or inlet.source == "127.0.0.1" or inlet.source == "::1":
        raise UsageError(
            f"[deliver] {inlet.host} port {inlet.port}: Exim lets 127.0.0.1 and ::1 relay, and goes by the connecting "
            'host where it expects a PROXY header: set source = "127.0.0.25" there, which is nobody else\'s address'
        )


def _host_list(route: Route) -> str:
    """With the separator changed, so that no colon has to be doubled."""
    return f"</ [{route.host}]:{route.port}"


def _domain_list(domains: tuple[str, ...]) -> str:
    return " : ".join(domains)


def _routers(plan: Plan) -> str:
    text = head(plan, "Which domains go through the tunnel; first of all routers.")
    text += comment(
        "self = send: the address is this host's own, for which the default is to freeze the message. no_more: were "
        "another router asked next, it could find a way around the tunnel."
    )
    for number, route in enumerate(plan.routes, 1):
        text += _router(f"hubtunnel_{number}", route, f"  domains = {_domain_list(route.domains)}\n")
    if plan.smarthost:
        text += comment(f"All mail for elsewhere goes to {plan.smarthost.peer}.")
        text += _router("hubtunnel_smarthost", plan.smarthost, "  domains = ! +local_domains\n")
    return block("hubtunnel", [text])


def _router(name: str, route: Route, condition: str) -> str:
    return (
        f"{name}:\n"
        f"  # {route.peer}\n"
        "  driver = manualroute\n"
        f"{condition}"
        "  transport = hubtunnel\n"
        f'  route_list = * "{_host_list(route)}"\n'
        "  self = send\n"
        "  host_find_failed = defer\n"
        "  no_more\n"
    )


def _here(inlet: Inlet) -> str:
    """Whether a connection came in by this listener."""
    return f"and{{{{eq{{$received_port}}{{{inlet.port}}}}}{{eqi{{$received_ip_address}}{{{inlet.host}}}}}}}"


def _any_here(plan: Plan) -> str:
    return f"or{{{''.join(f'{{{_here(inlet)}}}' for inlet in plan.inlets)}}}"


def _acl(plan: Plan) -> str:
    text = head(plan, "First in the ACL for recipients.")
    text += comment("From the tunnel: to our own domains and to no other, whoever logged in.")
    text += (
        "  deny\n"
        "    message = relay not permitted through the tunnel\n"
        f"    condition = ${{if {_any_here(plan)}}}\n"
        "    ! domains = +local_domains : +relay_to_domains\n"
    )
    for inlet in plan.inlets:
        if inlet.peer:
            text += comment("Which hub was authenticated, and not what a message says of itself.")
            text += (
                "  warn\n"
                f"    condition = ${{if {_here(inlet)}}}\n"
                "    remove_header = X-Hubtunnel-Peer\n"
                f"    add_header = :at_start:X-Hubtunnel-Peer: {inlet.peer}\n"
            )
    if plan.domains:
        text += comment(
            "Peers' domains in clear. Whoever stands between two hubs could otherwise send as the peer on port 25. "
            "Mail of these domains that others forward with the sender unchanged is refused with it."
        )
        text += (
            "  deny\n"
            "    message = mail from $sender_address_domain comes through hubtunnel only\n"
            f"    sender_domains = {_domain_list(plan.domains)}\n"
            "    ! hosts = : 127.0.0.1 : ::::1\n"
            f"    ! condition = ${{if {_any_here(plan)}}}\n"
        )
    return block("hubtunnel", [text])


def _main(plan: Plan) -> str:
    """Options of the main part; empty but for remarks where there is no PROXY."""
    text = head(plan, "In the main part of the configuration.")
    proxied = [inlet for inlet in plan.inlets if inlet.proxy_protocol != "none"]
    if proxied:
        text += comment(
            "The PROXY header (v1 or v2) gives the peer's address, for SPF and the log. It is expected from the source "
            "address that hubtunnel alone uses. Debian's exim4-daemon-light cannot do this (exim4 -bV names PROXY "
            'where it can): there, set proxy_protocol = "none" in hubtunnel.toml.'
        )
        text += f"hosts_proxy = <; {' ; '.join(sorted({inlet.source for inlet in proxied}))}\n"
    else:
        text += comment(
            "proxy_protocol is none: peers seem to come from the source address, and SPF cannot be checked."
        )
    return block("hubtunnel", [text])


def _steps(plan: Plan) -> str:
    body = WITHOUT_BLOCKS + "\n" + _STEPS
    body += "\n# where Exim listens besides\n"
    for inlet in plan.inlets:
        body += f"listen '[{inlet.host}]:{inlet.port}'\n"
    body += _RESTART
    return script("Puts the files beside it into Exim, as root; may be run again at any time.", body)
