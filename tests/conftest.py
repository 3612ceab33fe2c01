"""What holds for every test: where `CI=true`, a test that is skipped has failed.

A skip says that something was not looked at. On a desk that may be right (no root, no Postfix); in CI nobody reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import io
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest
import uvloop
from hypothesis.configuration import set_hypothesis_home_dir

import hubtunnel
from hubtunnel.demo.ports import Ports
from tests.e2e.processes import compile_package

# A machine with other work to do is slow and not wrong; what hangs meets pytest's own timeout. In CI every run tries
# the same examples, so that a change is never blamed for what chance found elsewhere.
hypothesis.settings.register_profile("hubtunnel", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("hubtunnel")

DESCRIPTORS = 16_384


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is collected."""
    _keep_the_checkout_clean(config)
    if not hasattr(config, "workerinput"):
        compile_package(Path(hubtunnel.__file__).parent)
    _raise_the_limit_of_descriptors()


def _keep_the_checkout_clean(config: pytest.Config) -> None:
    """What Hypothesis keeps, with paths of this machine in it, goes into pytest's cache; nowhere where that is off."""
    cache: pytest.Cache | None = getattr(config, "cache", None)
    if cache is not None:
        home = cache.mkdir("hypothesis")
    else:
        home = Path(tempfile.mkdtemp(prefix="hypothesis-"))
        config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    set_hypothesis_home_dir(home)


def _raise_the_limit_of_descriptors() -> None:
    """As the daemon does: Debian's 1,024 are too few for a thousand strangers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the report of a skipped test into that of a failed one."""
    raised = call.excinfo is not None and call.when != "teardown"
    if raised:
        gc.disable()  # until the teardown collects, in peace, what the failure has left
    report = yield
    _no_skips_in_ci(report)
    if raised:
        _failed.add(item.nodeid)
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


# --- several tests at once ------------------------------------------------------------------------------------


class Turns:
    """Tests of several processes side by side, but for those marked `alone`, beside which no other one runs.

    Everybody enters through a gate and holds a place while his test runs. Who wants to be alone keeps the gate closed
    until all places are free: without it those who come again and again would let him wait for ever.
    """

    def __init__(self, folder: Path) -> None:
        self._gate = (folder / "gate.lock").open("w")
        self._places = (folder / "places.lock").open("w")

    @contextlib.contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """One test's time."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._places, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._places, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)


_turns: list[Turns] = []  # none but in a process of pytest-xdist
_MEETING = pytest.StashKey[Path]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process that is about to start where it meets the others: a folder that outlives them all.

    For the first of them ends while the last one's test still runs, with the locks among its open descriptors.
    """
    config: pytest.Config = node.config
    if _MEETING not in config.stash:
        config.stash[_MEETING] = folder = Path(tempfile.mkdtemp(prefix="hubtunnel-tests-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    node.workerinput["meeting"] = str(config.stash[_MEETING])


# Folders whose tests wait for mail servers and machines, minutes for each file: begun last, they would run on alone.
LONG = ("mta", "package", "documents", "failures", "e2e", "faults")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, else in the random order in which they stand."""
    items.sort(key=lambda item: item.path.parent.name not in LONG)


@pytest.hookimpl
def pytest_sessionstart(session: pytest.Session) -> None:
    """Meet the other processes of this run."""
    if hasattr(session.config, "workerinput"):
        _turns.append(Turns(Path(session.config.workerinput["meeting"])))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for the test's turn, before its own time begins to run."""
    with contextlib.ExitStack() as stack:
        for turns in _turns:
            stack.enter_context(turns.turn(alone=item.get_closest_marker("alone") is not None))
        return (yield)


# --- after a failure ------------------------------------------------------------------------------------------

_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """What a failed test has left open is not put down to the one after it, in which it would be collected."""
    try:
        yield
    finally:
        if item.nodeid in _failed:
            for name in ("last_exc", "last_type", "last_value", "last_traceback"):
                if hasattr(sys, name):  # of pytest, for debuggers: it holds the frames of the failure
                    delattr(sys, name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)
                gc.collect()
            gc.enable()


# --- ports ----------------------------------------------------------------------------------------------------

RESERVED = Ports()  # those that the running test chose by `reserve`


@pytest.fixture(autouse=True)
def _reserved_ports() -> Iterator[None]:
    with RESERVED:
        yield


# --- the log --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Who is to hear a line must not depend on which level an earlier test of this process has set."""
    log = logging.getLogger("hubtunnel")
    before = (log.handlers[:], log.level, log.propagate)
    yield
    log.handlers[:], log.level, log.propagate = before


# --- event loops ----------------------------------------------------------------------------------------------

_T = TypeVar("_T")
_LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


CLOSE_WITHIN = 10.0  # seconds


class RunLoop:
    """Runs a coroutine on one of the two event loops, and fails when it leaves a task behind.

    It has `within` seconds: uvloop gives what a signal's handler raises to nobody, so that pytest-timeout ends no test
    there. A task that was cancelled is on its way out, and is waited for. The loop's own end is bounded as well: it
    waits for what a failed test has left, which may be what made it fail.
    """

    def __init__(self, name: str, within: float | None = None) -> None:
        self.name = name
        self.within = within

    def __call__(self, main: Coroutine[Any, Any, _T]) -> _T:
        threads = ThreadPoolExecutor(thread_name_prefix=f"of-a-test-on-{self.name}")
        runner = asyncio.Runner(loop_factory=_LOOPS[self.name])
        runner.get_loop().set_default_executor(threads)
        try:
            result = runner.run(self._checked(main))
        except BaseException:
            self._end(runner.get_loop(), threads)
            if self.name != "uvloop":  # which waits in `close` for transports that the frames of the failure hold
                runner.close()
            asyncio.set_event_loop(None)
            raise
        self._end(runner.get_loop(), threads)
        runner.close()
        return result

    async def _checked(self, main: Coroutine[Any, Any, _T]) -> _T:
        assert type(asyncio.get_running_loop()).__module__.partition(".")[0] == self.name
        task = asyncio.ensure_future(main)
        await asyncio.wait({task}, timeout=self.within)
        if not task.done():
            where = io.StringIO()
            task.print_stack(file=where)
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSE_WITHIN)
            raise TimeoutError(f"not within {self.within:g} s; it waited here:\n{where.getvalue()}")
        result = task.result()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        ending = {task for task in others if task.cancelling()}
        if ending:
            await asyncio.wait(ending, timeout=CLOSE_WITHIN)
        left = [task for task in others if not task.done()]
        assert not left, f"tasks left behind: {left}"
        return result

    @staticmethod
    def _end(loop: asyncio.AbstractEventLoop, threads: ThreadPoolExecutor) -> None:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_WITHIN))
        threads.shutdown(wait=False, cancel_futures=True)
        end = time.monotonic() + CLOSE_WITHIN
        for thread in threads._threads:
            thread.join(max(0.0, end - time.monotonic()))
        stuck = [repr(task) for task in tasks if not task.done()]
        stuck += [repr(thread) for thread in threads._threads if thread.is_alive()]
        if stuck:
            raise TimeoutError(f"the event loop cannot be closed: {stuck}")


@pytest.fixture(params=sorted(_LOOPS))
def run_loop(request: pytest.FixtureRequest) -> Iterator[RunLoop]:
    """The test runs on uvloop and on asyncio's own loop; descriptors that it leaves open are a failure."""
    with asyncio.Runner(loop_factory=_LOOPS[request.param]) as runner:
        runner.run(asyncio.sleep(0))  # libuv opens a pipe for signals with its first loop and keeps it
    before = _open_descriptors()
    with RESERVED:
        yield RunLoop(request.param, _seconds_of(request.node))
    if request.node.nodeid in _failed:
        return  # the frames of the failure hold what was open in them
    gc.collect()
    left = {fd: target for fd, target in _open_descriptors().items() if before.get(fd) != target}
    assert not left, f"descriptors left open: {left}"


def _seconds_of(item: pytest.Item) -> float | None:
    """Just less than pytest-timeout gives it."""
    marker = item.get_closest_marker("timeout")
    given = float(marker.args[0] if marker is not None else item.config.getini("timeout") or 0)
    return 0.9 * given if given else None


def _open_descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found
