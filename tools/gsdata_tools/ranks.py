"""Several processes of one run, as ``torchrun`` starts them: who is who, sums over all, and what the first one gives to all.

A *rank* is a process's number, 0 to ``world() - 1``. Every rank has the whole synthetic set, draws the same numbers (they are keyed,
see ``draws.py``) and computes its share of a step; sums over ranks are the same bits on every rank. The first rank alone
writes files and prints. One process without ``torchrun`` is a world of one, in which every function here does nothing.

When a rank fails, the others lose their connection to it, or are stopped by ``torchrun``; the first to fail says why.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from gsdata.errors import GsdError
from gsdata_tools.checkpoints import Checkpoint, pack, unpack
from gsdata_tools.usage import UsageError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
State: TypeAlias = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Arrays and JSON values, by name: what a checkpoint holds under one name."""

PATIENCE = timedelta(days=7)
"""How long a rank waits for another: the first one may fit images for hours. A rank that ended is noticed at once all the same."""

_rank, _world = 0, 1
_store: Any = None


def started() -> int:
    """Number of processes that ``torchrun`` started, 1 without it."""
    launched = {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def rank() -> int:
    """This process's number."""
    return _rank


def world() -> int:
    """Number of processes of this run."""
    return _world


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return _rank == 0


def on_this_machine() -> int:
    """Number of this run's processes that share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _world > 1 else 1


def own(items: Sequence[T]) -> list[T]:
    """This rank's share of what is divided among ranks: one of every ``world()``."""
    return list(items[_rank::_world])


def join(device: str) -> None:
    """Meet the other processes, if ``torchrun`` started several: gloo between CPUs, NCCL between GPUs, a GPU for each process.

    Args:
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        UsageError: this machine has fewer GPUs than processes.
        GsdError: the others cannot be reached.
    """
    global _rank, _world, _store
    if started() == 1 or _world > 1:
        return
    import torch
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    local, each = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device == "cuda":
        if torch.cuda.device_count() < each:
            raise UsageError(
                f"{each} processes on a machine with {torch.cuda.device_count()} GPU(s): start as many as there are GPUs, "
                "or give --device cpu"
            )
        torch.cuda.set_device(local)
    with _connected():
        _store, number, size = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        distributed.init_process_group(backend, store=_store, rank=number, world_size=size, timeout=PATIENCE)
    _rank, _world = number, size


def leave(code: int) -> None:
    """Part from the others, after ``wait``, and end the process; does nothing without others."""
    if _world > 1:
        from torch import distributed

        distributed.destroy_process_group()
        end_at_once(code)


def end_at_once(code: int) -> None:
    """End a process among others, failed or not; does nothing without others.

    The interpreter's own end would wait for torch's connections to processes that may be gone, or abort on threads that still end.
    """
    if _world > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait() -> None:
    """Until every rank is here."""
    highest(0)


def highest(value: int) -> int:
    """The highest of the ranks' values."""
    if _world == 1:
        return value
    import torch
    from torch import distributed

    values = torch.tensor([value])
    with _connected():
        distributed.all_reduce(values, distributed.ReduceOp.MAX)
    return int(values)


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of the ranks' tensors, of one shape and kind; ``values`` is changed in place."""
    if _world > 1:
        from torch import distributed

        with _connected():
            distributed.all_reduce(values)
    return values


def totals(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The sums of several tensors, in one message; the tensors stay as they are."""
    if _world == 1:
        return list(tensors)
    import torch

    flat = total(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def from_first(make: Callable[[], State]) -> State:
    """What ``make`` returns on the first rank, where alone it is called, on every rank."""
    if _world == 1:
        return make()
    import torch
    from torch import distributed

    made = make() if first() else ({}, {})
    data = torch.frombuffer(bytearray(pack(*made)), dtype=torch.uint8)
    size = torch.tensor([len(data)])
    with _connected():
        distributed.broadcast(size, 0)
        data = data if first() else torch.empty(int(size), dtype=torch.uint8)
        distributed.broadcast(data, 0)
    return made if first() else unpack(data.numpy().tobytes())


class Elsewhere(Checkpoint):
    """What ranks but the first have for a checkpoint: it holds nothing and keeps nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.options = Path(path), {}

    def save(self, name: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None) -> None:
        """Nothing."""

    def names(self) -> list[str]:
        """None."""
        return []

    def remove(self, name: str) -> None:
        """Nothing."""

    def delete(self) -> None:
        """Nothing."""


def checkpoint(path: Path, options: Mapping[str, Any], *, resume: bool) -> Checkpoint:
    """The run's checkpoint on the first rank, ``Elsewhere`` on others; arguments as for ``Checkpoint``."""
    return Checkpoint(path, options, resume=resume) if first() else Elsewhere(path)


@contextmanager
def only_first_prints() -> Iterator[None]:
    """While inside, ranks but the first print nothing, usage and progress included; errors are printed outside."""
    if started() == 1 or os.environ["RANK"] == "0":
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def speaks_for_all() -> bool:
    """Whether this process, which has failed, is the one to say so: the first that asks is. Before ``join`` all fail alike."""
    if started() == 1:
        return True
    if _store is None:
        return os.environ["RANK"] == "0"
    try:
        return bool(_store.add("gsdata/failed", 1) == 1)
    except RuntimeError:  # the store has gone with the process that kept it
        return True


@contextmanager
def _connected() -> Iterator[None]:
    """Say in one line that another process has ended, which torch says in twenty."""
    try:
        yield
    except RuntimeError as error:
        raise GsdError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} lost the others, one of them has ended ({str(error).partition(chr(10))[0][:100]}); "
            "the same command with --resume goes on from the last checkpoint, on as many processes as you like"
        ) from error
