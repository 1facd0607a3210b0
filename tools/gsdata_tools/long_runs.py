"""What commands that compute for a long time do alike: threads that a resumed run repeats, and stops between steps."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gsdata_tools import ranks
from gsdata_tools.checkpoints import Checkpoint


def set_threads(checkpoint: Checkpoint, states: Sequence[str]) -> None:
    """Use this process's share of the cores, or as many threads as the run whose ``states`` are continued.

    Sums may depend on the number of threads, and of processes: a run that goes on with another number of these takes its share.
    """
    keep_freed_memory()

    def saved() -> ranks.State:
        metas = [checkpoint.load(name)[1] for name in states if name in checkpoint.names()]
        return {}, {"threads": [m["threads"] for m in metas if m.get("processes", 1) == ranks.world()]}

    share = max(1, (os.cpu_count() or 1) // ranks.on_this_machine())
    torch.set_num_threads([share, *ranks.from_first(saved)[1]["threads"]][-1])


def keep_freed_memory() -> None:
    """Tell glibc to keep what torch frees for its next step; on other systems nothing.

    By default large blocks go back to the kernel at once, and a training on a CPU spends much of its time on getting
    the same pages anew (``minflt`` of ``getrusage``).
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)


def computed_by() -> dict[str, int]:
    """What a checkpoint's meta says of threads and processes, for ``set_threads``."""
    return {"threads": torch.get_num_threads(), "processes": ranks.world()}


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """While inside, Ctrl-C and SIGTERM only set the event, so that a step is never half done; a second one interrupts.

    Of several processes: a second Ctrl-C, because ``torchrun`` itself follows the first one up with SIGTERM.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def request(number: int, frame: object) -> None:
        if event.is_set() and (ranks.world() == 1 or number == signal.SIGINT):
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
