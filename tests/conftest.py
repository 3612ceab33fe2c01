"""What holds for every test: where `CI=true`, a test that is skipped has failed.

A skip says that something was not looked at. On a desk that may be right (no root, no Postfix); in CI nobody reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, TypeVar

import hypothesis
import pytest
import uvloop

# A machine with other work to do is slow and not wrong; what hangs meets pytest's own timeout. In CI every run tries
# the same examples, so that a change is never blamed for what chance found elsewhere.
hypothesis.settings.register_profile("hubtunnel", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("hubtunnel")

DESCRIPTORS = 16_384


def pytest_configure() -> None:
    """Raise the limit of descriptors, as the daemon does: Debian's 1,024 are too few for a thousand strangers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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


# --- event loops ----------------------------------------------------------------------------------------------

_T = TypeVar("_T")
_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


class RunLoop:
    """Runs a coroutine on one of the two event loops, and fails when it leaves a task behind."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, main: Coroutine[Any, Any, _T]) -> _T:
        with asyncio.Runner(loop_factory=_LOOPS[self.name]) as runner:
            return runner.run(self._checked(main))

    async def _checked(self, main: Coroutine[Any, Any, _T]) -> _T:
        assert type(asyncio.get_running_loop()).__module__.partition(".")[0] == self.name
        result = await main
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks left behind: {left}"
        return result


@pytest.fixture(params=sorted(_LOOPS))
def run_loop(request: pytest.FixtureRequest) -> Iterator[RunLoop]:
    """The test runs on uvloop and on asyncio's own loop; descriptors that it leaves open are a failure."""
    with asyncio.Runner(loop_factory=_LOOPS[request.param]) as runner:
        runner.run(asyncio.sleep(0))  # libuv opens a pipe for signals with its first loop and keeps it
    before = _open_descriptors()
    yield RunLoop(request.param)
    gc.collect()
    left = {fd: target for fd, target in _open_descriptors().items() if before.get(fd) != target}
    assert not left, f"descriptors left open: {left}"


def _open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found
