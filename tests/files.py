"""Whether two batches of codes hold the same Gaussians."""

from __future__ import annotations

import numpy as np

from gsdata.quantize import Codes


def sorted_rows(codes: Codes) -> list[list[tuple[int, ...]]]:
    """The Gaussians of every image as sorted tuples: equal for equal pictures, whatever their order."""
    rows = np.concatenate([codes.means, codes.cholesky, codes.colors], axis=1).tolist()
    ends = np.cumsum(codes.counts).tolist()
    return [sorted(map(tuple, rows[e - n : e])) for e, n in zip(ends, codes.counts.tolist(), strict=True)]


def same_content(a: Codes, b: Codes) -> bool:
    """Whether two batches hold the same Gaussians with the same quantisers, image by image."""
    return (
        sorted_rows(a) == sorted_rows(b)
        and [a.quantizers[i] for i in a.quantizer_index] == [b.quantizers[i] for i in b.quantizer_index]
        and (a.size, a.antialias, a.background, a.kernel) == (b.size, b.antialias, b.background, b.kernel)
    )
