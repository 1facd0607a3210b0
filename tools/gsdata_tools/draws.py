"""Random draws keyed by (seed, purpose, ...): no draw depends on how many were made before it, or on who made them.

That is what makes a resumed run, a run on more threads and a run with other options for unrelated steps draw the same
numbers.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def rng(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """A fresh NumPy generator for one purpose.

    Args:
        seed: the run's seed, at least 0.
        purpose: what the numbers are for, such as ``"init"``; different purposes are independent.
        key: iteration, class or image numbers, at least 0.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *key]))


def generator(seed: int, purpose: str, *key: int) -> torch.Generator:
    """A fresh torch CPU generator for one purpose; arguments as for ``rng``."""
    import torch

    return torch.Generator().manual_seed(int(rng(seed, purpose, *key).integers(2**63)))
