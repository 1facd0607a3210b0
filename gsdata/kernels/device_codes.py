"""``DeviceCodes``: a whole set on a CUDA device as the integers that its file stores, rendered without dequantising it.

A float32 Gaussian of three channels takes 32 bytes, its codes take 8 where every quantiser has at most 8 bits. The
kernel looks each code up in its quantiser's table, so images have the same bits as those of ``Codes.dequantize()``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsdata.gaussians import Antialias
from gsdata.kernels.arguments import Indices, Size
from gsdata.kernels.cuda import Output, Tensors, forward, job_of, upload
from gsdata.quantize import Codes

_ATTRIBUTES = ("means", "cholesky", "colors")


@dataclass(frozen=True, eq=False)
class DeviceCodes:
    """A batch of quantised Gaussians on a CUDA device; make one with ``from_codes``.

    Attributes:
        counts: (B,) int64 on the host, Gaussians of each image.
        size: reference size (H0, W0) in pixels.
        channels: C.
        antialias, background: as in ``Gaussians``.
        tensors: what the kernel reads, on the device: codes (uint8 or uint16), tables, offsets.
    """

    counts: NDArray[np.int64]
    size: tuple[int, int]
    channels: int
    antialias: Antialias
    background: tuple[float, ...]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def from_codes(cls, codes: Codes, device: str | torch.device = "cuda") -> DeviceCodes:
        """Upload codes: absolute values, one byte each where every quantiser of an attribute has at most 8 bits.

        Raises:
            ValueError: a code is beyond its quantiser's table.
        """
        quantizers = [(each.means, each.scales, each.shear, each.colors) for each in codes.quantizers]
        tables = [quantizer.table for each in quantizers for quantizer in each]
        lengths = np.array([len(table) for table in tables], np.int64).reshape(-1, 4)
        set_of_row = np.repeat(np.asarray(codes.quantizer_index), codes.counts)
        host: dict[str, NDArray[Any]] = {
            "tables": np.concatenate(tables),
            "table_starts": (np.cumsum(lengths) - lengths.ravel()).reshape(-1, 4),
            "sets": np.asarray(codes.quantizer_index, np.int32),
            "offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(codes.counts)]),
        }
        # Which of the four quantisers each column of an attribute uses.
        for name, columns in (("means", [0, 0]), ("cholesky", [1, 2, 1]), ("colors", [3] * codes.channels)):
            values: NDArray[Any] = getattr(codes, name)
            if (values >= lengths[set_of_row][:, columns]).any():
                raise ValueError(f"a code of {name} is beyond its quantiser's table")
            narrow = lengths[:, columns].max() <= 256
            host[name] = np.ascontiguousarray(values, np.uint8 if narrow else np.uint16)
        where = torch.device(device)
        if where.type == "cuda" and where.index is None:
            where = torch.device("cuda", torch.cuda.current_device())
        tensors = {name: upload(values, where, wait=True) for name, values in host.items()}
        return cls(codes.counts, codes.size, codes.channels, codes.antialias, codes.background, tensors)

    @property
    def num_images(self) -> int:
        """B, the number of images."""
        return len(self.counts)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def render(
        self, size: Size = None, indices: Indices | torch.Tensor = None, output: Output | None = None
    ) -> torch.Tensor:
        """Render images, in one launch; arguments, result and errors are those of ``cuda.render``; no gradients."""
        tensors: Tensors = dict(self.tensors)
        offsets = self.tensors["offsets"]
        job = job_of(self, offsets, size, indices, output or Output())
        return forward(job, tensors, **{f"{name}_bytes": self.tensors[name].itemsize for name in _ATTRIBUTES})
