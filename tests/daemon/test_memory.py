"""What keeps keys inside the process, as the kernel tells it of a process that asked for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, ctypes
from hubtunnel.daemon import memory
{limit}
memory.forbid_dumps()
locked = memory.lock()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE), locked,
      int(status["VmLck"].split()[0]) > 0)
"""


def _run(limit: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(limit=limit)], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_no_dumps() -> None:
    assert _run("")[:3] == ["0", "0", "0"]


def test_memory_is_not_locked_under_a_limit() -> None:
    assert _run("resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))")[3:] == ["False", "False"]


@pytest.mark.root
def test_locked_is_what_the_kernel_says() -> None:
    """Where it is permitted the pages are locked; where it is not, `lock` says so."""
    _, _, _, locked, seen = _run("")
    assert locked == seen


FREED = """
import threading
from hubtunnel.daemon import memory
{arenas}
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
def work():
    held = [bytes(2000) for _ in range(10_000)]
    kept.append(held[-1])  # above all that is freed, so that nothing but a trim gives it back
kept = []
worker = threading.Thread(target=work)
worker.start()
worker.join()
before = resident()
memory.give_back()
print(before - resident())
"""


@pytest.mark.parametrize("arenas", ["", "memory.shape_malloc()"], ids=["arenas", "one arena"])
def test_what_was_freed_is_given_back(arenas: str) -> None:
    """Of twenty megabytes that a worker needed for a moment, nearly all."""
    done = subprocess.run(
        [sys.executable, "-c", FREED.format(arenas=arenas)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 15_000_000


FAULTS = """
import resource
from hubtunnel.daemon import memory
{shaped}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def carry():
    read = bytes(256_000)
    records = [read[:64_000] for _ in range(4)]
for _ in range(20):
    carry()
before = faults()
for _ in range(200):
    carry()
print(faults() - before)
"""


def test_buffers_are_not_asked_for_page_by_page() -> None:
    """With libc's own thresholds what mail goes through is taken from the kernel anew for every read."""
    plain, shaped = (
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS.format(shaped=call)], capture_output=True, text=True, check=True
            ).stdout
        )
        for call in ("", "memory.shape_malloc()")
    )
    assert shaped < 200 < plain
