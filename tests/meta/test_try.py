"""What contrib/try says when it cannot do what was asked; that it can is what .ci/run shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.meta.tree import ROOT


def run_try(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(folder / "contrib" / "try"), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("arguments", [(), ("dmeo",)])
def test_it_names_what_it_can_do(arguments: tuple[str, ...]) -> None:
    run = run_try(ROOT, *arguments)
    assert run.returncode == 2
    assert all(word in run.stderr for word in ("demo", "test", "setup"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A place like the checkout, but never prepared, so that nothing is made or removed in ours."""
    (tmp_path / "contrib").mkdir()
    for name in ("pyproject.toml", "contrib/try", "contrib/requirements.lock", "contrib/requirements-demo.lock"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    return tmp_path


def fake_python(folder: Path, script: str) -> str:
    path = folder / "fake-python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("action", ["demo", "test", "setup"])
def test_it_refuses_a_python_that_is_too_old(checkout: Path, action: str) -> None:
    old = fake_python(checkout, "exit 1")
    run = run_try(checkout, action, PYTHON=old)
    assert run.returncode == 2
    assert f"PYTHON={old} is not Python 3.11 or later" in run.stderr
    assert not (checkout / ".venv").exists()


def test_it_says_which_package_brings_the_venv_module(checkout: Path) -> None:
    bare = fake_python(checkout, 'case "$2" in *"import venv"*) exit 1;; esac')
    run = run_try(checkout, "demo", PYTHON=bare)
    assert run.returncode == 2
    assert "apt-get install python3-venv" in run.stderr
