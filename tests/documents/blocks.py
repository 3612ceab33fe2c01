"""The blocks of the documents: what stands fenced in them, to be typed, put into a file, or read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.meta.tree import ROOT

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "keys").glob("*.md")])
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_REMARK = re.compile(r"\s+#.*$")


@dataclass(frozen=True)
class Block:
    """One block. `kind` is the word behind the fence."""

    document: str
    kind: str
    text: str

    @property
    def name(self) -> tuple[str, str]:
        """What it is told apart by: its document and its first line, without the prompt and a remark behind it."""
        return self.document, _REMARK.sub("", self.text.splitlines()[0].removeprefix("# ").removeprefix("$ "))

    @property
    def commands(self) -> list[str]:
        """Its lines as they are typed."""
        return [line.removeprefix("# ") for line in self.text.splitlines() if line]


def _read(path: Path) -> list[Block]:
    name = str(path.relative_to(ROOT))
    return [Block(name, kind, text.rstrip("\n")) for kind, text in _BLOCK.findall(path.read_text())]


def outside(path: Path) -> str:
    """A document without its blocks."""
    return _BLOCK.sub("", path.read_text())


@cache
def blocks() -> dict[tuple[str, str], Block]:
    """All of them, by name."""
    found = [block for path in DOCUMENTS for block in _read(path)]
    named = {block.name: block for block in found}
    assert len(named) == len(found), "two blocks of a document begin alike"
    return named
