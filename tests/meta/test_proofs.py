"""The ProVerif models in docs/proofs and the program speak of one protocol.

The product's own handshake is run with symbols in the place of its cryptography, and each message, key and MAC that it
makes is compared with what an honest run of each model makes. Controls alter a model in every place that counts.
"""

from __future__ import annotations

import os
import re
import runpy
import stat
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from hubtunnel.protocol.constants import Domain, Label
from hubtunnel.protocol.handshake import Initiator, Responder
from hubtunnel.protocol.pair import HintTable, LinkPublic, LinkSecret, PairContext
from hubtunnel.protocol.ratchet import Ratchet
from hubtunnel.protocol.wire import M1, M2
from tests.meta import models
from tests.meta.symbols import Symbols, Term

FOLDER = Path(__file__).parents[2] / "docs" / "proofs"
MODELS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.pv"))}
RUNNER = runpy.run_path(str(FOLDER / "run"))

# The models' labels and the program's. The data keys are distinct by label, like everything that is expanded.
LABELS = {
    "lgate": Label.GATE,
    "lchain": Label.CHAIN,
    "laR": Label.AUTH_R,
    "laI": Label.AUTH_I,
    "ldI": Label.DATA_I,
    "ldR": Label.DATA_R,
    "lhint": Label.HINT,  # stands in exhint
}
SECRETS = ("es", "kR", "ee", "ke", "se", "kI")  # KS2, in this order
LEFT_OUT = {"M1-no-se-kI-EXPECT-FALSE": {"se", "kI"}, "M2-no-es-kR-EXPECT-FALSE": {"es", "kR"}}
LEFT_OUT["M3-no-ee-ke-EXPECT-FALSE"] = {"ee", "ke"}


# --- the program ----------------------------------------------------------------------------------------------


@dataclass
class Facts:
    """What one side of a handshake makes, in the models' words; the master secret stands as "master"."""

    chain: Term
    secrets: tuple[Term, ...]
    hint: Term
    gate: Term
    offer: tuple[Term, ...]
    answer: tuple[Term, ...]
    auth_r: Term
    auth_i: Term
    data_i: Term
    data_r: Term


class Translation:
    """The program's terms in the words of the models."""

    def __init__(self) -> None:
        self.chain: Term = None
        self.secrets: tuple[Term, ...] = ()

    def __call__(self, term: Term) -> Term:
        match term:
            case ("expand", pair, Label.HINT, *d, bytes()):
                return ("exhint", self(pair), *self.identities(d))
            case ("expand", pair, (Label.GATE | Label.CHAIN) as label, *d):
                return ("exid", self(pair), label, *self.identities(d))
            case ("expand", master, label, h2):
                return ("ex", self(master), label, self(h2))
            case ("extract", Domain.PAIR.value, shared, psk):
                return ("pairk", shared, psk)
            case ("extract", _, _):
                return self.master(term)
            case ("H", domain, *rest) if domain == Domain.HANDSHAKE + b"\0":
                return self.h1(rest)
            case ("H", h1, *answer):
                return ("h1", self(h1), *answer)
            case ("HMAC", ("expand", _, Label.GATE, *d) as key, version, *offer):
                assert version == b"\x01"
                return ("macg", self(key), ("h0", *self.identities(d), *map(self, offer)))
            case ("HMAC", key, h2):
                return ("mac", self(key), self(h2))
            case ("HMAC", key, h2, other):
                return ("mac2", self(key), self(h2), self(other))
        return term

    def h1(self, covered: list[Term]) -> Term:
        """PROTOCOL.md, KS1: D and the whole of M1. The models leave out the version byte and the gate."""
        *d, version, hint, e_x, e_m, ct, gate = covered
        offer = [hint, e_x, e_m, ct]
        assert version == b"\x01"
        assert gate[:1] + gate[2:] == ("HMAC", version, *offer)
        return ("h0", *self.identities(d), self(hint), e_x, e_m, ct)

    def identities(self, d: list[Term]) -> list[Term]:
        """D: two fingerprints, in which the link keys stand together with their owners' identities."""
        keys = []
        for fingerprint, idfp in zip(d, ("idfp_I", "idfp_R"), strict=True):
            function, domain, identity, *public = fingerprint
            assert (function, domain, identity) == ("H", Domain.LINK_KEY + b"\0", idfp)
            keys += public
        return keys

    def master(self, term: Term) -> Term:
        secrets: list[Term] = []
        while term[0] == "extract":
            _, term, secret = term
            secrets.insert(0, secret)
        chain = self(term)
        assert self.chain in (None, chain)
        self.chain, self.secrets = chain, tuple(secrets)
        return "master"


def link_key(symbols: Symbols, name: str) -> LinkSecret:
    return LinkSecret(b"01234567", symbols.new(f"sx_{name}"), symbols.new(f"sm_{name}", 64), 0, 1e12)


def public(key: LinkSecret) -> LinkPublic:
    return LinkPublic(key.id, key.public[:32], key.public[32:], key.not_before, key.not_after)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Facts:
    """The product's handshake, both sides of which end with the same."""
    symbols = Symbols()
    symbols.install(monkeypatch)
    keys = {name: link_key(symbols, name) for name in "IR"}
    idfp = {name: symbols.new(f"idfp_{name}") for name in "IR"}
    psk = symbols.new("psk")
    contexts = {
        own: PairContext.make(
            peer=peer, own_idfp=idfp[own], own=keys[own], peer_idfp=idfp[peer], theirs=public(keys[peer]), psk=psk
        )
        for own, peer in ("IR", "RI")
    }
    initiator = Initiator(contexts["I"], 1e9, symbols.new("ex_I") + symbols.new("em_I", 64))
    responder = Responder(HintTable([contexts["R"]], 1e9), lambda _own: symbols.new("ex_R") + symbols.new("em_R", 64))
    m1 = work(initiator)
    responder.receive_data(m1)
    m2 = work(responder)
    initiator.receive_data(m2)
    work(initiator)
    assert initiator.established
    m3 = initiator.established.first_flight
    responder.receive_data(m3)
    assert responder.established
    assert initiator.established.t_send == responder.established.t_receive
    assert initiator.established.t_receive == responder.established.t_send

    read = Translation()
    ver, *offer = symbols.parts(m1)
    assert ver == b"\x01"
    assert len(offer) == len(M1.offsets) - 1
    assert len(symbols.parts(m2)) == len(M2.offsets)
    facts = [read(symbols.term(data)) for data in (m3, initiator.established.t_send, initiator.established.t_receive)]
    hint, *sent, gate = map(read, offer)
    *answer, auth_r = map(read, symbols.parts(m2))
    return Facts(read.chain, read.secrets, hint, gate, tuple(sent), tuple(answer), auth_r, *facts)


def work(handshake: Initiator | Responder) -> bytes:
    while (job := handshake.next_job()) is not None:
        handshake.job_done(job, job.run())
    assert handshake.failed is None
    return handshake.data_to_send()


# --- a model ----------------------------------------------------------------------------------------------------


def differences(name: str, text: str, program: Facts) -> list[str]:
    """Where a model and the program are not the same protocol; empty when they are."""
    found: list[str] = []

    def same(what: str, said: Term, wanted: Term) -> None:
        if said != wanted:
            found.append(f"{name}: {what}: {said!r} in the model, {wanted!r} in the program")

    initiator, responder = models.run(text)
    guarded = "free c0" not in text  # else X25519 is broken and the pair key public: no chain, gate or hint
    both = (("initiator", initiator), ("responder", responder))
    for role, side in both[1:] if "choice" in text else both:
        function, chain, *secrets = side.names["m"]
        same(f"{role}: how the master secret is made", function, "ms")
        same(f"{role}: the chain", labelled(chain), program.chain if guarded else "public chain")
        wanted = dict(zip(SECRETS, program.secrets, strict=True))
        if not guarded:
            wanted = {secret: wanted[secret] for secret in ("kR", "ke", "kI")}
        for secret in LEFT_OUT.get(name, set()):
            wanted[secret] = "kz" if secret.startswith("k") else "gz"
        same(f"{role}: the secrets", tuple(secrets), tuple(wanted.values()))

    def of(side: models.Side, term: Term) -> Term:
        return labelled(replaced(term, side.names.get("m"), "master"))

    sent = [[of(initiator, part) for part in message] for message in initiator.sent]
    first = next(i for i, message in enumerate(sent) if len(message) == 5)  # before it, what a weak generator leaks
    same("M1", tuple(sent[first]), (program.hint, *program.offer, program.gate))
    if guarded:
        for received in ("hint", "hh"):
            if received in responder.compared:
                same("the hint that is looked up", of(responder, responder.compared[received]), program.hint)
        same("a hint is looked up", bool({"hint", "hh"} & responder.compared.keys()), True)
        same("the gate that is checked", of(responder, responder.compared.get("gate")), program.gate)
    answer = [of(responder, part) for message in responder.sent for part in message]
    start = answer.index(program.answer[0]) if program.answer[0] in answer else 0
    same("M2", tuple(answer[start : start + 4]), (*program.answer, program.auth_r))
    if "choice" in text:
        return found  # anon, anon_resp: M1 and M2 are all that they have
    same("auth_R that is checked", of(initiator, initiator.compared.get("aR")), program.auth_r)
    same("M3", sent[first + 1], [program.auth_i])
    same("data I", sent[first + 2], [("senc", "data", program.data_i)])
    same("auth_I that is checked", of(responder, responder.compared.get("aI")), program.auth_i)
    same("data R", of(responder, responder.sent[-1][0]), ("senc", "data", program.data_r))
    return found


def replaced(term: Term, old: Term, new: Term) -> Term:
    if term == old:
        return new
    return tuple(replaced(part, old, new) for part in term) if isinstance(term, tuple) else term


def labelled(term: Term) -> Term:
    if isinstance(term, tuple):
        return tuple(labelled(part) for part in term)
    return LABELS.get(term, term)


# --- tests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_of_the_program(name: str, program: Facts) -> None:
    assert differences(name, MODELS[name], program) == []


@pytest.mark.parametrize("name", MODELS)
def test_the_labels_are_the_programs(name: str) -> None:
    declared = models.declared_labels(MODELS[name])
    assert {"lgate", "lchain", "laR", "laI"} <= set(declared) <= LABELS.keys()
    assert len(set(LABELS.values())) == len(LABELS)


def test_a_ratchet_step_is_the_same_exchange(program: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model 18: a chain value that the attacker lacks. RT1 derives it from the root; all else is the handshake's."""
    symbols = Symbols()
    symbols.install(monkeypatch)
    keys = {name: link_key(symbols, name) for name in "IR"}
    d, root, th = symbols.new("D", 64), symbols.new("root"), symbols.new("th")
    one = Ratchet(initiator=True, root=root, th=th, d=d)
    two = Ratchet(initiator=False, root=root, th=th, d=d)
    offer = one.begin(public(keys["R"]), symbols.new("ex_I") + symbols.new("em_I", 64)).run()
    rk1 = one.offer_ready(offer)  # type: ignore[arg-type]
    seed = symbols.new("ex_R") + symbols.new("em_R", 64)
    rk2 = two.answer_ready(*two.read_rk1(rk1, keys["R"], public(keys["I"]), seed).run())  # type: ignore[misc]
    rk3, secrets = one.verified(one.read_rk2(rk2, keys["I"], public(keys["R"])).run())  # type: ignore[arg-type]
    two.read_rk3(rk3)

    index = (1).to_bytes(8, "big")
    master, h2 = ("expand", ("extract",), b""), ("H",)
    term = symbols.term(rk3)
    _, (_, master, label, h2), covered, auth_r = term
    assert label == Label.AUTH_I
    assert covered == h2 == ("H", ("H", Domain.RATCHET + b"\0", "th", index, *program.offer), *program.answer)
    assert auth_r == ("HMAC", ("expand", master, Label.AUTH_R, h2), h2)
    for secret in reversed(program.secrets):
        _, master, mixed = master
        assert mixed == secret
    assert master == ("expand", "root", Label.CHAIN, "D", index)
    assert symbols.term(secrets.t_i)[2:] == (Label.DATA_I, h2)


# Each of these makes another protocol of the model.
MUTATIONS = {
    "two secrets change places, initiator": ("exp(SXR,eX), rR, exp(EXR,eX), ke,", "exp(EXR,eX), rR, exp(SXR,eX), ke,"),
    "two secrets change places, responder": ("kR, exp(EXI,eX), rE", "rE, exp(EXI,eX), kR"),
    "a secret is left out": ("exp(EXR,sxI), kI)", "exp(EXR,sxI), kz)"),
    "another chain": ("ms(exid(pair,lchain,", "ms(exid(pair,lgate,"),
    "auth_R under auth_I's label": ("mac(ex(m,laR,hh2), hh2)", "mac(ex(m,laI,hh2), hh2)"),
    "auth_R over h1": ("mac(ex(m,laR,hh2), hh2)", "mac(ex(m,laR,hh2), hh1)"),
    "auth_I does not cover auth_R": ("mac2(ex(m,laI,hh2),hh2,aR)", "mac(ex(m,laI,hh2),hh2)"),
    "h2 leaves a ciphertext out": ("h1(hh1, EXR, cte, ctI)", "h1(hh1, EXR, cte, cte)"),
    "h1 leaves the hint out": (",hint,EXI,EMI,ctR)", ",EXI,EMI,ctR)"),
    "the direction is turned in the hint": ("exhint(pair,SXI,SMI,SXR,SMR)", "exhint(pair,SXR,SMR,SXI,SMI)"),
    "the gate is not checked": ("if gate = macg(exid(pair,lgate,SXI,SMI,SXR,SMR), hh1) then", ""),
    "the hint is not looked up": ("if hint = exhint(pair,SXI,SMI,SXR,SMR) then", ""),
    "M1 without its ciphertext": ("out(c, (hint, EXI, EMI, ctR, macg", "out(c, (hint, EXI, EMI, EMI, macg"),
    "M2 in another order": ("out(c, (EXR, cte, ctI))", "out(c, (EXR, ctI, cte))"),
    "one data key for both directions": ("ex(m,ldR,hh2)", "ex(m,ldI,hh2)"),
    "auth_I is not checked": ("if aI = mac2(ex(m,laI,hh2),hh2,aR) then", ""),
    "auth_R is not checked": ("if aR = mac(ex(m,laR,hh2), hh2) then", ""),
    "the psk is not in the pair key": ("pairk(exp(SXR,sxI), psk)", "pairk(exp(SXR,sxI), g)"),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_control_a_model_of_another_protocol_is_noticed(mutation: str, program: Facts) -> None:
    old, new = MUTATIONS[mutation]
    text = MODELS["01-base"]
    assert old in text
    assert differences("01-base", text.replace(old, new), program) != []


@cache
def results() -> dict[str, tuple[str, dict[str, str]]]:
    return RUNNER["recorded"]((FOLDER / "results.txt").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_every_model_has_its_results() -> None:
    assert results().keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_the_results_are_those_of_the_models_queries(name: str) -> None:
    outcomes = results()[name][1]
    wanted = models.queries(MODELS[name]) or ["Observational equivalence"]
    assert sorted(outcomes) == sorted(wanted)
    falls = name.endswith("EXPECT-FALSE") or name == "00-sanity-reach"
    assert set(outcomes.values()) == {"false" if falls else "true"}


def test_the_readme_names_every_model() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in MODELS:
        scenario = re.sub(r"\.[irs]$|-EXPECT-FALSE$", "", name)
        number = re.match(r"\d\d-", scenario)
        assert f"`{scenario}`" in readme or (number and f"`{number[0]}" in readme), name


# --- the runner ---------------------------------------------------------------------------------------------------


def fake_proverif(path: Path, lines: str) -> None:
    path.write_text(f"#!/bin/sh\ncat <<'EOF'\n{lines}\nEOF\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def prove(proverif: Path | None, *names: str) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PROVERIF=str(proverif)) if proverif else {"PATH": ""}
    command = [sys.executable, str(FOLDER / "run"), *names]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


ANSWER = """Verification summary
RESULT event(IAcc(a,b,x,m_2)) ==> event(RResp(a,b,x,m_2)) is true.
RESULT not attacker_bitstring_p1(dataI[]) is true."""


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (ANSWER, 0, "as recorded"),
        (ANSWER.replace("(dataI[]) is true", "(dataI[]) is false"), 1, "not attacker(dataI): false, recorded true"),
        (
            ANSWER.replace("(dataI[]) is true", "(dataI[]) cannot be proved"),
            1,
            "dataI): cannot be proved, recorded true",
        ),
        ("File 09: syntax error", 1, "not attacker(dataI): no answer, recorded true"),
    ],
)
def test_the_runner_compares(tmp_path: Path, answer: str, status: int, says: str) -> None:
    fake_proverif(tmp_path / "proverif", answer)
    run = prove(tmp_path / "proverif", "09-kci-victim-initiates")
    assert says in run.stdout
    assert run.returncode == status


def test_the_runner_without_proverif(tmp_path: Path) -> None:
    assert prove(None).returncode == 2
    assert "not in PATH" in prove(None).stderr
    assert prove(tmp_path / "missing", "anon").returncode == 2
    assert prove(tmp_path / "missing", "no-such-model").stderr == "no such model: no-such-model\n"
