"""The hook that compiles the protocol core, short of compiling it: `.ci/run` does that, and uses what it made."""

from __future__ import annotations

import importlib.util
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.meta.tree import ROOT

HOOK = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"][
    "custom"
]


@pytest.fixture
def hook() -> ModuleType:
    """contrib/compiled.py, as hatchling loads it: by its path."""
    spec = importlib.util.spec_from_file_location("compiled", ROOT / HOOK["path"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(hook: ModuleType, version: str) -> dict[str, Any]:
    """What the hook adds to a wheel's build."""
    build_data: dict[str, Any] = {"force_include": {}}
    hook.CompiledCore(str(ROOT), {}, None, None, "", "wheel").initialize(version, build_data)
    return build_data


def test_nobody_needs_a_compiler_who_does_not_ask_for_it() -> None:
    assert HOOK["enable-by-default"] is False


def test_it_compiles_modules_that_are_there(hook: ModuleType) -> None:
    core = {path.stem for path in (ROOT / hook.PACKAGE / "protocol").glob("*.py")}
    assert len(hook.MODULES) > 10
    assert set(hook.MODULES) <= core - {"__init__"}


def test_classes_made_anew_for_their_slots_are_not_compiled(hook: ModuleType) -> None:
    """mypyc compiles the class that `dataclass` replaces, without a word."""
    sources = {path.stem: path.read_text() for path in (ROOT / hook.PACKAGE / "protocol").glob("*.py")}
    made_anew = {name for name, source in sources.items() if "@dataclass" in source}
    assert {"events", "environment", "handshake"} <= made_anew, "control"
    assert set(hook.MODULES) & made_anew == set()


def test_an_editable_install_is_what_its_sources_are(hook: ModuleType) -> None:
    assert run(hook, "editable") == {"force_include": {}}


def test_what_cannot_be_compiled_ends_the_build_and_leaves_nothing(
    hook: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(hook, "MODULES", ("nowhere",))
    with pytest.raises(RuntimeError, match=r"is there a C compiler\?(?s:.*)nowhere"):
        run(hook, "standard")
    assert list(tmp_path.iterdir()) == []
    assert "mypyc" not in sys.modules, "it runs in a process of its own"
