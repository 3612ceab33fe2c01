"""What is sent through the pairs: loads of `smtp-source`, the generator that Postfix brings along."""

from __future__ import annotations

from dataclasses import dataclass

PROGRAMS = ("smtp-source", "smtp-sink")
INSTALL = "apt-get install --no-install-recommends postfix haproxy"


@dataclass(frozen=True, slots=True)
class Load:
    """`messages` of `length` bytes by `sessions` at once, over a connection each or over connections kept."""

    name: str
    text: str
    sessions: int
    messages: int
    length: int
    kept: bool = False

    def argv(self, entrance: str, messages: int) -> list[str]:
        argv = ["smtp-source", "-s", str(self.sessions), "-m", str(messages), "-l", str(self.length)]
        argv += ["-d"] if self.kept else []
        return [*argv, "-f", "load@a.example", "-t", "rcpt@b.example", entrance]


LOADS = {
    load.name: load
    for load in (
        Load("new", "10 KiB, 20 at once, a connection each", 20, 3000, 10_240),
        Load("kept", "10 KiB, 20 at once, connections kept", 20, 6000, 10_240, kept=True),
        Load("large", "1 MiB, 4 at once, a connection each", 4, 200, 1 << 20),
    )
}
