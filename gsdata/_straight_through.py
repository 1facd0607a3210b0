"""The quantiser inside a training loop; apart from ``quantize.py`` so that reading files never imports torch."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray


class Levels(Protocol):
    """What is needed of a ``quantize.Quantizer``, which imports this module; equal ones must have equal hashes."""

    @property
    def table(self) -> NDArray[np.float32]: ...

    @property
    def thresholds(self) -> NDArray[np.float32]: ...

    def __hash__(self) -> int: ...


@lru_cache(maxsize=64)
def _tables(quantizer: Levels, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(quantizer.table).to(device), torch.from_numpy(quantizer.thresholds).to(device)


class _StraightThrough(torch.autograd.Function):
    """Forward: look the code up and its value. Backward: identity inside the range (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, quantizer: Levels) -> torch.Tensor:
        table, thresholds = _tables(quantizer, values.device)
        ctx.save_for_backward(values)
        ctx.ends = float(quantizer.table[0]), float(quantizer.table[-1])
        codes = torch.bucketize(values.to(torch.float32).contiguous(), thresholds, right=True)
        return table[codes].to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (values,), (gradient,) = ctx.saved_tensors, gradients
        low, high = ctx.ends
        # Descent moves against the gradient: below the range only a negative one leads back, above it only a positive.
        leads_away = ((values < low) & (gradient > 0)) | ((values > high) & (gradient < 0))
        return gradient.masked_fill(leads_away, 0.0), None


def straight_through(values: torch.Tensor, quantizer: Levels) -> torch.Tensor:
    """``Quantizer.fake_quantize``: the quantised values, gradients as if nothing had happened."""
    result: torch.Tensor = _StraightThrough.apply(values, quantizer)  # type: ignore[no-untyped-call]
    return result
