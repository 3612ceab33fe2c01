"""What holds for every test: where `CI=true`, a test that is skipped has failed.

A skip says that something was not looked at. On a desk that may be right (no root, no Postfix); in CI nobody reads it.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the report of a skipped test into that of a failed one."""
    report = yield
    _no_skips_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is collected."""
    report = yield
    _no_skips_in_ci(report)
    return report


def _no_skips_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    expected_to_fail = hasattr(report, "wasxfail")
    if os.environ.get("CI") == "true" and report.skipped and not expected_to_fail:
        report.outcome = "failed"
        report.longrepr = f"skipped, and under CI=true nothing may be: {report.longrepr}"
