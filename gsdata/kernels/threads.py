"""One pool of threads for every nogil kernel, and how many threads it has.

A pool of plain threads over chunks of images, not an OpenMP or ``prange`` team: such teams spin beside torch's own and
become many times slower on a busy machine. Results never depend on the number of threads, because a chunk's work and
the order of its sums do not.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}
_inside = threading.local()


def _forget() -> None:
    """Threads do not survive a fork and a lock may have been held during it: the child starts anew."""
    global _lock, _inside
    _lock = threading.Lock()
    _inside = threading.local()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def num_threads() -> int:
    """Threads that kernels use now: GSDATA_NUM_THREADS, else torch's count if torch is loaded, else the CPU count.

    Raises:
        ValueError: GSDATA_NUM_THREADS is not a positive integer.
    """
    text = os.environ.get("GSDATA_NUM_THREADS")
    if text:
        if not text.strip().isdecimal() or int(text) < 1:
            raise ValueError(f"GSDATA_NUM_THREADS must be a positive integer, found {text!r}")
        return int(text)
    torch = sys.modules.get("torch")
    # A module that is still being imported by another thread has no such function yet.
    count = getattr(torch, "get_num_threads", None)
    return int(count()) if count is not None else (os.cpu_count() or 1)


def parallel(function: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> list[R]:
    """``[function(item) for item in items]``, on several threads where there is more than one of both.

    The first exception is raised again after every item has ended. Calls from inside ``function`` run serially, so a
    nested call never waits for a thread that waits for it.

    Args:
        function: must release the GIL to gain anything (a ``nogil`` kernel, a NumPy call on large arrays).
        items: its arguments; results come back in their order.
        threads: None means ``num_threads()``.
    """
    work = list(items)
    count = num_threads() if threads is None else threads
    if count < 2 or len(work) < 2 or getattr(_inside, "active", False):
        return [function(item) for item in work]

    def guarded(item: T) -> R:
        _inside.active = True
        try:
            return function(item)
        finally:
            _inside.active = False

    with _lock:
        pool = _pools.get(count)
        if pool is None:
            pool = _pools[count] = ThreadPoolExecutor(count, thread_name_prefix="gsdata")
    futures = [pool.submit(guarded, item) for item in work]
    failures = [error for error in [future.exception() for future in futures] if error is not None]
    if failures:
        raise failures[0]
    return [future.result() for future in futures]
