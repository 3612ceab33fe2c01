"""Reads published vectors, from the package `cryptography-vectors` and from `published/`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cryptography_vectors

PUBLISHED = Path(__file__).parent / "published"

Vector = dict[str, str]


def records(text: str, *, blank_line_ends: bool) -> Iterator[Vector]:
    """Blocks of `name = value` lines; a lone word such as FAIL is a name, a [name = value] holds until it is set again.

    Names are in lower case. A block ends where a name comes again, in some files also at an empty line.
    """
    section: Vector = {}
    block: Vector = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("#"):
            continue
        name, _, value = (part.strip() for part in line.strip("[]").partition("="))
        name = name.lower()
        if block and (name in block or line.startswith("[") or (blank_line_ends and not line)):
            yield section | block
            block = {}
        if line.startswith("["):
            section[name] = value
        elif line:
            block[name] = value
    if block:
        yield section | block


def packaged(name: str) -> list[Vector]:
    """The records of a file in the package `cryptography-vectors`."""
    with cryptography_vectors.open_vector_file(name, "r") as file:
        found = list(records(file.read(), blank_line_ends=False))
    assert found, f"{name} holds no vector"
    return found


def published(name: str) -> list[Vector]:
    """The records of a file in `published/`."""
    found = list(records((PUBLISHED / name).read_text(encoding="ascii"), blank_line_ends=True))
    assert found, f"{name} holds no vector"
    return found


def published_json(name: str) -> dict[str, Any]:
    """A JSON file in `published/`."""
    document: dict[str, Any] = json.loads((PUBLISHED / name).read_text(encoding="utf-8"))
    return document


def unhex(text: str) -> bytes:
    """The bytes of a hexadecimal value."""
    return bytes.fromhex(text)


def flipped(vector: Vector, name: str) -> Vector:
    """The vector with one bit of one value changed: what every comparison must notice."""
    value = bytearray(unhex(vector[name]))
    value[len(value) // 2] ^= 0x01
    return vector | {name: value.hex()}
