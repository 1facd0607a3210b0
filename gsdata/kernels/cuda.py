"""The CUDA backend: ragged batches of floats or of stored codes, one kernel launch per batch, differentiable once.

Images come out in any of four formats and any memory layout, normalised if wanted, written once. Where each image's
Gaussians begin is uploaded once per vector of counts and kept; nothing else is uploaded but ``indices`` that are given
on the host. No call waits for the device, sorts pixels or adds atomically: results have the same bits every time. The
kernels are in ``splat.cu``; ``cuda_launch.py`` compiles and launches them.

In a CUDA graph: render once before capturing (that compiles and uploads), and give ``indices`` as None or as a tensor
on the device.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.function import once_differentiable

from gsdata.gaussians import ANTIALIAS_MODES, Gaussians
from gsdata.kernels.arguments import VARIANCE, Indices, Size, resolve_indices, resolve_size
from gsdata.kernels.cuda_launch import (
    BACKWARD_THREADS,
    BATCH,
    FORWARD_THREADS,
    GAUSSIAN_BYTES,
    LAUNCHERS,
    REGION,
    TASK,
    Launch,
    run,
)

FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.uint8: 3}
"""Output types, by their number in ``splat.cu``."""

Tensors: TypeAlias = dict[str, torch.Tensor | None]
"""What pointers of a task point to, by field; None is a null pointer."""

VALUES = ("means", "cholesky", "colors", "opacities")
_VOTES_BYTES = 64
_GRADIENTS = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, eq=False)
class Output:
    """How images are written.

    Attributes:
        dtype: float32, float16, bfloat16 (float32 rounded once) or uint8 (clamped to [0, 1], times 255, rounded
            half to even).
        channels_last: memory in the order N, H, W, C instead of N, C, H, W; the shape is (n, C, H, W) in both.
        mean, std: one number per channel: images are written as (image - mean) / std. Not with uint8.
        out: write here instead of into a new tensor; (n, C, H, W), any strides. Then nothing is differentiable.

    Raises:
        ValueError: another dtype, or ``mean`` or ``std`` with uint8.
    """

    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    out: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.dtype not in FORMATS:
            raise ValueError(f"dtype must be one of {', '.join(map(str, FORMATS))}, found {self.dtype}")
        if self.dtype == torch.uint8 and (self.mean is not None or self.std is not None):
            raise ValueError("mean and std need a floating-point dtype, found torch.uint8, whose pixels are 0 to 255")

    def affine(self, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Gain and shift of each channel."""
        mean = np.zeros(channels) if self.mean is None else np.asarray(self.mean, np.float64)
        std = np.ones(channels) if self.std is None else np.asarray(self.std, np.float64)
        if mean.shape != (channels,) or std.shape != (channels,) or not (std > 0).all():
            raise ValueError(f"mean and std must be {channels} numbers each, std positive, found {mean} and {std}")
        return 1.0 / std, -mean / std

    def allocate(self, shape: tuple[int, int, int, int], device: torch.device) -> torch.Tensor:
        """Where to write: ``out`` after its checks, or a new tensor."""
        if self.out is None:
            layout = torch.channels_last if self.channels_last else torch.contiguous_format
            return torch.empty(shape, dtype=self.dtype, device=device, memory_format=layout)
        wanted, found = (shape, self.dtype, device), (tuple(self.out.shape), self.out.dtype, self.out.device)
        if found != wanted:
            raise ValueError(f"out must have shape, dtype and device {wanted}, found {found}")
        if any(stride == 0 and side > 1 for stride, side in zip(self.out.stride(), shape, strict=True)):
            raise ValueError(f"out must have memory of its own for every pixel, found strides {self.out.stride()}")
        return self.out


@dataclass(frozen=True, eq=False)
class Job:
    """A batch, the images that are wanted of it, and how: all but the values."""

    batch: Any  # Gaussians or DeviceCodes; structure only
    size: tuple[int, int]
    device: torch.device
    offsets: torch.Tensor
    indices: torch.Tensor | None  # on the device; None is every image in order
    widest: int  # most Gaussians of any image that may be wanted
    distinct: bool  # no image is wanted twice, as far as the host knows
    output: Output

    def task(self) -> NDArray[Any]:
        """A ``TASK`` with all that depends on neither addresses nor the grid."""
        batch, (height, width) = self.batch, self.size
        task = np.zeros(1, TASK)
        task["height"], task["width"], task["images"] = height, width, batch.num_images
        task["scale_x"], task["scale_y"] = width / batch.size[1], height / batch.size[0]
        task["variance"] = VARIANCE[ANTIALIAS_MODES.index(batch.antialias)]
        task["normalized"] = batch.antialias == "box-normalized"
        task["background"][0, : batch.channels] = batch.background
        gain, shift = self.output.affine(batch.channels)
        task["gain"][0, : batch.channels], task["shift"][0, : batch.channels] = gain, shift
        return task

    def run(
        self, kernel: str, task: NDArray[Any], tensors: Tensors, blocks: int, threads: int, shared_bytes: int
    ) -> None:
        """Fill in the addresses and launch."""
        given = {name: tensor for name, tensor in (tensors | {"offsets": self.offsets}).items() if tensor is not None}
        for name, tensor in given.items():
            if tensor.device != self.device:
                raise ValueError(f"{name} must be on {self.device}, found {tensor.device}")
            if name == "out":
                task["out_strides"] = tensor.stride()
            elif not tensor.is_contiguous() or (name == "means" and tensor.data_ptr() % (2 * tensor.itemsize)):
                raise ValueError(f"{name} must be contiguous, means aligned to pairs; found strides {tensor.stride()}")
            task[name] = tensor.data_ptr()
        run(Launch(kernel, self.batch.channels, blocks, threads, shared_bytes, task, given, self.device))


def render(
    gaussians: Gaussians, size: Size = None, indices: Indices | torch.Tensor = None, output: Output | None = None
) -> torch.Tensor:
    """Render images on a CUDA device, in one launch.

    Args:
        gaussians: a batch of torch tensors on one CUDA device.
        size: output size; None is the reference size, S is (S, S).
        indices: images to render, any order, with repeats; None is all. On the host as for ``gsdata.render``, or
            int64 on the device: then nothing is uploaded, negative numbers do not count from the end, and an index
            out of range makes its image NaN (0 in uint8).
        output: how images are written; None is float32.

    Returns:
        (n, C, H, W), differentiable once with respect to means, cholesky, colors and opacities (uint8 and
        ``output.out``: not at all).

    Raises:
        TypeError, ValueError, IndexError: a bad argument, or tensors that are not on one CUDA device.
        RuntimeError: a kernel could not be compiled or launched, or a CUDA graph is being captured and something would
            have to be uploaded.
    """
    values = [getattr(gaussians, name) for name in VALUES]
    devices = {value.device for value in values if isinstance(value, torch.Tensor)}
    if len(devices) != 1 or isinstance(gaussians.means, np.ndarray) or next(iter(devices)).type not in LAUNCHERS:
        found = ", ".join(sorted(map(str, devices))) or "NumPy arrays"
        raise ValueError(f"means, cholesky, colors and opacities must be tensors on one CUDA device, found {found}")
    device = devices.pop()
    job = job_of(gaussians, _offsets(gaussians.counts, device), size, indices, output or Output())
    prepared = [None if value is None else _aligned(value.float()) for value in values]
    image: torch.Tensor
    if job.output.out is not None:
        if torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in prepared):
            raise ValueError("out is not differentiable: render under torch.no_grad(), or without out")
        return forward(job, dict(zip(VALUES, prepared, strict=True)))
    image = _Render.apply(*prepared, job)  # type: ignore[no-untyped-call]
    return image


def _aligned(values: torch.Tensor) -> torch.Tensor:
    values = values.contiguous()
    return values.clone() if values.data_ptr() % (2 * values.itemsize) else values


def job_of(batch: Any, offsets: torch.Tensor, size: Size, indices: Indices | torch.Tensor, output: Output) -> Job:
    """Which images of ``batch`` (Gaussians or DeviceCodes), whose ``offsets`` are on the device; checks ``indices``."""
    device, counts = offsets.device, batch.counts
    distinct, widest, chosen = True, int(counts.max(initial=0)), None
    if isinstance(indices, torch.Tensor) and indices.device == device:
        if indices.dtype != torch.int64 or indices.ndim != 1:
            raise TypeError(f"indices on the device must be a vector of int64, found {indices.ndim}-d {indices.dtype}")
        chosen, distinct = indices.contiguous(), False
    elif indices is not None:
        host = resolve_indices(batch, indices)  # type: ignore[arg-type]
        distinct, widest = len(np.unique(host)) == len(host), int(counts[host].max(initial=0))
        chosen = upload(host, device, wait=False)
    return Job(batch, resolve_size(batch, size), device, offsets, chosen, widest, distinct, output)


def upload(values: NDArray[Any], device: torch.device, *, wait: bool) -> torch.Tensor:
    """Copy to the device. With ``wait`` it is there when this returns, for every stream; else for the current one."""
    tensor = torch.from_numpy(
        values if values.flags.writeable else values.copy()
    )  # torch warns of what it may not write
    if device.type != "cuda":
        return tensor.clone()
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "a CUDA graph is being captured: render once with the same counts before, and give indices on the device"
        )
    return tensor.to(device) if wait else tensor.pin_memory().to(device, non_blocking=True)


_kept_for_graphs: list[torch.Tensor] = []


def _offsets(counts: NDArray[np.int64], device: torch.device) -> torch.Tensor:
    """(B + 1,) int64 on the device; the last few vectors of counts are kept there."""
    offsets = _cached_offsets(counts.tobytes(), device)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _kept_for_graphs.append(offsets)  # a captured graph reads it whenever it is replayed
    return offsets


@functools.lru_cache(maxsize=16)
def _cached_offsets(counts: bytes, device: torch.device) -> torch.Tensor:
    vector = np.frombuffer(counts, np.int64)
    return upload(np.concatenate([np.zeros(1, np.int64), np.cumsum(vector)]), device, wait=True)


def forward(job: Job, values: Tensors, **fields: Any) -> torch.Tensor:
    """Launch ``splat_forward``; ``values`` are pointers, ``fields`` further fields of the task."""
    height, width = job.size
    outputs = job.batch.num_images if job.indices is None else len(job.indices)
    image = job.output.allocate((outputs, job.batch.channels, height, width), job.device)
    columns, rows = -(-width // REGION), -(-height // REGION)
    capacity = min(LAUNCHERS[job.device.type].capacity(job.device), -(-job.widest // 32) * 32)
    task = job.task()
    task["format"], task["columns"], task["parts"] = FORMATS[image.dtype], columns, columns * rows
    task["capacity"] = capacity
    for name, value in fields.items():
        task[name] = value
    tensors = values | {"indices": job.indices, "out": image}
    shared = capacity * GAUSSIAN_BYTES + _VOTES_BYTES
    job.run("splat_forward", task, tensors, outputs * columns * rows, FORWARD_THREADS, shared)
    return image


def backward(job: Job, values: Tensors, grad_out: torch.Tensor, wanted: Sequence[str]) -> dict[str, torch.Tensor]:
    """Launch the adjoint: gradients of the values in ``wanted``, float32, same bits every time."""
    images, indices = job.batch.num_images, job.indices
    order: Tensors = {}
    if job.distinct:
        slots = images if indices is None else len(indices)
    else:
        # Which outputs show an image, in their order: on the device, where the indices may be, without waiting for it.
        assert indices is not None
        ordered, places = torch.sort(indices, stable=True)
        every = torch.arange(images + 1, device=job.device)
        order = {"starts": torch.searchsorted(ordered, every), "order": places}
        slots, indices = images, None
    new = torch.empty_like if slots == images else torch.zeros_like
    grads = {name: new(value) for name in wanted if (value := values[name]) is not None}
    task = job.task()
    task["format"], task["parts"] = FORMATS[grad_out.dtype], -(-job.widest // BATCH)
    tensors = values | order | {"indices": indices, "out": grad_out}
    tensors |= {f"grad_{name}": grad for name, grad in grads.items()}
    sums = 8 if job.batch.channels < 4 else 16
    shared = BATCH * (GAUSSIAN_BYTES + 4 * sums)
    kernel = f"splat_backward_{_GRADIENTS[grad_out.dtype]}"
    job.run(kernel, task, tensors, slots * int(task["parts"][0]), BACKWARD_THREADS, shared)
    return grads


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means: Any, cholesky: Any, colors: Any, opacities: Any, job: Job) -> torch.Tensor:
        ctx.save_for_backward(means, cholesky, colors, opacities)
        ctx.job = job
        image = forward(job, dict(zip(VALUES, (means, cholesky, colors, opacities), strict=True)))
        if job.output.dtype == torch.uint8:
            ctx.mark_non_differentiable(image)
        return image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> Any:
        values = dict(zip(VALUES, ctx.saved_tensors, strict=True))
        wanted = [name for name, needed in zip(VALUES, ctx.needs_input_grad, strict=False) if needed]
        grads = backward(ctx.job, values, grad_out, wanted)
        return *(grads.get(name) for name in VALUES), None
