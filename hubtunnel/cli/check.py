"""`hubtunnel check`: everything that is wrong, at once, without starting anything."""

from __future__ import annotations

import argparse
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from hubtunnel.cli.common import ANSWER_IS_NO, DONE, add_json, print_json, rfc3339
from hubtunnel.config import DEFAULT_PATH, Config, config_path, load_with_problems
from hubtunnel.errors import CardError, ConfigError, KeyFileError
from hubtunnel.identity import files, keyfiles
from hubtunnel.identity.card import SignedCard
from hubtunnel.identity.chain import accept_first, accept_successor
from hubtunnel.identity.pins import HubKeys, load_hub
from hubtunnel.identity.state import State, StateError
from hubtunnel.identity.windows import CLOCK_MIN, DAY
from hubtunnel.protocol.constants import HOUR
from hubtunnel.protocol.pair import LinkPublic, LinkSecret

_EXPIRY_WARNINGS = 30 * DAY  # warn so long before the last link key ends
_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")


@dataclass
class Findings:
    """What `check` found: problems stop a daemon or mail, warnings will or may."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `check`."""
    parser = commands.add_parser(
        "check",
        help="say everything that is wrong, without starting",
        description="Checks configuration, key files, owners and modes, windows, cards and the clock. "
        "Exit status 0: nothing is wrong; 1: something is.",
    )
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    findings = examine(config_path(args.config), time.time())
    if args.json:
        print_json(
            {
                "ok": not findings.problems,
                "problems": findings.problems,
                "warnings": findings.warnings,
                "facts": findings.facts,
            }
        )
    else:
        for fact in findings.facts:
            print(f"ok       {fact}")
        for warning in findings.warnings:
            print(f"warning  {warning}")
        for problem in findings.problems:
            print(f"PROBLEM  {problem}")
        count = len(findings.problems)
        print(f"{count} problem{'s' if count != 1 else ''}" if count else "nothing is wrong")
    return ANSWER_IS_NO if findings.problems else DONE


def examine(path: Path, now: float) -> Findings:
    """Everything that can be said about the hub configured in `path` at the unix time `now`."""
    findings = Findings()
    _clock(findings, now)
    config, problems = load_with_problems(path)
    findings.problems += problems
    if config is None:
        return findings
    if not problems:
        findings.facts.append(f"{path}: read, {len(config.peers)} peers")
    findings.problems += _configuration_modes(config)
    try:
        with State.open(config.state) as state:
            _state(findings, config, state, now, whole=not problems)
    except StateError as exc:
        findings.problems.append(str(exc))
    return findings


# --- clock and files ------------------------------------------------------------------------------------------


def _clock(findings: Findings, now: float) -> None:
    if now < CLOCK_MIN:
        findings.problems.append(f"the clock says {rfc3339(now)}: it was never set, and no peer will answer")
        return
    sure = "it is synchronised" if _SYNCHRONISED.exists() else "whether it is synchronised cannot be told here"
    findings.facts.append(f"the clock says {rfc3339(now)} ({sure}); beyond {HOUR // 60} minutes off, peers stay silent")


def _configuration_modes(config: Config) -> Iterator[str]:
    """Who can write the configuration chooses whom we trust."""
    paths = [config.path, config.path.parent, config.peers_folder]
    for peer in config.peers:
        paths += [peer.path, peer.card_path]
    for path in paths:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        except OSError as exc:
            yield f"{path}: cannot be looked at: {exc.strerror}"
            continue
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            yield f"{path}: anybody may write it, and so choose whom this hub trusts: chmod o-w {path}"


def _state_modes(config: Config, state: State) -> Iterator[str]:
    full = files.want_of_room(state.folder)
    if full is not None:
        yield full
    found = state.folder.stat()
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        yield f"{state.folder}: has mode {mode:04o}, it holds private keys: chmod 0700 {state.folder}"
    service = files.service_owner()
    # The service's folder must be the service user's; any other belongs to whoever made it, with all that is in it.
    owner = service[0] if service is not None and config.path == DEFAULT_PATH else found.st_uid
    foreign = next((path for path in (state.folder, *state.folder.rglob("*")) if path.lstat().st_uid != owner), None)
    if foreign is not None:
        yield (
            f"{foreign}: belongs to {files.user_name(foreign.lstat().st_uid)}, not to {files.user_name(owner)}: "
            f"chown -R {files.user_name(owner)} {state.folder}"
        )


# --- keys and cards -------------------------------------------------------------------------------------------


def _state(findings: Findings, config: Config, state: State, now: float, *, whole: bool) -> None:
    findings.problems += _state_modes(config, state)
    _identity(findings, config, state)
    if not whole:
        # The peers could not all be read, so only our own keys can be judged.
        findings.problems += state.link_keys()[1]
        return
    try:
        hub = load_hub(config, state)
    except ConfigError as exc:
        findings.problems += exc.problems
        return
    findings.warnings += [notice.text for notice in hub.notices if notice.alarm]
    findings.facts += [notice.text for notice in hub.notices if not notice.alarm]
    findings.facts += _credentials(config)
    _windows(findings, hub, now)


def _identity(findings: Findings, config: Config, state: State) -> None:
    try:
        cards = state.cards()
    except StateError as exc:
        findings.problems.append(str(exc))
        return
    if not cards:
        return  # load_hub says so
    findings.problems += _chain(cards, state)
    own = cards[-1].card
    if own.name.lower() != config.name:
        findings.problems.append(
            f"{config.path}: name: is {config.name!r}, the hub's card says {own.name!r}: set it back"
        )
    if not state.has_identity():
        findings.facts.append("the identity key is not on this machine; link keys and cards must come from where it is")
        return
    try:
        if keyfiles.is_locked(state.identity_path):
            findings.facts.append(f"{state.identity_path}: is under a passphrase, so it was not compared with the card")
        elif state.identity().public.idfp != own.idfp:
            findings.problems.append(f"{state.identity_path}: is not the identity of card {own.serial}")
    except KeyFileError as exc:
        findings.problems.append(str(exc))


def _chain(cards: list[SignedCard], state: State) -> Iterator[str]:
    try:
        accept_first(cards[0].card.idfp, cards[0])
        for before, after in pairwise(cards):
            if after.card.serial == before.card.serial + 1:
                accept_successor(before, after)
    except CardError as exc:
        yield f"{state.folder / 'cards'}: {exc}"


def _credentials(config: Config) -> Iterator[str]:
    for peer in config.peers:
        if peer.psk_file is not None and peer.psk is None:
            yield (
                f"{peer.path}: psk_file: is the systemd credential {peer.psk_file.credential}, which only the service "
                "has: not looked at"
            )


def _windows(findings: Findings, hub: HubKeys, now: float) -> None:
    listed = {key.id for key in hub.card.card.link_keys}
    _judge(
        findings,
        "this hub",
        [key for key in hub.links if key.id in listed],
        now,
        "`hubtunnel key rotate` where the identity key is (from another machine: `key export`, `key import`), then "
        "`hubtunnel card --since N` for the peers' `peer update`",
    )
    for peer in hub.peers:
        _judge(
            findings, f"peer {peer.name}", peer.links, now, "its admin has a newer card: `hubtunnel peer update CARD`"
        )


def _judge(
    findings: Findings, whose: str, keys: list[LinkSecret] | tuple[LinkPublic, ...], now: float, cure: str
) -> None:
    good = [key for key in keys if key.not_before <= now < key.not_after]
    if not good:
        begins = min((key.not_before for key in keys if key.not_before > now), default=None)
        if begins is not None:
            text = f"no link key is in its window, the next begins {rfc3339(begins)}: is the clock right?"
        else:
            text = f"every link key is past its window: {cure}"
        findings.problems.append(f"{whose}: {text}")
        return
    ends = max(key.not_after for key in keys)
    findings.facts.append(f"{whose}: {len(good)} of {len(keys)} link keys in window, the last ends {rfc3339(ends)}")
    if ends - now < _EXPIRY_WARNINGS:
        findings.warnings.append(f"{whose}: the last link key ends in {int((ends - now) // DAY)} days")
