"""The hook that compiles what every message goes through, short of compiling it: `.ci/run` does that, and uses it."""

from __future__ import annotations

import ast
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
    hook.Compiled(str(ROOT), {}, None, None, "", "wheel").initialize(version, build_data)
    return build_data


def sources(hook: ModuleType) -> dict[str, str]:
    """Of all modules in folders of the package, by the names that the hook gives them."""
    package = ROOT / hook.PACKAGE
    return {str(path.relative_to(package).with_suffix("")): path.read_text() for path in package.glob("*/*.py")}


def classes(tree: ast.Module) -> list[ast.ClassDef]:
    """All in a module."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_nobody_needs_a_compiler_who_does_not_ask_for_it() -> None:
    assert HOOK["enable-by-default"] is False


def test_it_compiles_modules_that_are_there(hook: ModuleType) -> None:
    assert len(hook.MODULES) > 15
    assert set(hook.MODULES) <= set(sources(hook))


def test_classes_made_anew_for_their_slots_are_not_compiled(hook: ModuleType) -> None:
    """mypyc compiles the class that `dataclass` replaces, without a word."""
    made_anew = {name for name, source in sources(hook).items() if "@dataclass" in source}
    assert {"protocol/events", "protocol/handshake", "daemon/target"} <= made_anew, "control"
    assert set(hook.MODULES) & made_anew == set()


def test_no_compiled_class_is_below_one_that_is_not(hook: ModuleType) -> None:
    """mypyc makes an ordinary class of it, whose every attribute is looked up, without a word either."""
    trees = {name: ast.parse(source) for name, source in sources(hook).items()}
    compiled = {each.name for name in hook.MODULES for each in classes(trees[name])}
    others = {each.name for name in trees.keys() - set(hook.MODULES) for each in classes(trees[name])}
    assert {"Relay", "Session"} <= compiled
    assert {"Target", "CarrierListener"} <= others, "control"
    above = {
        (each.name, ast.unparse(base)) for name in hook.MODULES for each in classes(trees[name]) for base in each.bases
    }
    assert ("AcceptedRelay", "Relay") in above, "control"
    rarely_made = {"Enum", "IntEnum", "StrEnum", "NamedTuple", "HubtunnelError"}
    assert {base for _, base in above} - compiled <= rarely_made


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
