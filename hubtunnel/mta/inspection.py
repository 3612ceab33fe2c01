"""Which way this host's mail server would send mail for a domain, asked of the server's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hubtunnel.errors import HubtunnelError
from hubtunnel.mta.plan import quotable

TIMEOUT = 30.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class InspectionError(HubtunnelError):
    """The mail server could not be asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Way:
    """Where mail goes: each place as ``host:port``, the second and later ones when the first does not answer.

    `others` names what else would take it, such as a fallback relay.
    """

    places: tuple[str, ...]
    others: tuple[str, ...] = ()


def detect() -> str | None:
    """The mail server of this host by its tools, as `hubtunnel mta` calls it; None when none is known."""
    return next((name for name, there in _SIGNS.items() if there()), None)


def way(mta: str, domain: str, *, bounce: bool = False) -> Way:
    """Which way mail for `domain` goes, or a bounce (a message without a sender). Raises `InspectionError`."""
    return _WAYS[mta](quotable(domain), bounce)


def place(host: str, port: int) -> str:
    """As `Way.places` has it."""
    return f"[{host}]:{port}"


def _which(program: str) -> str | None:
    return shutil.which(program, path=_PATH)


def _tool(program: str) -> Callable[[], bool]:
    return lambda: _which(program) is not None


# Every one of them brings a `sendmail`; what tells them apart is what only one has.
_SIGNS: dict[str, Callable[[], bool]] = {
    "exim": lambda: _which("exim4") is not None or _which("exim") is not None,
    "courier": _tool("courieresmtpd"),
    "opensmtpd": _tool("smtpctl"),
    "qmail": lambda: Path("/var/qmail/bin/qmail-remote").exists(),
    "sendmail": lambda: Path("/etc/mail/sendmail.cf").exists() and _which("makemap") is not None,
    "postfix": lambda: Path("/etc/postfix/main.cf").exists() and _which("postconf") is not None,
}


def _ask(*argv: str, text: str | None = None, statuses: tuple[int, ...] = (0,)) -> str:
    program = _which(argv[0])
    if program is None:
        raise InspectionError(f"there is no program {argv[0]}")
    try:
        ended = subprocess.run(  # noqa: S603 - programs of the mail server, arguments that `quotable` has looked at
            [program, *argv[1:]], input=text or "", capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise InspectionError(f"{argv[0]}: {exc}") from exc
    if ended.returncode not in statuses:
        raise InspectionError(f"{argv[0]} ended with status {ended.returncode}: {ended.stderr.strip()[:300]}")
    return ended.stdout


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise InspectionError(f"{path}: {exc.strerror}") from exc


# --- Postfix --------------------------------------------------------------------------------------------------


def _postfix(domain: str, bounce: bool) -> Way:
    """transport(5): the maps in their order, each for the address and then for the domain."""
    for table in re.split(r"[,\s]+", _ask("postconf", "-xh", "transport_maps").strip()):
        if not table:
            continue
        for key in (f"postmaster@{domain}", domain):
            found = _ask("postmap", "-q", key, table, statuses=(0, 1)).strip()
            if found:
                return _postfix_way(found)
    relay = _ask("postconf", "-xh", "relayhost").strip()
    return Way((), (f"relayhost {relay}" if relay else "the domain's own mail exchangers (MX)",))


def _postfix_way(found: str) -> Way:
    transport, _, nexthop = found.partition(":")
    places = tuple(_normal(each) for each in re.split(r"[,\s]+", nexthop) if each)
    others = []
    fallback = _ask("postconf", "-P", f"{transport}/unix/smtp_fallback_relay", statuses=(0, 1)).partition("=")
    relay = fallback[2].strip() if fallback[1] else _ask("postconf", "-xh", "smtp_fallback_relay").strip()
    if relay:
        others.append(f"smtp_fallback_relay {relay}")
    if not places:
        others.append(f"transport {transport} without a next hop")
    return Way(places, tuple(others))


def _normal(nexthop: str) -> str:
    """``[127.0.1.2]:24`` as it is; ``[127.0.1.2]`` with the port that it means."""
    return nexthop if re.search(r"\]:\d+$", nexthop) else f"{nexthop}:25"


# --- Exim -----------------------------------------------------------------------------------------------------


def _exim(domain: str, bounce: bool) -> Way:
    program = "exim4" if _which("exim4") else "exim"
    sender = ("-f", "<>") if bounce else ()
    said = _ask(program, *sender, "-bt", f"postmaster@{domain}", statuses=(0, 1, 2))
    places = []
    for host, port in re.findall(r"^\s+host .*?\[([0-9a-fA-F.:]+)\](?:.*?\bport=(\d+))?", said, re.MULTILINE):
        places.append(place(host, int(port or 25)))
    transport = re.search(r"transport = (\S+)", said)
    others = []
    if transport is None:
        others.append(said.strip().splitlines()[-1] if said.strip() else "nowhere")
    else:
        fallback = re.search(r"^fallback_hosts = (.+)$", _ask(program, "-bP", "transport", transport[1]), re.MULTILINE)
        if fallback:
            others.append(f"fallback_hosts {fallback[1]}")
        if not places:
            others.append(f"transport {transport[1]}")
    return Way(tuple(places), tuple(others))


# --- sendmail -------------------------------------------------------------------------------------------------


def _sendmail(domain: str, bounce: bool) -> Way:
    said = _ask("sendmail", "-bv", f"postmaster@{domain}", statuses=tuple(range(80)))
    found = re.search(r"mailer (\S+), host (\S+), user", said)
    if found is None:
        return Way((), (said.strip()[:200] or "nowhere",))
    mailer, host = found[1], found[2].strip("[]").removeprefix("IPv6:")
    described = _ask("sendmail", "-bt", text="=M\n")
    argv = re.search(rf"\({re.escape(mailer)}\):.*?A=([^\n]*)", described, re.DOTALL)
    words = argv[1].split() if argv else []
    port = int(words[2]) if len(words) > 2 and words[2].isdigit() else 25
    fallback = re.search(r"^O\s*FallbackMXhost=(\S+)", _read("/etc/mail/sendmail.cf"), re.MULTILINE)
    others = (f"FallbackMXhost {fallback[1]}",) if fallback else ()
    if not found[2].startswith("["):
        return Way((), (f"mailer {mailer} to the mail exchangers of {host}", *others))
    return Way((place(host, port),), others)


# --- those that cannot be asked, so that their files are read ---------------------------------------------------


def _opensmtpd(domain: str, bounce: bool) -> Way:
    """The first rule that matches mail of this host for the domain. Only what our recipe writes is understood."""
    main = next(
        (path for path in ("/etc/smtpd.conf", "/etc/mail/smtpd.conf") if Path(path).exists()), "/etc/smtpd.conf"
    )
    lines = _opensmtpd_lines(main)
    actions: dict[str, str] = {}
    for line in lines:
        action = re.match(r'action\s+"?([^"]+?)"?\s+(relay\b.*)', line)
        if action:
            actions[action[1]] = action[2]
        rule = re.match(r'match\s+(?!.*\btag\b)(?!.*!from)(?!.*\bmail-from\b)(.*?)\s+action\s+"?([^"]+?)"?$', line)
        if rule and (f'"{domain}"' in rule[1] or "for any" in rule[1]) and "from auth" not in rule[1]:
            relay = actions.get(rule[2], "")
            host = re.search(r'host\s+"?smtp(?:\+notls)?://(\[[^\]]+\]|[^:"/]+)(?::(\d+))?', relay)
            if host is None:
                return Way((), (f'action "{rule[2]}": {relay or "not a relay"}',))
            return Way((place(host[1].strip("[]"), int(host[2] or 25)),))
    return Way((), ("no rule",))


def _opensmtpd_lines(path: str) -> list[str]:
    lines = []
    for line in _read(path).splitlines():
        line = line.partition("#")[0].strip()
        included = re.match(r'include\s+"([^"]+)"', line)
        lines += _opensmtpd_lines(included[1]) if included else [line]
    return lines


def _courier(domain: str, bounce: bool) -> Way:
    """esmtproutes of courier(8): the first line for the domain, for a domain above it, or for all."""
    for line in _read("/etc/courier/esmtproutes").splitlines():
        if line.startswith("#") or ":" not in line:
            continue
        name, _, relay = line.partition(":")
        name = name.strip()
        if name and name != domain and not (name.startswith(".") and domain.endswith(name)):
            continue
        found = re.match(r"\s*\[([0-9a-fA-F.:]+)\](?:,(\d+))?", relay)
        if found is None:
            return Way((), (f"the mail exchangers of {relay.strip() or domain}",))
        return Way((place(found[1], int(found[2] or 25)),))
    return Way((), ("the domain's own mail exchangers (MX)",))


def _qmail(domain: str, bounce: bool) -> Way:
    """qmail-remote(8): the domain itself, then each name above it with a dot in front, then the empty one."""
    routes = dict(line.split(":", 1) for line in _read("/var/qmail/control/smtproutes").split() if ":" in line)
    labels = domain.split(".")
    keys = [domain, *("." + ".".join(labels[at:]) for at in range(1, len(labels))), ""]
    relay = next((routes[key] for key in keys if key in routes), "")
    host, _, port = relay.partition(":")
    if not host:
        return Way((), ("the domain's own mail exchangers (MX)",))
    return Way((place(host, int(port or 25)),))


_WAYS: dict[str, Callable[[str, bool], Way]] = {
    "postfix": _postfix,
    "exim": _exim,
    "sendmail": _sendmail,
    "opensmtpd": _opensmtpd,
    "courier": _courier,
    "qmail": _qmail,
}
