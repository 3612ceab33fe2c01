"""Reads a ProVerif model of docs/proofs and evaluates one honest run of it to terms.

Only as much of the language as the models use: `let`, `new`, `in`, `out`, `if … = … then`, and functions. The rest
(declarations, events, queries) is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.meta.symbols import Term, dh

# What the models call the six secrets' coins, in the words of tests/meta/symbols.py.
COINS = {"rR": "coins for sm_R", "rE": "coins for em_I", "rI": "coins for sm_I"}


@dataclass
class Side:
    """One hub's part of a run: what it sends, and what it compares with what it received."""

    sent: list[list[Term]] = field(default_factory=list)
    compared: dict[str, Term] = field(default_factory=dict)  # name of what was received -> what it must be
    names: dict[str, Term] = field(default_factory=dict)


def without_comments(text: str) -> str:
    return re.sub(r"\(\*.*?\*\)", "", text, flags=re.DOTALL)


def declared_labels(text: str) -> list[str]:
    """The constants of type `lab`."""
    return [
        name.strip()
        for line in re.findall(r"const ([^:]+): lab \[data\]", without_comments(text))
        for name in line.split(",")
    ]


def queries(text: str) -> list[str]:
    """The queries, as ProVerif repeats them in its results."""
    found = []
    for query in re.findall(r"^query (.*)\.\s*$", without_comments(text), flags=re.MULTILINE):
        for part in query.split(";"):
            part = part.strip()
            if "(" in part:
                found.append(part if "==>" in part else f"not {part}")
    return found


def processes(text: str) -> tuple[str, str]:
    """The bodies of the initiator and the responder."""
    text = without_comments(text)
    named = [re.search(rf"let {name}\(.*?\) =(.*?)(?=\nlet |\nprocess|\nconst )", text, re.DOTALL) for name in ROLES]
    if all(named):
        initiator, responder = (match[1] for match in named if match)
        return initiator, responder
    # anon.pv, anon_resp.pv: one process; what stands before the first "!" belongs to both.
    before, initiator, responder = re.split(r"\( ! ", text.split("\nprocess", 1)[1])
    return before + initiator, before + responder


ROLES = ("Initiator", "Responder")


def run(text: str) -> tuple[Side, Side]:
    """An honest run: (initiator's side, responder's side)."""
    first, second = processes(text)
    statics = {
        "SXI": ("pub", "sx_I"), "SMI": ("kpk", "sm_I"), "SXR": ("pub", "sx_R"), "SMR": ("kpk", "sm_R"),
        "sxI": "sx_I", "skI": "sm_I", "sxR": "sx_R", "skR": "sm_R", "psk": "psk", "zero": "psk", "g": "g",
        "c0": "public chain", "gz": "gz", "kz": "kz", "dataI": "data", "dataR": "data", "zbs": "data",
        # anon.pv calls the responder B, anon_resp.pv the initiator's keys sxB and skB.
        "SXB": ("pub", "sx_R"), "SMB": ("kpk", "sm_R"),
        "sxB": "sx_R" if "let sxI = choice" in text else "sx_I",
        "skB": "sm_R" if "let sxI = choice" in text else "sm_I",
    }  # fmt: skip
    ephemeral_i = {"eX": "ex_I", "eM": "em_I", "rR": COINS["rR"]}
    ephemeral_r = {"eX": "ex_R", "rE": COINS["rE"], "rI": COINS["rI"]}
    answer = {
        "EXR": ("pub", "ex_R"),
        "cte": ("kenc", ("kpk", "em_I"), COINS["rE"]),
        "ctI": ("kenc", ("kpk", "sm_I"), COINS["rI"]),
    }
    offer = {
        "EXI": ("pub", "ex_I"),
        "EMI": ("kpk", "em_I"),
        "ctR": ("kenc", ("kpk", "sm_R"), COINS["rR"]),
    }
    received = {name: f"received {name}" for name in ("aR", "aI", "gate", "hint", "hh")}
    initiator = evaluate(first, statics | ephemeral_i | answer | received)
    # What the responder receives is what the initiator sends; only a hint is used again after it was compared.
    hint = {"hint": initiator.names["hint"]}
    return initiator, evaluate(second, statics | ephemeral_r | offer | received | hint)


def evaluate(body: str, names: dict[str, Term]) -> Side:
    """Follow a process and gather what it sends and compares."""
    side = Side(names=dict(names))
    for kind, name, term in statements(body):
        if kind == "let" and "choice" not in term and not (name in side.names and name in FIXED):
            side.names[name] = value(term, side.names)
        elif kind == "out":
            side.sent.append([value(part, side.names) for part in arguments(term)])
        elif kind == "if":
            side.compared[name] = side.names[name] = value(term, side.names)
    return side


FIXED = {"SXI", "SMI", "SXR", "SMR", "SXB", "SMB", "SX1", "SX2", "sxI", "skI", "sxR", "skR"}


def statements(body: str) -> Iterator[tuple[str, str, str]]:
    """(kind, name, term) of each `let`, `out` and `if`, in order."""
    body = re.sub(r"event [^;]*;", "", body)
    for match in re.finditer(r"let (\w+) = (.*?) in\b|if (\w+) = (.*?) then|out\(c,", body, flags=re.DOTALL):
        if match[1]:
            yield "let", match[1], match[2]
        elif match[3]:
            yield "if", match[3], match[4]
        else:
            yield "out", "", body[match.end() : closing(body, match.end())]


def closing(text: str, start: int) -> int:
    """Where the parenthesis closes that was opened before `start`."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise AssertionError(f"a parenthesis is not closed: {text[start:]}")


def arguments(text: str) -> list[str]:
    """The terms of `(a, f(b, c))`, or of a single one, as text."""
    text = text.strip()
    if text.startswith("("):
        text = text[1 : text.rindex(")")]
    parts, depth = [""], 0
    for char in text:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]


def value(text: str, names: dict[str, Term]) -> Term:
    """The term that a text of the model stands for, the equations of its theory applied."""
    text = text.strip()
    if "(" not in text:
        return names.get(text, text)
    function = text[: text.index("(")]
    values = [value(part, names) for part in arguments(text[len(function) :])] if function else []
    match function, values:
        case "exp", ["g", exponent]:
            return ("pub", exponent)
        case "exp", [public, exponent]:
            return dh(public, ("pub", exponent))
        case "pubdh", [a, b]:  # X25519 broken: a public function, of the same value
            return dh(a, b)
        case "kpk", [secret]:
            return ("kpk", secret)
        case ("kdec", [_, ("kenc", _, coins)]) | ("pubk", [("kenc", _, coins)]):
            return coins
        case "", _:
            return "data"
    return (function, *values)
