"""Keeps keys in this process' memory: no core dumps, no look inside by others of the same user, no swap where allowed.

And keeps that memory small.

What Python itself cannot do, erase a secret once it was used, stands in docs/THREATS.md.
"""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4  # prctl(2)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8  # mallopt(3)
# A read is at most 256,000 bytes and records are 64 KiB: by libc's own thresholds such a buffer goes back to the kernel
# as soon as it is free, and is asked for again, page by page, for the next one.
_BUFFER_MAX = 1 << 20
_KEEP_FREE = 4 << 20  # bytes kept at the end of the heap; `give_back` does not keep them
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # mlockall(2)


def forbid_dumps() -> None:
    """No core dump, as a file or through a pipe (which RLIMIT_CORE does not stop); no ptrace by our own user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def lock() -> bool:
    """Keep all pages out of swap; False where that is not permitted.

    Only without a limit on locked memory (the systemd unit lifts it): under one, a later allocation would fail.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY:
        return False
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    return bool(ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def shape_malloc() -> None:
    """Have all threads allocate from one arena, which keeps the buffers that mail goes through.

    One arena: what each key worker had put aside for itself would serve nobody else. To be called before there are
    threads. Does nothing where libc has no such settings (musl).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _BUFFER_MAX)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_FREE)
        mallopt(_M_TOP_PAD, _BUFFER_MAX)


def give_back() -> None:
    """Give the kernel back what was freed (malloc_trim(3)), as after a start or a reload; a fraction of a millisecond.

    Does nothing where libc has no such call (musl).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
