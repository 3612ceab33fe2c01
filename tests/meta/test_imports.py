"""The contracts of import-linter cover the whole package: what is new has to take its place on a floor."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.meta.tree import ROOT, files

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
ENTRY = {"hubtunnel.__main__"}  # above all floors: it only starts the command line


def rooms() -> set[str]:
    """The modules and packages right below `hubtunnel`."""
    sources = [
        path for path in files() if path.parts[0] == "hubtunnel" and path.suffix == ".py" and len(path.parts) > 1
    ]
    names = {path.parts[1].removesuffix(".py") for path in sources}
    return {f"hubtunnel.{name}" for name in names - {"__init__"}} - ENTRY


def contract(kind: str, module: str) -> dict[str, object]:
    (found,) = (one for one in CONTRACTS if one["type"] == kind and module in str(one))
    return found


def imported(source: str) -> Iterator[str]:
    """The modules that a source imports, at whatever depth it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def importers(*packages: str) -> set[Path]:
    """The files of the package that import any of `packages`."""
    return {
        path
        for path in files()
        if path.parts[0] == "hubtunnel" and path.suffix == ".py"
        for name in imported((ROOT / path).read_text())
        if name.split(".")[0] in packages
    }


def floors() -> set[str]:
    layers = contract("layers", "hubtunnel.cli")["layers"]
    assert isinstance(layers, list)
    return {name.strip().strip("()") for layer in layers for part in layer.split("|") for name in part.split(":")}


def test_every_room_is_on_a_floor() -> None:
    assert rooms() - floors() == set()


def test_every_room_but_crypto_is_forbidden_the_primitives() -> None:
    covered = contract("forbidden", "cryptography")["source_modules"]
    assert isinstance(covered, list)
    assert rooms() - set(covered) == {"hubtunnel.crypto"}


def test_crypto_alone_imports_the_primitives() -> None:
    assert importers("cryptography", "nacl") == {Path("hubtunnel/crypto.py")}


def test_the_protocol_knows_no_clock_no_chance_and_no_socket() -> None:
    outside = {"asyncio", "socket", "select", "selectors", "ssl", "time", "datetime", "os", "io", "pathlib", "random"}
    outside |= {"secrets", "logging", "threading", "subprocess", "signal", "uvloop"}
    assert {path for path in importers(*outside) if path.parts[1] == "protocol"} == set()
    assert importers("asyncio"), "the search finds importers where there are some"


def test_imports_are_found_at_every_depth() -> None:
    source = "import a.b\nfrom c import d\ndef f():\n    import e\n    from g.h import i\n"
    assert set(imported(source)) == {"a.b", "c", "e", "g.h"}
