"""From a filled-in ``Task`` to a running CUDA kernel: ``splat.cu`` compiled by CuPy's NVRTC, on torch's current stream.

``Launch`` is what one kernel call needs; ``LAUNCHERS`` says who carries it out on which type of device. The tests put
a launcher for the CPU there, which runs the same source compiled by g++.

What may be changed: how kernels are compiled and launched. The fields of ``TASK`` are those of ``struct Task``, in order.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("splat.cu")

POINTERS = (
    *("means", "cholesky", "colors", "opacities", "tables", "table_starts", "sets", "offsets", "indices"),
    *("starts", "order", "out", "grad_means", "grad_cholesky", "grad_colors", "grad_opacities"),
)
"""The fields of ``TASK`` that are addresses on the device; 0 is a null pointer."""

TASK = np.dtype(
    [
        *((name, "u8") for name in POINTERS),
        ("out_strides", "i8", (4,)),
        *((name, "f8") for name in ("scale_x", "scale_y", "variance")),
        *((name, "i4") for name in ("height", "width", "images", "parts", "columns", "capacity")),
        *((name, "i4") for name in ("format", "normalized", "means_bytes", "cholesky_bytes", "colors_bytes", "unused")),
        *((name, "f4", (4,)) for name in ("background", "gain", "shift")),
    ],
    align=True,
)
"""``struct Task`` of ``splat.cu``, which says what the fields mean."""

GAUSSIAN_BYTES = 48
"""Shared memory of one prepared Gaussian (``struct Gaussian``)."""

REGION = 32
FORWARD_THREADS, BACKWARD_THREADS = 256, 128
BATCH = 32
_FORWARD_BLOCKS = 3  # resident on a multiprocessor, by registers: the second __launch_bounds__ of splat_forward
_MAX_BLOCKS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Launch:
    """One kernel call.

    Attributes:
        kernel: name of an ``extern "C"`` function of ``splat.cu``.
        channels: 1 to 4, the value of its macro CHANNELS.
        blocks: size of the grid, one-dimensional.
        threads: threads of a block.
        shared_bytes: dynamic shared memory of a block.
        task: the kernel's only argument, one ``TASK``.
        tensors: what its pointers point to, by field; keeps them alive until the call is queued.
        device: where they are.
    """

    kernel: str
    channels: int
    blocks: int
    threads: int
    shared_bytes: int
    task: NDArray[Any]
    tensors: dict[str, torch.Tensor]
    device: torch.device


class Launcher(Protocol):
    """Runs kernels on one type of device."""

    def capacity(self, device: torch.device) -> int:
        """How many prepared Gaussians the shared memory of a forward block may hold, at least ``FORWARD_THREADS``."""

    def __call__(self, launch: Launch) -> None:
        """Queue the call on torch's current stream of its device."""


def options(channels: int) -> tuple[str, ...]:
    """Compiler options of ``splat.cu`` for images of so many channels."""
    return (f"-DCHANNELS={channels}", f"-DTASK_BYTES={TASK.itemsize}")


def run(launch: Launch) -> None:
    """Carry out a launch; does nothing for an empty grid.

    Raises:
        ValueError: more blocks than a grid holds.
        RuntimeError: the kernel could not be compiled or launched.
    """
    if launch.blocks > _MAX_BLOCKS:
        raise ValueError(
            f"{launch.blocks} blocks exceed the {_MAX_BLOCKS} of one launch: render fewer images at a time"
        )
    if launch.blocks:
        LAUNCHERS[launch.device.type](launch)


def gaussians_held(shared_per_multiprocessor: int, threads_per_multiprocessor: int) -> int:
    """Prepared Gaussians per forward block such that shared memory never limits how many blocks are resident."""
    blocks = max(1, min(_FORWARD_BLOCKS, threads_per_multiprocessor // FORWARD_THREADS))
    # A block gets at most 48 KiB without asking; 1 KiB of it is the system's; the votes of two rounds take 64 bytes.
    available = min(48 * 1024, shared_per_multiprocessor // blocks) - 1024 - 64
    return max(FORWARD_THREADS, available // GAUSSIAN_BYTES // 32 * 32)


@functools.cache
def problem() -> str | None:
    """Why CUDA kernels cannot run in this process, as one line that says what to install; None if they can."""
    if torch.version.cuda is None:
        return "this PyTorch was not built for CUDA"
    install = f"pip install 'gsdata[cuda{torch.version.cuda.partition('.')[0]}]'"
    try:
        import cupy
    except Exception as error:  # a broken installation fails in many ways, each with its own type
        return f"CuPy is missing: {install}" if isinstance(error, ModuleNotFoundError) else _broken(error, install)
    try:
        cupy.cuda.nvrtc.getVersion()
        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return _broken(error, install)
    return None


def _broken(error: Exception, install: str) -> str:
    first_line = (str(error).splitlines() or [""])[0]
    return f"CuPy does not work here ({type(error).__name__}: {first_line}): {install}"


class _CupyLauncher:
    """Compiles with NVRTC (CuPy keeps the result on disk) and launches on torch's current stream."""

    def capacity(self, device: torch.device) -> int:
        return _capacity(_index(device))

    def __call__(self, launch: Launch) -> None:
        import cupy

        index = _index(launch.device)
        # Both guards: torch and CuPy each ask their own copy of the CUDA runtime which device is current.
        with torch.cuda.device(index), cupy.cuda.Device(index):
            stream = SimpleNamespace(ptr=torch.cuda.current_stream(index).cuda_stream)
            grid, block = (launch.blocks,), (launch.threads,)
            try:
                kernel = _kernel(launch.kernel, launch.channels)
                kernel(grid, block, (launch.task,), shared_mem=launch.shared_bytes, stream=stream)
            except Exception as error:
                raise RuntimeError(
                    f"{launch.kernel} on {launch.device}, {launch.blocks} blocks of {launch.threads} threads, "
                    f"{launch.shared_bytes} bytes shared: {type(error).__name__}: {error}"
                ) from error


LAUNCHERS: dict[str, Launcher] = {"cuda": _CupyLauncher()}
"""By ``torch.device.type``."""


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@functools.cache
def _capacity(index: int) -> int:
    import cupy

    found = cupy.cuda.Device(index).attributes
    return gaussians_held(found["MaxSharedMemoryPerMultiprocessor"], found["MaxThreadsPerMultiProcessor"])


@functools.cache
def _kernel(name: str, channels: int) -> Any:
    import cupy

    # Compiled at the first call on each device; kernels with the same source and options share one module there.
    return cupy.RawKernel(_source(), name, options=options(channels), backend="nvrtc")


@functools.cache
def _source() -> str:
    return SOURCE.read_text()
