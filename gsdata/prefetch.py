"""Work ahead of who consumes it: on the CPU a thread, on a CUDA device a stream of its own.

What may be changed: how work is done ahead. Items come in their order, whatever ``ahead`` is, and an exception in the
making of one is raised where that one is asked for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import Any, TypeAlias, TypeVar

import torch

T = TypeVar("T")
Tensors: TypeAlias = tuple[torch.Tensor, ...]
Make: TypeAlias = Callable[[T], Tensors]


def made(make: Make[T], items: Iterable[T], ahead: int, device: torch.device) -> Generator[Tensors, None, None]:
    """``make(item)`` for each item; while one is used, up to ``ahead`` next ones are made. Close it to end the work."""
    if ahead == 0:
        yield from map(make, items)
    else:
        yield from (_on_stream if device.type == "cuda" else _in_thread)(make, items, ahead, device)


def _in_thread(make: Make[T], items: Iterable[T], ahead: int, device: torch.device) -> Iterator[Tensors]:
    # One thread: kernels spread over a pool of their own, and leave the GIL to who consumes.
    pool, ended = ThreadPoolExecutor(1, thread_name_prefix="gsdata-loader"), Event()
    try:
        yield from _queued(
            lambda item: pool.submit(lambda: () if ended.is_set() else make(item)),
            lambda future: future.result(),
            items,
            ahead,
        )
    finally:
        ended.set()  # not cancel_futures: that fails while the interpreter ends
        pool.shutdown()


def _on_stream(make: Make[T], items: Iterable[T], ahead: int, device: torch.device) -> Iterator[Tensors]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))  # what the work reads may still be on its way

    def submit(item: T) -> tuple[Tensors, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return make(item), stream.record_event()

    def take(submitted: tuple[Tensors, torch.cuda.Event]) -> Tensors:
        tensors, event = submitted
        current = torch.cuda.current_stream(device)
        current.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(current)  # its memory is not for the other stream's next batch until this one is done
        return tensors

    return _queued(submit, take, items, ahead)


def _queued(
    submit: Callable[[T], Any], take: Callable[[Any], Tensors], items: Iterable[T], ahead: int
) -> Iterator[Tensors]:
    process, source = os.getpid(), iter(items)
    waiting = deque(submit(item) for item in islice(source, ahead))
    while waiting:
        if os.getpid() != process:  # the thread did not survive the fork, nor may the device be used: no endless wait
            raise RuntimeError("this iteration began in another process, before a fork: begin a new one here")
        item = take(waiting.popleft())
        waiting.extend(submit(item) for item in islice(source, 1))
        yield item
