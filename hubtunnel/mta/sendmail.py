"""sendmail 8, from 8.14 on, where its configuration is made from `sendmail.mc`."""

from __future__ import annotations

from hubtunnel.errors import UsageError
from hubtunnel.mta.plan import Inlet, Plan, Route, brackets
from hubtunnel.mta.recipe import File, Recipe
from hubtunnel.mta.text import WITHOUT_BLOCKS, block, comment, head, script

_DNL = "dnl #"

_STEPS = """\
cd /etc/mail
# before FILE PATTERN LINE...: puts lines before the first that matches, at the end where none does
before() {
    awk -v pattern="$2" -v text="$3" '
        $0 ~ pattern && !done { printf "%s", text; done = 1 }
        { print }
        END { if (!done) printf "%s", text }
    ' "$1" >"$1.new"
    cat "$1.new" >"$1"
    rm "$1.new"
}

for file in access mailertable; do
    [ -e "$file" ] || : >"$file"
    without "$file"
    cat "$here/hubtunnel.$file" >>"$file"
    makemap hash "$file" <"$file"
done
install -m 644 "$here/hubtunnel.domains" "$here/hubtunnel-features.m4" "$here/hubtunnel-rules.m4" .

without sendmail.mc
mailertable=
if ! grep -q '^FEATURE(`mailertable' sendmail.mc; then
    mailertable="FEATURE(\\`mailertable')dnl
"
fi
# Features have to stand before the first MAILER.
before sendmail.mc '^(MAILER_DEFINITIONS|MAILER\\\\()' "dnl # BEGIN hubtunnel features
${mailertable}include(\\`/etc/mail/hubtunnel-features.m4')dnl
dnl # END hubtunnel features
"
cat >>sendmail.mc <<'EOF'
dnl # BEGIN hubtunnel rules
include(`/etc/mail/hubtunnel-rules.m4')dnl
dnl # END hubtunnel rules
EOF
m4 sendmail.mc >sendmail.cf.new
cat sendmail.cf.new >sendmail.cf
rm sendmail.cf.new

sendmail -bt -d0.1 -C /etc/mail/sendmail.cf </dev/null >/dev/null
if [ -d /run/systemd/system ]; then
    systemctl restart sendmail
else
    echo 'now restart sendmail'
fi
cd "$here"
"""


def recipe(plan: Plan) -> Recipe:
    """The recipe for sendmail.

    Raises `UsageError` where PROXY is wanted, or no source of its own is set: to 127.0.0.1 sendmail relays.
    """
    for inlet in plan.inlets:
        _check(inlet)
    files = (
        File("hubtunnel.mailertable", _mailertable(plan)),
        File("hubtunnel.access", _access(plan)),
        File("hubtunnel.domains", _domains(plan)),
        File("hubtunnel-features.m4", _features(plan)),
        File("hubtunnel-rules.m4", _rules(plan)),
    )
    body = "here=$(pwd)\n" + WITHOUT_BLOCKS + "\n" + _STEPS
    return Recipe("sendmail", files, script("Puts the files beside it into sendmail, as root; may be run again.", body))


def _check(inlet: Inlet) -> None:
    if inlet.proxy_protocol != "none":
        raise UsageError(
            f'{inlet.host} port {inlet.port}: no release of sendmail takes a PROXY header: set proxy_protocol = "none"'
        )
    if not inlet.source or inlet.source in ("127.0.0.1", "::1"):
        raise UsageError(
            f"{inlet.host} port {inlet.port}: sendmail relays for 127.0.0.1 and ::1: "
            'set source = "127.0.0.25" in [deliver]'
        )


def _routes(plan: Plan) -> list[Route]:
    return [*plan.routes, *([plan.smarthost] if plan.smarthost else [])]


def _mailer(port: int) -> str:
    return f"hubtunnel{port}"


def _mailertable(plan: Plan) -> str:
    text = head(plan, "Which domains go through the tunnel. Brackets: an address, no MX lookup.")
    text += "".join(
        f"{domain}\t{_mailer(route.port)}:{brackets(route.host)}\n" for route in plan.routes for domain in route.domains
    )
    return block("hubtunnel", [text])


def _access(plan: Plan) -> str:
    text = head(plan, "Of the access map: who is let in, and what is not tried.")
    text += comment(
        "hubtunnel's own source address. Debian's stock file has Connect:127 RELAY, so without the first of these "
        "lines every peer could relay anywhere."
    )
    for source in sorted({inlet.source for inlet in plan.inlets}):
        name = f"IPv6:{source}" if ":" in source else source
        text += f"Connect:{name}\tOK\nGreetPause:{name}\t0\nClientRate:{name}\t0\nClientConn:{name}\t0\n"
    text += comment("The tunnel encrypts; STARTTLS inside it with the peer's own listener proves nothing.")
    for host in sorted({route.host for route in _routes(plan)}):
        text += f"Try_TLS:{'IPv6:' if ':' in host else ''}{host}\tNO\n"
    return block("hubtunnel", [text])


def _domains(plan: Plan) -> str:
    return "".join(f"{domain}\n" for domain in plan.domains)


def _features(plan: Plan) -> str:
    text = head(plan, "Listeners for mail out of the tunnel.", sign=_DNL)
    text += comment("M=A: nobody logs in here. M=S: no STARTTLS on loopback. M=E: no ETRN.", sign=_DNL)
    for inlet in plan.inlets:
        text += comment(f"Mail of {', '.join(inlet.peers) or 'peers'}.", sign=_DNL)
        family = "inet6" if ":" in inlet.host else "inet"
        text += (
            f"DAEMON_OPTIONS(`Family={family}, Name={_mailer(inlet.port)}, Addr={inlet.host}, Port={inlet.port}, "
            "M=ASE')dnl\n"
        )
    if plan.smarthost:
        text += comment(f"All mail for elsewhere goes to {plan.smarthost.peer}.", sign=_DNL)
        text += f"define(`SMART_HOST', `{_mailer(plan.smarthost.port)}:{brackets(plan.smarthost.host)}')dnl\n"
    return text


def _rules(plan: Plan) -> str:
    text = head(plan, "Peers' domains in clear, and the mailers into the tunnel.", sign=_DNL)
    text += comment(
        "Whoever stands between two hubs could otherwise send as the peer on port 25. Mail of these domains that "
        "others forward with the sender unchanged is refused with it.",
        sign=_DNL,
    )
    text += "LOCAL_CONFIG\nF{HubtunnelDomain}/etc/mail/hubtunnel.domains\nLOCAL_RULESETS\nSLocal_check_mail\n"
    text += "R$*\t\t\t$: $&{daemon_name} $| $1\n"
    for port in sorted({inlet.port for inlet in plan.inlets}):
        text += f"R{_mailer(port)} $| $*\t\t$@ OK\n"
    text += (
        "R$* $| $*\t\t\t$: $&{client_addr} $| $2\n"
        "R127.$* $| $*\t\t$@ OK\n"
        "RIPv6:::1 $| $*\t\t$@ OK\n"
        "R$| $*\t\t\t$@ OK\n"
        "R0 $| $*\t\t$@ OK\n"
        "R$* $| $*\t\t\t$: $>CanonAddr $2\n"
        'R$* < @ $={HubtunnelDomain} > $*\t$#error $@ 5.7.1 $: "550 mail from " $2 " comes through hubtunnel only"\n'
        'R$* < @ $={HubtunnelDomain} . > $*\t$#error $@ 5.7.1 $: "550 mail from " $2 " comes through hubtunnel only"\n'
    )
    text += comment(
        "As the mailer esmtp, with a port. Never with the flag k: without it sendmail notices that a tunnel ends at "
        "itself. L: lines of 998 characters are allowed, and a shorter limit would cut them.",
        sign=_DNL,
    )
    text += "MAILER_DEFINITIONS\n"
    for port in sorted({route.port for route in _routes(plan)}):
        text += (
            f"M{_mailer(port)},\tP=[IPC], F=mDFMuXa, S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, E=\\r\\n, L=1000,\n"
            f"\t\tT=DNS/RFC822/SMTP,\n\t\tA=TCP $h {port}\n"
        )
    return text
