"""Two hubs that do not know each other yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.hubs import Hub


@pytest.fixture(autouse=True)
def _no_configuration_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUBTUNNEL_CONFIG", raising=False)


@pytest.fixture
def a(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "a", "a", 2625)


@pytest.fixture
def anywhere(a: Hub) -> Hub:
    """Hub a, whose daemon listens on any free port."""
    a.config.write_text(a.config.read_text().replace("127.0.0.1:2625", "127.0.0.1:0"))
    return a


@pytest.fixture
def b(tmp_path: Path) -> Hub:
    return Hub(tmp_path / "b", "b", 2626)
