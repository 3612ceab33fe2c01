"""The failures, all made at once: one hub whose peers each fail it in another way, and hubs that cannot start."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from functools import partial

from tests.e2e.processes import run, wait_until
from tests.failures.lab import NETWORK, USER, Host, Hub, hosts, side_by_side
from tests.failures.rows import Row, logged, of_doctor, of_status, plain, quoted

CLOCK = ("env", "DONT_FAKE_MONOTONIC=1", "faketime", "-f")
"""What is started behind it lives at another time of day."""

HERE = {"hub": 1}
DAEMONS = {"well": 2, "clock": 6, "pin": 7, "psk": 8, "keys": 9, "mta": 10, "port": 11, "full": 12}
"""Hubs that run on the other host -> the last part of their address."""
ABSENT = {"down": 3, "drop": 4, "route": 5}
"""Addresses at which nobody answers, each for its own reason."""
NAMES = {"gone": "mx.gone.example", "unknown": "mx.unknown.example", "never": ""}
"""Peers without an address."""

REASONS = {
    "down": "refused",
    "gone": "dns",
    "unknown": "dns",
    "drop": "timeout",
    "route": "unreachable",
    "clock": "silent",
    "pin": "silent",
    "psk": "silent",
    "keys": "silent",
    "never": "never",
}
"""Peer -> the code of the reason for which it is not up."""
TOLD = ("mta", "port")
"""Peers that are up, and refuse mail."""
BROKEN = ("typo", "other", "owner", "taken", "ended")
"""Hubs that cannot start."""

WRONG = {
    "down": "peer down: its host answers, no daemon runs there",
    "gone": "DNS gone: the resolver does not answer",
    "unknown": "a name that does not exist in `endpoints`",
    "drop": "port blocked: a firewall that drops",
    "route": "port blocked: a firewall or router that rejects",
    "clock": "the peer's clock two hours ahead",
    "pin": "wrong pin: the peer was set up anew and has another identity",
    "psk": "a pre-shared key on the peer alone",
    "keys": "keys expired: those of the peer ended, and we know no newer card",
    "never": "a peer that dials us, and does not",
    "mta": "mail server down at the peer",
    "port": "wrong delivery port: the peer's `[deliver] address` is its mail server's port 25",
}


class Cases:
    """All of it, running; `rows` are read once."""

    def __init__(self, stack: ExitStack) -> None:
        there = [f"{NETWORK}.{number}" for number in (*DAEMONS.values(), ABSENT["down"]) if number > 2]
        zone = (f"--server=/gone.example/{NETWORK}.250", "--local=/#/")
        self.folder, (self.here, self.there) = stack.enter_context(hosts("ab", there, zone))
        self.hub = self._made("hub", self.here)
        self.peers: dict[str, Hub] = {}
        self.letters = 0
        for number, who in enumerate((*DAEMONS, *ABSENT, *NAMES)):
            self._introduce(self._peer(who), number + 2)
        self.broken = {who: self._made(who, self.there) for who in BROKEN}
        for peer in self.peers.values():
            stack.callback(peer.stop)
        stack.callback(self.hub.stop)

    # --- making them ----------------------------------------------------------------------------------------------

    def _made(self, who: str, host: Host) -> Hub:
        number = {**HERE, **DAEMONS, **ABSENT}.get(who, 200)
        hub = Hub(who, host, self.folder / who, f"{NETWORK}.{number}")
        ended = (*CLOCK, "-400d") if who in ("keys", "ended") else ()
        hub.init(*ended, deliver={"mta": "127.0.0.1:27", "port": "127.0.0.1:25"}.get(who, "127.0.0.1:26"))
        hub.edit(hub.config, r"^# *hold = .*$", 'hold = "1s"')  # nobody here waits for a peer to come back
        return hub

    def _peer(self, who: str) -> Hub:
        peer = self.peers[who] = self._made(who, self.there)
        if who == "keys":
            (peer.folder / "state" / "identity.key").unlink()  # as where it lives on another machine, and nobody came
        return peer

    def _introduce(self, peer: Hub, number: int) -> None:
        endpoint = NAMES.get(peer.who, peer.address)
        self.hub.introduce(peer, endpoint=endpoint, listen=f"127.0.1.{number}:24", domains=[peer.domain])
        if peer.who == "pin":
            shutil.rmtree(peer.folder)
            peer.init()
        if peer.who in DAEMONS:
            listen = "127.0.1.2:24" if peer.who == "well" else f"127.0.2.{number}:24"
            # Whoever is to be up dials as well, and at once: the hub has given up hope meanwhile, and dials seldom.
            endpoint = "" if peer.who in REASONS else self.hub.address
            peer.introduce(self.hub, endpoint=endpoint, listen=listen, domains=[self.hub.domain])
        if peer.who == "psk":
            peer.command("key", "psk", self.hub.name)

    def _break(self) -> None:
        """What keeps the hubs of `BROKEN` from starting."""
        typo, other, owner, taken, ended = (self.broken[who] for who in BROKEN)
        typo.edit(typo.config, r"^hold = .*$", 'hodl = "5s"')
        other.introduce(self.peers["well"], listen="127.0.3.2:24")
        fingerprint = self.hub.command("card", "--fingerprint").splitlines()[0]
        other.edit(other.peer_file(self.peers["well"]), r"^pin = .*$", f'pin = "{fingerprint}"')
        for key in (owner.folder / "state" / "keys").iterdir():
            shutil.chown(key, "nobody")
        taken.edit(taken.config, r"^listen = .*$", f'listen = ["{self.peers["well"].address}:2625"]')
        for key in (ended.folder / "state" / "keys").iterdir():
            key.unlink()  # as the daemon does a day after their end
        (ended.folder / "state" / "identity.key").unlink()

    def _small_disk(self) -> None:
        """The state of `full` on a disk of its own, on its own host."""
        state = self.peers["full"].folder / "state"
        self.there.machine.sh(
            f"cp -a {state} {state}.before; mount -t tmpfs -o size=4m,mode=0700 tmpfs {state};"
            f" cp -a {state}.before/. {state}"
        )

    def start(self) -> None:
        """Everything that runs; returns when each peer has failed, or has not, in its own way."""
        self._break()
        for hub in (self.hub, self.peers["well"]):
            hub.command("mta", "postfix", "--write", str(hub.folder / "postfix"))
        network = self.here.namespace
        run("ip", "-n", network.name, "route", "add", "unreachable", f"{NETWORK}.{ABSENT['route']}")
        # Everything that is sent there arrives at a card that is not its own, and is dropped without a word.
        neighbour = ("neigh", "replace", f"{NETWORK}.{ABSENT['drop']}", "lladdr", "02:00:00:00:00:04")
        run("ip", "-n", network.name, *neighbour, "nud", "permanent", "dev", network.interface)
        self._small_disk()
        # While Postfix is made, the dials that nobody answers take their time.
        silent = [self.peers[who] for who in DAEMONS if REASONS.get(who) == "silent"]
        for peer in silent:
            peer.start(*((*CLOCK, "+2h") if peer.who == "clock" else ()))
        for peer in silent:
            peer.wait_until_started()
        self.hub.start()
        side_by_side(
            partial(self.here.start_postfix, self.hub),
            partial(self.there.start_postfix, self.peers["well"], self.peers["full"]),
        )
        others = [self.peers[who] for who in DAEMONS if who not in REASONS]
        for peer in others:
            peer.start()
        for peer in others:
            peer.wait_until_started()
        wait_until(self._as_expected, "every peer up, or down for its own reason", detail=lambda: str(self._reasons()))

    def _reasons(self) -> dict[str, str]:
        peers = {peer["name"]: peer for peer in self.hub.status()["peers"]}
        found = {who: peers[peer.name] for who, peer in self.peers.items()}
        return {
            who: "up" if peer["state"] == "up" else (peer["last_error"] or {"code": ""})["code"]
            for who, peer in found.items()
        }

    def _as_expected(self) -> bool:
        up = dict.fromkeys(DAEMONS, "up")
        return self._reasons() == {**up, **REASONS}

    # --- reading them ---------------------------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """Each failure in the words of those who saw it, those of peers first."""
        waiting = {peer.domain: peer for peer in self.peers.values() if peer.who in (*REASONS, *TOLD)}
        self.here.send(f"{USER}@{self.hub.domain}", [f"{USER}@{peer.domain}" for peer in self.peers.values()])
        wait_until(
            lambda: (
                {f"{USER}@{domain}" for domain in waiting} == {who for who, why in self.here.queue().items() if why}
            ),
            "a reason for each letter",
            detail=lambda: str(self.here.queue()),
        )
        self._crosses(self.peers["well"])  # the control: what fails here is not the laboratory
        self.queue, self.screen = self.here.queue(), self.hub.says("status")
        asked = (self.hub, *(self.peers[who] for who in TOLD), *self.broken.values())
        answers = side_by_side(*(partial(self._doctor, hub) for hub in asked))
        self.findings = {hub.who: answer for hub, answer in zip(asked, answers, strict=True)}
        peers = [*map(self._of_peer, REASONS), *map(self._of_mail_server, TOLD)]
        own = [self._full(), self._mistake_while_it_runs(), self._second()]
        starts = side_by_side(*(partial(self._of_start, who) for who in BROKEN))
        return [*peers, *own, self._no_daemon(), *starts]

    def _crosses(self, peer: Hub) -> None:
        """A letter to a peer, and its arrival."""
        self.letters += 1
        subject = f"letter {self.letters} to {peer.domain}"
        self.here.send(f"{USER}@{self.hub.domain}", [f"{USER}@{peer.domain}"], subject)
        wait_until(lambda: subject in self.there.mailbox(), subject, detail=lambda: str(self.here.queue()))

    def _doctor(self, hub: Hub) -> list[dict[str, str]]:
        """What `doctor` finds; what it says of a configuration that it cannot read, as one finding."""
        said = hub.on_host("doctor", "--json", "--mta", "postfix")
        if not said.startswith("{"):
            return [{"verdict": "wrong", "check": "doctor", "about": "this hub", "text": said, "cure": ""}]
        findings: list[dict[str, str]] = json.loads(said)["findings"]
        return findings

    def _near(self, who: str) -> Row:
        """What the hub and its mail server say of a peer."""
        peer = self.peers[who]
        queue = plain(self.queue[f"{USER}@{peer.domain}"].partition(" refused to talk to me: ")[2], self.hub)
        status = of_status(self.hub, self.screen, f"{peer.name}:", known=queue)
        known = queue + "".join(status)
        return Row(
            WRONG[who],
            [quoted(queue)],
            status,
            # Whoever is up now was started a moment after the first dial.
            logged(self.hub, *(["dial_failed"] if who in REASONS else []), "stream", peer=peer, known=known),
            of_doctor(self.hub, self.findings["hub"], [peer.name], ("peer up", "peer's mail server", "check"), known),
        )

    def _of_peer(self, who: str) -> Row:
        row = self._near(who)
        peer = self.peers[who]
        if REASONS[who] == "silent" and who != "keys":
            row.log += [f"there: {each}" for each in logged(peer, "no_answer_given")]
            row.status += [f"there: {each}" for each in of_status(peer, peer.says("status"), "no answer given:")]
        if who == "keys":
            row.log += [f"there: {each}" for each in logged(peer, "keys_end")]
        return row

    def _of_mail_server(self, who: str) -> Row:
        row, peer = self._near(who), self.peers[who]
        row.status += [f"there: {each}" for each in of_status(peer, peer.says("status"), "mail server at ")]
        row.log += [f"there: {each}" for each in logged(peer, "mta_fails")]
        inbound = of_doctor(peer, self.findings[who], ["127.0.0.1:27", "127.0.0.1:25"], ("inbound",))
        row.doctor += [f"there: {each}" for each in inbound]
        return row

    def _full(self) -> Row:
        """No room for the hub's state: a newer card of the hub comes in, and a key is to be made."""
        full = self.peers["full"]
        self.there.machine.sh(f"dd if=/dev/zero of={full.folder}/state/filler bs=4k 2>/dev/null || :")
        self._crosses(full)
        self.hub.says("key", "rotate", "--now")
        wait_until(lambda: "card_not_stored" in full.log, "a card that cannot be stored", detail=lambda: full.log)
        return Row(
            "disk full, at the state folder",
            ["nothing waits: mail crosses"],
            of_status(full, full.says("status"), "warning:"),
            logged(full, "card_not_stored"),
            [
                *of_doctor(full, self._doctor(full), ["this hub"], ("check",)),
                f"`key rotate`: {quoted(plain(full.on_host('key', 'rotate'), full))}",
            ],
        )

    def _mistake_while_it_runs(self) -> Row:
        """`reload` of a configuration with a mistake in it."""
        hub, file = self.hub, self.hub.peer_file(self.peers["well"])
        before = file.read_text()
        file.write_text(before.replace("endpoints =", "endpoint ="))
        said = plain(hub.says("reload"), hub)
        found = of_doctor(hub, self._check(hub), ["this hub"], ("check",), known=said)
        self._crosses(self.peers["well"])
        file.write_text(before)
        return Row(
            "config typo, and `hubtunnel reload`",
            ["nothing waits: all stays as it was"],
            ["as before"],
            [*logged(hub, "reload_failed", known=said), f"`reload` itself: {quoted(said)}"],
            found,
        )

    def _check(self, hub: Hub) -> list[dict[str, str]]:
        """`check`, as `doctor` has it in its own list."""
        problems: list[str] = json.loads(hub.says("check", "--json"))["problems"]
        return [
            {"verdict": "wrong", "check": "check", "about": "this hub", "text": each, "cure": ""} for each in problems
        ]

    def _of_start(self, who: str) -> Row:
        hub = self.broken[who]
        said = list(
            dict.fromkeys(line for line in plain(hub.on_host("run"), hub).splitlines() if line.startswith("hub"))
        )
        known = " ".join(said)
        return Row(
            {
                "typo": "config typo, at the start",
                "other": "wrong pin: the file's pin is not that of the card beside it",
                "owner": "wrong owner of key files",
                "taken": "address in use",
                "ended": "keys expired: our own, the identity key on another machine",
            }[who],
            [_NO_DAEMON],
            [_NO_DAEMON],
            [quoted(each) for each in said],
            of_doctor(hub, self.findings[who], ["this hub"], ("check", "doctor"), known)
            or of_doctor(hub, self.findings[who], [hub.name], ("daemon",), known),
        )

    def _second(self) -> Row:
        hub = self.peers["well"]
        said = plain(hub.on_host("run"), hub)
        self._crosses(hub)
        return Row(
            "second daemon on the same state",
            ["nothing waits: the first goes on"],
            ["as before"],
            [quoted(said.splitlines()[-1])],
            [],
        )

    def _no_daemon(self) -> Row:
        """The hub's own daemon is gone: what its mail server says then."""
        hub, well = self.hub, self.peers["well"]
        hub.stop()
        # The child of nsenter is killed with it, and gone a moment later.
        wait_until(lambda: not self.here.namespace.listens("127.0.1.2", 24), "nobody at the peer's address")
        self.here.send(f"{USER}@{hub.domain}", [f"{USER}@{well.domain}"])
        why = wait_until(lambda: self.here.queue().get(f"{USER}@{well.domain}"), "a reason")
        found = of_doctor(hub, self._doctor(hub), [hub.name, well.name], ("daemon", "peer's mail server"))
        return Row(_NO_DAEMON, [quoted(why)], [quoted(plain(hub.says("status"), hub))], [], found)


_NO_DAEMON = "no daemon runs here"
