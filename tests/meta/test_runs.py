"""What tests/conftest.py does for a run: every wait ends, nobody gets another's blame, who wants to be alone is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import RunLoop

CONFTEST = Path(__file__).parents[1] / "conftest.py"


def run_pytest(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nmarkers = alone: beside no other test\n")
    (folder / "test_it.py").write_text(module)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments],
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


# --- the end of a loop ----------------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "uvloop"])
def one_loop(request: pytest.FixtureRequest) -> RunLoop:
    return RunLoop(request.param)


def test_a_task_left_behind_fails_the_test(one_loop: RunLoop) -> None:
    kept = []

    async def scene() -> None:
        kept.append(asyncio.ensure_future(asyncio.sleep(3600)))

    with pytest.raises(AssertionError, match="tasks left behind"):
        one_loop(scene())


def test_a_cancelled_task_may_take_its_time(one_loop: RunLoop) -> None:
    ended = []

    async def in_some_turns() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.02)
            ended.append(True)

    async def scene() -> None:
        task = asyncio.ensure_future(in_some_turns())
        await asyncio.sleep(0)
        task.cancel()

    one_loop(scene())
    assert ended == [True]


def test_a_test_that_hangs_is_ended(one_loop: RunLoop) -> None:
    one_loop.within = 0.1

    async def where_it_hangs() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(TimeoutError, match="where_it_hangs"):
        one_loop(where_it_hangs())


def test_the_end_of_a_loop_is_bounded(one_loop: RunLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that will not be cancelled and a thread that will not end, of a test that failed for another reason."""
    monkeypatch.setattr(conftest, "CLOSE_WITHIN", 0.1)
    loops = []
    released = threading.Event()

    async def stubborn() -> None:
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        loops.append((loop, asyncio.ensure_future(stubborn()), loop.run_in_executor(None, released.wait)))
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(TimeoutError, match=r"stubborn.*of-a-test-on") as caught:
        one_loop(scene())
    assert isinstance(caught.value.__context__, ZeroDivisionError)
    ((loop, task, thread),) = loops
    released.set()
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, thread, return_exceptions=True))
    loop.close()


# --- failures -------------------------------------------------------------------------------------------------

LEAVES_A_TRANSPORT = """
import asyncio

async def leave():
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    kept = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert kept is None

def test_one():
    asyncio.run(leave())

def test_two(run_loop):
    run_loop(leave())

def test_three():
    pass
"""


def test_what_a_failure_leaves_open_is_not_put_down_to_the_next_test(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, LEAVES_A_TRANSPORT)
    assert "3 failed, 1 passed in" in run.stdout, run.stdout


# --- turns ----------------------------------------------------------------------------------------------------

TURNS = """
import pathlib, time
import pytest

def note(name):
    folder = pathlib.Path(__file__).parent
    (folder / f"{name}.begun").write_text(repr(time.monotonic()))
    time.sleep(0.05)
    (folder / f"{name}.ended").write_text(repr(time.monotonic()))

@pytest.mark.parametrize("n", range(16))
def test_beside_others(n):
    note(f"beside-{n}")

@pytest.mark.alone
@pytest.mark.parametrize("n", range(3))
def test_alone(n):
    note(f"alone-{n}")
"""


def test_a_test_that_wants_to_be_alone_is(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, TURNS, "-n", "2", "--dist", "load")
    assert "19 passed in" in run.stdout, run.stdout
    times = {
        path.stem: (float(path.read_text()), float(path.with_suffix(".ended").read_text()))
        for path in tmp_path.glob("*.begun")
    }
    met = [
        {one, other}
        for one, (begun, ended) in times.items()
        for other, (other_begun, _) in times.items()
        if one != other and begun <= other_begun < ended
    ]
    assert met, "the others run side by side"
    assert not [pair for pair in met if any(name.startswith("alone") for name in pair)]


ENDS_FIRST = """
import asyncio, pathlib

BEGUN, ENDED = (pathlib.Path(__file__).parent / name for name in ("begun", "ended"))

async def until(path):
    while not path.exists():
        await asyncio.sleep(0.01)

def test_of_the_process_that_ends_first():
    asyncio.run(until(BEGUN))

def test_of_the_one_that_is_left(run_loop):
    BEGUN.touch()
    run_loop(until(ENDED))
"""

SAYS_WHEN = """
import pathlib, pytest

@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    (session.config.rootpath / "ended").touch()
"""


def test_a_process_that_ends_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """The locks are open files of each, in which the check for what a test left open must find no change."""
    (tmp_path / "says_when.py").write_text(SAYS_WHEN)
    run = run_pytest(tmp_path, ENDS_FIRST, "-n", "2", "--dist", "load", "-p", "says_when", "-k", "first or uvloop")
    assert "2 passed in" in run.stdout, run.stdout
