"""``ResidentImages``: the Gaussians of one or several files on a device, rendered batch by batch into one format.

On the CPU they are float32 arrays; where the CUDA kernels run they are the stored codes, which take a quarter of that;
on other devices they are float32 tensors. Files of one geometry become one part, so that a batch is one render call; a
batch from files of several sizes is one call for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        file_of = np.searchsorted(united.starts, chosen, side="right") - 1
        local = chosen - united.starts[file_of]
        taken = sum(int(file.counts[local[file_of == f]].sum()) for f, file in enumerate(files))
        if (needed := taken * (5 + self.channels) * 4) > limit:
            raise ValueError(
                f"{first.path}{' and others' if files[1:] else ''}: {needed} bytes of Gaussians, more than the "
                f"{limit} that a loader keeps: raise resident_bytes=, choose fewer images, or use GaussianDataset"
            )
        geometries = [(file.size, file.header.antialias, file.header.background) for file in files]
        numbers = {geometry: number for number, geometry in enumerate(dict.fromkeys(geometries))}
        part_of_file = np.array([numbers[geometry] for geometry in geometries])
        self._part = part_of_file[file_of]  # of each image
        self._row = np.zeros(len(chosen), np.int64)  # of each image within its part
        self._render: list[_Renderer] = []
        for number in numbers.values():
            places = np.flatnonzero(self._part == number)
            self._row[places] = np.arange(len(places))
            members = np.flatnonzero(part_of_file == number).tolist()
            self._render.append(self._renderer(_codes_of(files, members, file_of[places], local[places])))

    def render(self, chosen: NDArray[np.int64], on_device: torch.Tensor) -> torch.Tensor:
        """(len(chosen), C, H, W) of the images at these places of the set, given on the host and on the device."""
        if len(self._render) == 1:
            return self._render[0](on_device if self._kernels else chosen)
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
    if form.clamp and form.dtype != torch.uint8:
        plain = Output(channels_last=last)
        return lambda rows: form.finish(resident.render(form.size, rows, plain))
    written_so = Output(form.dtype, last, form.mean, form.std)
    return lambda rows: resident.render(form.size, rows, written_so)


def _on_cpu(codes: Codes, form: BatchFormat) -> _Renderer:
    gaussians, dtype = codes.dequantize(), _rendered(form)
    return lambda rows: form.finish_on_cpu(render(gaussians, form.size, rows, dtype=dtype))


def _by_torch(codes: Codes, device: torch.device, form: BatchFormat) -> _Renderer:
    gaussians, dtype = codes.dequantize().torch(device), _rendered(form)
    return lambda rows: form.finish(render(gaussians, form.size, rows, dtype=dtype))


def _rendered(form: BatchFormat) -> str:
    return "uint8" if form.dtype == torch.uint8 else "float32"


def _codes_of(
    files: Sequence[GsdFile], members: list[int], file_of: NDArray[np.int64], local: NDArray[np.int64]
) -> Codes:
    """The codes of the images ``local`` of the files ``file_of``, in this order, decoded file by file."""
    parts = []
    for number in members:
        wanted = local[file_of == number]
        whole = np.array_equal(wanted, np.arange(files[number].images))
        parts.append(files[number].codes(None if whole else wanted))
    codes = parts[0] if len(parts) == 1 else concatenate(parts)
    decoded = np.argsort(file_of, kind="stable")  # the order in which they come now
    in_order = np.array_equal(decoded, np.arange(len(decoded)))
    return codes if in_order else codes.select(np.argsort(decoded))
