"""Looking for clear text in what a tap recorded.

A search that finds nothing proves little unless the same search finds something: the demo runs it over the tunnel's
carriers and over a plain control run, and only the pair of answers is the proof.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Findings:
    """How often each needle was found, by name, and how many bytes were searched."""

    hits: dict[str, int]
    searched: int = 0
    files: int = 0
    where: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Findings of all needles together."""
        return sum(self.hits.values())

    @property
    def found_all(self) -> bool:
        """Every needle was found at least once: what a control has to show."""
        return all(self.hits.values())


def search(recordings: Iterable[Path], needles: Mapping[str, bytes]) -> Findings:
    """Search whole recordings, each one way of one TCP connection, for all `needles`.

    Matches do not stop at the borders of packets or records, since a recording has none.
    """
    findings = Findings(dict.fromkeys(needles, 0))
    for path in recordings:
        size = path.stat().st_size
        findings.files += 1
        findings.searched += size
        if size == 0:
            continue  # an empty file cannot be mapped
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            for name, needle in needles.items():
                found = _count(memory, needle)
                findings.hits[name] += found
                if found:
                    findings.where.append(f"{name} in {path.name}")
    return findings


def _count(memory: mmap.mmap, needle: bytes) -> int:
    count = 0
    at = memory.find(needle)
    while at >= 0:
        count += 1
        at = memory.find(needle, at + len(needle))
    return count
