"""What commands that compute for a long time do alike: threads that a resumed run repeats, and stops between steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from gsdata_tools.checkpoints import Checkpoint


def set_threads(checkpoint: Checkpoint, states: Sequence[str]) -> None:
    """Use every core, or as many threads as the run whose ``states`` are continued: sums may depend on their number."""
    threads = os.cpu_count() or 1
    for name in states:
        if name in checkpoint.names():
            threads = int(checkpoint.load(name)[1]["threads"])
    torch.set_num_threads(threads)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """While inside, Ctrl-C and SIGTERM only set the event, so that a step is never half done; a second one interrupts."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def request(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
