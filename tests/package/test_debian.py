"""What contrib/debian says, held to the tree; and the committed result of building and using it, held to the docs.

The package itself takes minutes to build: `python -m tests.package.bare` does that, and all the rest.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.meta.tree import ROOT, files

DEBIAN = ROOT / "contrib" / "debian"
OPERATING = (ROOT / "docs" / "OPERATING.md").read_text()


def paragraphs() -> list[dict[str, str]]:
    """Of debian/control, in the form of deb822(5)."""
    found = []
    for text in (DEBIAN / "control").read_text().strip().split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in text.splitlines():
            if line.startswith(" "):
                fields[name] += line
            else:
                name, _, fields[name] = line.partition(":")
        found.append({key: value.strip() for key, value in fields.items()})
    return found


def listed(name: str) -> list[list[str]]:
    return [line.split() for line in (DEBIAN / name).read_text().splitlines() if line]


def named(requirement: str) -> str:
    """The package of a requirement, as the lock writes it."""
    return re.split(r"[\[<>=~! (]", requirement, maxsplit=1)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """The newest of those that are committed."""
    newest = max((Path(__file__).parent / "results").glob("bare-*.json"))
    loaded: dict[str, Any] = json.loads(newest.read_text())
    return loaded


def test_the_control_file_names_the_package_and_what_it_is_built_with() -> None:
    source, package = paragraphs()
    assert source["Source"] == package["Package"] == "hubtunnel"
    assert "not from end to end" in package["Description"] or "not the mail from end to end" in package["Description"]
    needed = {re.split(r"[ ,(]", part.strip())[0] for part in source["Build-Depends"].split(",")} - {""}
    said = (DEBIAN / "build").read_text()
    for tool in needed - {"debhelper-compat", "dh-sequence-installsysusers", "python3"}:
        assert said.count(tool) >= 2, f"contrib/debian/build does not say that {tool} is needed"


def test_everything_that_is_made_for_packagers_is_in_it() -> None:
    sources = [ROOT / line[0] for line in listed("hubtunnel.install") + listed("hubtunnel.manpages")]
    taken = {match.relative_to(ROOT) for source in sources for match in source.parent.glob(source.name)}
    assert all(any(source.parent.glob(source.name)) for source in sources)
    rules = (DEBIAN / "rules").read_text()
    taken |= {path for path in files() if str(path) in rules}
    made = {
        path for path in files() if path.parts[:2] in {("contrib", kind) for kind in ("completion", "man", "systemd")}
    }
    assert len(made) >= 8
    assert made - taken == set()


def test_the_wheel_is_built_with_all_that_its_backend_needs_and_nothing_else() -> None:
    """The names in `rules` are taken out of the lock with their hashes; pip would refuse one that is missing."""
    said = re.findall(r"^(?:BACKEND|COMPILER) = (.*)$", (DEBIAN / "rules").read_text(), re.MULTILINE)
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    needed, ask = set(), ["hatchling", *(named(requirement) for requirement in hook["custom"]["dependencies"])]
    while ask:
        name = ask.pop()
        needed.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement, _, marker = line.partition(";")
            other = named(requirement)
            if "extra" not in marker and "python_version < '3.11'" not in marker.replace('"', "'"):
                ask += [other] if other not in needed else []
    assert sorted(" ".join(said).split()) == sorted(needed)


@pytest.mark.parametrize("script", ["build", "hubtunnel.postrm", "hubtunnel.prerm"])
def test_scripts_parse(script: str) -> None:
    subprocess.run(["sh", "-n", str(DEBIAN / script)], check=True, timeout=30)


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--version"], ["one", "two"]])
def test_a_wrong_command_line_builds_nothing(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", str(DEBIAN / "build"), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("contrib/debian/build: ")
    assert list(tmp_path.iterdir()) == []


def test_it_was_built_used_upgraded_removed_and_purged(result: dict[str, Any]) -> None:
    assert list(result) == ["build", "new_user", "installed", "flush", "upgrade", "remove", "purge"]
    assert result["build"]["lintian"] == []
    assert result["upgrade"]["streams_cut"] == 0
    assert 0 < result["upgrade"]["arrived_before_it_was_done"] < result["upgrade"]["letters"]
    assert result["remove"]["queue_said"].startswith("421 4.4.1 hubtunnel: mx.b.example: ")
    assert result["purge"]["left_behind"] == []


def test_the_documentation_has_the_commands_that_were_typed(result: dict[str, Any]) -> None:
    """Word for word, but for the fingerprint, which two people read to each other."""
    section = OPERATING.partition("## Install")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```console\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    shown = [line.removeprefix("# ") for line in block.splitlines()]
    for name, typed in result["new_user"]["commands"].items():
        seen_from_a = [re.sub(r" --fingerprint .*$", "", line) for line in typed]
        if name == "mx.b.example":
            seen_from_a = [re.sub(r"\b[ab](?=\.example)", lambda m: {"a": "b"}.get(m[0], "a"), x) for x in seen_from_a]
        assert seen_from_a == shown
    assert f"{result['new_user']['seconds']:.0f} seconds" in section


def test_documents_name_files_of_the_package_as_it_has_them() -> None:
    assert "contrib/debian/build" in OPERATING
    assert "/usr/lib/hubtunnel" in OPERATING
