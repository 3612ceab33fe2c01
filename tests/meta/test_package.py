"""What pyproject.toml, LICENSE, CHANGELOG.md, the lock and the package say of each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import hubtunnel
from tests.meta.tree import ROOT, files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = {path.name: path.read_text() for path in (ROOT / "contrib").glob("*.lock")}
EVERYTHING, DEMO, BENCH = "requirements.lock", "requirements-demo.lock", "requirements-bench.lock"


def locked(lock: str) -> list[tuple[str, str]]:
    """The packages of a lock with their versions; one package twice where Pythons need different versions."""
    return re.findall(r"^([a-z0-9][a-z0-9.-]*)==([^ ;\\]+)", LOCKS[lock], re.MULTILINE)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=~! ;]", one, maxsplit=1)[0].lower() for one in requirements} - {"hubtunnel"}


def test_the_licence_is_the_one_declared() -> None:
    assert PROJECT["license"] == "MIT"
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License")
    assert "Permission is hereby granted, free of charge" in text
    author = PROJECT["authors"][0]["name"]
    assert author in text


def test_the_changelog_knows_this_version_or_says_that_it_is_not_released() -> None:
    sections = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] in {"Unreleased", hubtunnel.__version__}


def test_security_stands_first_in_every_release() -> None:
    for release in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1:]:
        headings = re.findall(r"^### (.+)$", release, re.MULTILINE)
        assert headings
        assert "Security" not in headings[1:]


def test_every_dependency_is_in_the_locks() -> None:
    extras = PROJECT["optional-dependencies"]
    everything = [need for name, extra in extras.items() for need in extra if name != "bench"]
    for lock, wanted in ((EVERYTHING, everything), (DEMO, extras["demo"]), (BENCH, extras["bench"])):
        assert names([*PROJECT["dependencies"], *wanted]) - {name for name, _ in locked(lock)} == set()


def test_the_demo_runs_with_what_the_tests_run_with() -> None:
    assert len(locked(DEMO)) > 10
    assert set(locked(DEMO)) < set(locked(EVERYTHING))


@pytest.mark.parametrize("lock", [EVERYTHING, DEMO])
def test_every_locked_package_has_hashes_and_no_place_of_its_own(lock: str) -> None:
    entries = re.split(r"^(?=[a-z0-9])", LOCKS[lock], flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked(lock))
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"--(extra-)?index-url|--find-links|://", LOCKS[lock])


@pytest.mark.parametrize(("lock", "extra"), [(EVERYTHING, "dev"), (DEMO, "demo")])
def test_a_lock_says_how_it_was_made(lock: str, extra: str) -> None:
    head = LOCKS[lock].splitlines()[1]
    assert f"uv pip compile --universal --generate-hashes --python-version 3.11 --extra {extra} " in head
    assert head.endswith(f"pyproject.toml -o contrib/{lock}")


def test_the_oldest_python_is_named_alike_everywhere() -> None:
    oldest = re.fullmatch(r">=(3\.\d+)", PROJECT["requires-python"])
    assert oldest
    listed = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert listed[0] == oldest[1]
    assert all(f"--python-version {oldest[1]} " in lock for lock in LOCKS.values())
    numbers = tuple(map(int, oldest[1].split(".")))
    assert f"sys.version_info < {numbers}" in (ROOT / "contrib" / "try").read_text()
    assert f"Python {oldest[1]} or later" in (ROOT / "README.md").read_text()


def test_types_are_published() -> None:
    assert Path("hubtunnel/py.typed") in files()


def test_every_extra_is_known_to_who_needs_it() -> None:
    assert {"demo", "metrics", "qr", "test", "dev"} <= set(PROJECT["optional-dependencies"])
    assert "hubtunnel[demo]" in (ROOT / "hubtunnel" / "cli" / "demo.py").read_text()
