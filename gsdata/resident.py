"""``ResidentImages``: the Gaussians of one or several files on a device, rendered batch by batch into one format.

On the CPU they are float32 arrays; where the CUDA kernels run they are the stored codes, which take a quarter of that;
on other devices they are float32 tensors. Files of one geometry become one part, so that a batch is one render call; a
batch from files of several sizes is one call for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata.batch_format import BatchFormat
from gsdata.file import GsdFile
from gsdata.quantize import Codes, concatenate
from gsdata.rendering import render
from gsdata.united import UnitedSet

_Renderer: TypeAlias = Callable[[Any], torch.Tensor]
"""Rows of a part, on the host or, where the kernels run, on the device, to images."""


class ResidentImages:
    """The chosen images of some files, kept on a device.

    Args:
        united: the files.
        chosen: (n,) int64 numbers of images.
        device: where to keep them and to render.
        output: what batches look like.
        limit: most bytes that they may take as float32.

    Raises:
        GsdError: stored bytes are damaged.
        ValueError: more bytes than ``limit``.
    """

    def __init__(
        self,
        united: UnitedSet,
        chosen: NDArray[np.int64],
        device: torch.device,
        output: BatchFormat,
        limit: int,
    ) -> None:
        self.device, self.output, self._kernels = device, output, kernels_run_on(device)
        files, first = united.files, united.files[0]
        self.channels = first.channels
        images, inverse = np.unique(chosen, return_inverse=True)  # what is wanted twice is kept once
        file_of = np.searchsorted(united.starts, images, side="right") - 1
        local = images - united.starts[file_of]
        wanted = [local[file_of == f] for f in range(len(files))]
        taken = sum(int(file.counts[rows].sum()) for file, rows in zip(files, wanted, strict=True))
        if (needed := taken * (5 + self.channels) * 4) > limit:
            raise ValueError(
                f"{first.path}{' and others' if files[1:] else ''}: {needed} bytes of Gaussians, more than the "
                f"{limit} that a loader keeps: raise resident_bytes=, choose fewer images, or use GaussianDataset"
            )
        geometries = [(file.size, file.header.antialias, file.header.background) for file in files]
        parts: dict[Any, list[int]] = {}  # the files of each geometry
        for f, geometry in enumerate(geometries):
            parts.setdefault(geometry, []).append(f)
        part, row = np.zeros((2, len(images)), np.int64)
        self._render: list[_Renderer] = []
        for number, members in enumerate(parts.values()):
            places = np.flatnonzero(np.isin(file_of, members))
            part[places], row[places] = number, np.arange(len(places))
            codes = [_codes_of(files[f], wanted[f]) for f in members]
            self._render.append(self._renderer(codes[0] if len(codes) == 1 else concatenate(codes)))
        self._part, self._row = part[inverse], row[inverse]  # of each image of the set
        self._row_on_device = torch.from_numpy(self._row).to(device)

    def render(self, chosen: NDArray[np.int64], on_device: torch.Tensor) -> torch.Tensor:
        """(len(chosen), C, H, W) of the images at these places of the set, given on the host and on the device."""
        if len(self._render) == 1:
            return self._render[0](self._row_on_device[on_device] if self._kernels else self._row[chosen])
        height, width = self.output.size
        images = torch.empty(
            (len(chosen), self.channels, height, width),
            dtype=self.output.dtype,
            device=self.device,
            memory_format=self.output.memory_format,
        )
        parts = self._part[chosen]
        for number, draw in enumerate(self._render):
            places = np.flatnonzero(parts == number)
            if len(places):
                images[torch.from_numpy(places).to(self.device)] = draw(self._row[chosen[places]])
        return images

    def _renderer(self, codes: Codes) -> _Renderer:
        if self._kernels:
            return _by_kernels(codes, self.device, self.output)
        return _on_cpu(codes, self.output) if self.device.type == "cpu" else _by_torch(codes, self.device, self.output)


def kernels_run_on(device: torch.device) -> bool:
    """Whether the CUDA kernels can be used there."""
    if device.type != "cuda":
        return False
    from gsdata.kernels import cuda_launch

    return cuda_launch.problem() is None


def _by_kernels(codes: Codes, device: torch.device, form: BatchFormat) -> _Renderer:
    from gsdata.kernels.cuda import Output
    from gsdata.kernels.device_codes import DeviceCodes

    resident, last = DeviceCodes.from_codes(codes, device), form.memory_format == torch.channels_last
    output = Output(form.dtype, last, form.mean, form.std)
    if form.dtype == torch.uint8 or not form.clamp:
        return lambda rows: resident.render(form.size, rows, output)
    # Limits move with mean and std, so that one pass over what the kernel wrote is enough.
    gain, shift = output.affine(codes.channels)
    low, high = (torch.tensor(v, dtype=form.dtype, device=device)[:, None, None] for v in (shift, gain + shift))
    return lambda rows: resident.render(form.size, rows, output).clamp_(low, high)


def _on_cpu(codes: Codes, form: BatchFormat) -> _Renderer:
    gaussians, dtype = codes.dequantize(), _rendered(form)
    return lambda rows: form.finish_on_cpu(render(gaussians, form.size, rows, dtype=dtype))


def _by_torch(codes: Codes, device: torch.device, form: BatchFormat) -> _Renderer:
    gaussians, dtype = codes.dequantize().torch(device), _rendered(form)
    return lambda rows: form.finish(render(gaussians, form.size, rows, dtype=dtype))


def _rendered(form: BatchFormat) -> str:
    return "uint8" if form.dtype == torch.uint8 else "float32"


def _codes_of(file: GsdFile, wanted: NDArray[np.int64]) -> Codes:
    return file.codes(None if len(wanted) == file.images else wanted)
