"""docs/LOG.md names every event, its levels and fields, and every cause of silence, as they stand in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.meta.tree import ROOT

DOCUMENT = (ROOT / "docs" / "LOG.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "critical"}
# Calls whose fields are those of a mapping, with the fields that it has.
MAPPINGS = {"reloaded": {"added", "removed", "changed"}, "keys_changed": set[str]()}


def rows(heading: str) -> list[list[str]]:
    section = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


@cache
def documented() -> dict[str, tuple[set[str], set[str]]]:
    """Event to (levels, fields)."""
    return {name.strip("`"): (set(level.split(", ")), words(fields)) for name, level, fields, _ in rows("Events")}


def texts(node: ast.expr) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def calls(source: str) -> Iterator[tuple[set[str], set[str], set[str]]]:
    """Names, levels (none where they are decided elsewhere) and fields of each call of `event` and `event_soon`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("event", "event_soon"):
            method, name = node.args
            names = texts(name.body) | texts(name.orelse) if isinstance(name, ast.IfExp) else texts(name)
            levels = {each.attr for each in ast.walk(method) if isinstance(each, ast.Attribute)} & LEVELS
            fields = {keyword.arg for keyword in node.keywords if keyword.arg is not None}
            if any(keyword.arg is None for keyword in node.keywords):
                fields |= set().union(*(MAPPINGS[each] for each in names))
            yield names, levels, fields


@cache
def in_code() -> dict[str, tuple[set[str], set[str]]]:
    found: dict[str, tuple[set[str], set[str]]] = {}
    for path in sorted((ROOT / "hubtunnel").rglob("*.py")):
        for names, levels, fields in calls(path.read_text()):
            for name in names:
                known = found.setdefault(name, (set(), set()))
                known[0].update(levels)
                known[1].update(fields)
    return found


def test_every_event_is_documented_and_no_other() -> None:
    assert len(in_code()) > 30
    assert set(documented()) == set(in_code())


@pytest.mark.parametrize("name", sorted(documented()))
def test_levels_and_fields(name: str) -> None:
    levels, fields = documented()[name]
    used_levels, used_fields = in_code()[name]
    assert levels <= LEVELS
    assert used_levels <= levels
    assert fields == used_fields


def test_names_stand_in_order() -> None:
    assert list(documented()) == sorted(documented())


def test_an_event_that_is_missing_would_be_found() -> None:
    """The control: what the scan makes of calls like ours."""
    (found,) = calls(
        'event(log.info if ok else log.error, "a" if up else "b", peer=1, **more)'.replace("**more", "x=2")
    )
    assert found == ({"a", "b"}, {"info", "error"}, {"peer", "x"})


def test_every_cause_of_silence_is_documented() -> None:
    causes = set()
    for name in ("protocol/handshake.py", "daemon/carrier.py"):
        source = (ROOT / "hubtunnel" / name).read_text()
        causes |= {
            word
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("self._drain", "self._on_failed")
            for word in texts(node.args[-1])
        }
    causes.discard("unknown")  # what stands in for a cause that there must be
    assert causes == set().union(*(words(cell) for cell, _ in rows("Why somebody got no answer")))
