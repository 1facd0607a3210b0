"""Small files of made-up images for tests that need a ``.gsd`` and no real data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import gsdata
from gsdata.gaussians import Gaussians
from gsdata.quantize import Codes, fit_quantizers, quantize
from gsdata.testing import draw_values


def codes(
    counts: Sequence[int] = (5, 0, 9, 3), channels: int = 3, size: tuple[int, int] = (12, 10), seed: int = 0
) -> Codes:
    """Quantised images with these numbers of Gaussians."""
    drawn = draw_values(np.random.default_rng(seed), "fitted", sum(counts), channels, size)
    means, cholesky, colors = (values.astype(np.float32) for values in drawn)
    gaussians = Gaussians(means, cholesky, colors, np.array(counts), size)
    return quantize(gaussians, fit_quantizers(gaussians))


def gsd(
    counts: Sequence[int] = (5, 0, 9, 3), *, channels: int = 3, size: tuple[int, int] = (12, 10), **options: Any
) -> bytes:
    """The bytes of a file with these images; ``options`` are those of ``gsdata.to_bytes``."""
    return gsdata.to_bytes(codes(counts, channels, size), **options)
