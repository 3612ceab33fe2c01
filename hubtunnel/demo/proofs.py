"""What the demo claims, what it found, and the form in which both are reported."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hubtunnel.errors import HubtunnelError


class DemoError(HubtunnelError):
    """The demo could not go on; the text says at what, with what the failing part itself said."""


@dataclass(frozen=True)
class Proof:
    """One row of the table: a claim, whether it held in this run, and what that rests on."""

    claim: str
    proved: bool
    evidence: str


@dataclass
class Report:
    """The outcome of one run. `ok` is true only when every claim was looked at and held."""

    version: str
    messages: int = 0
    bytes: int = 0
    identical: int = 0
    plaintext_on_wire: int = 0
    plaintext_in_control: int = 0
    wire_bytes: int = 0
    epochs: int = 0
    carriers_cut: int = 0
    carriers_flipped: int = 0
    sessions_resumed: int = 0
    rotations: int = 0  # of link keys
    seconds: float = 0.0
    complete: bool = False
    proofs: list[Proof] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was proved."""
        return self.complete and bool(self.proofs) and all(proof.proved for proof in self.proofs)

    def prove(self, claim: str, proved: bool, evidence: str) -> None:
        """Add a row."""
        self.proofs.append(Proof(claim, proved, evidence))

    def as_json(self) -> dict[str, Any]:
        """For `--json`: plain values, `ok` first."""
        values = asdict(self)
        del values["complete"]
        values["seconds"] = round(self.seconds, 1)
        return {"ok": self.ok} | values


def amount(size: int) -> str:
    """A number of bytes for people: 512 B, 31 KB, 4.2 MB (powers of ten)."""
    if size < 1_000:
        return f"{size} B"
    if size < 1_000_000:
        return f"{size / 1_000:.0f} KB"
    return f"{size / 1_000_000:.1f} MB" if size < 10_000_000 else f"{size / 1_000_000:.0f} MB"


def many(count: int, thing: str) -> str:
    """A count with its noun: 1 message, 2 messages."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"
