"""How many Gaussians fit into a byte budget: estimate, fit fewer and more, and keep of each image what the file can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata.budget import Bits, coded_bits, plan
from gsdata.errors import BudgetError
from gsdata.quantize import Codes, Quantizer, QuantizerSet
from gsdata.streams import MAX_COUNT
from gsdata_tools.density import Candidates, candidate_factors
from gsdata_tools.search import FitResult

LEAST_USE = 0.98
_SAMPLE = 32
_SURPLUS = 1.06  # a single try is fitted beyond the estimate, and then the least useful are taken out
_PLAUSIBLE = 0.15  # more than that from the plan, images are of another kind, and their sample counts
_ROUNDS = 4

Counts = NDArray[np.int64]


def spread_counts(total: int, images: int) -> Counts:
    """``total`` Gaussians over ``images`` images, as evenly as whole numbers allow; the larger counts are spread too."""
    ends: Counts = np.arange(images + 1, dtype=np.int64) * min(total, images * MAX_COUNT) // images
    return np.diff(ends)


def placeholder(counts: Counts, size: tuple[int, int], channels: int, bits: Bits) -> Codes:
    """Codes of the cheapest possible content: every number zero."""
    total = int(counts.sum())
    quantizers = QuantizerSet(
        means=Quantizer("uniform", -1.0, 1.0, bits.means),
        scales=Quantizer("log2", -1.0, 4.0, bits.scales),
        shear=Quantizer("uniform", -1.0, 1.0, bits.shear),
        colors=Quantizer("uniform", -1.0, 1.0, bits.colors),
    )
    zeros = [np.zeros((total, width), np.uint16) for width in (2, 3, channels)]
    return Codes(zeros[0], zeros[1], zeros[2], counts, size, (quantizers,))


def fit_to_budget(
    images: NDArray[np.uint8],
    budget: int,
    bits: Bits,
    *,
    tries: int,
    measure: Callable[[Codes], int],
    measure_sample: Callable[[Codes, Any], int],
    sample_fit: Callable[[Any, Counts], FitResult],
    fit: Callable[[Sequence[Counts], str], Candidates],
    improve: Callable[[Codes], tuple[Codes, NDArray[np.float32]]],
) -> Codes:
    """Codes of a file of 98 to 100 % of ``budget`` bytes, the Gaussians where they raise the mean PSNR most.

    Args:
        images: (B, H, W, C) uint8.
        budget: bytes of the whole file.
        bits: widths of the codes.
        tries: fits of every image, to choose from.
        measure: size in bytes of the file with these codes.
        measure_sample: the same for the images at given indices.
        sample_fit: a quick fit of the images at given indices with given counts.
        fit: fits of all images, one for each array of counts, their blocks saved under a prefix.
        improve: better codes, and what each Gaussian is worth (``FitResult.losses``), after some were taken out.

    Raises:
        BudgetError: not even one Gaussian per image fits; raised before the first fit.
    """
    number = len(images)
    size, channels = (int(images.shape[1]), int(images.shape[2])), int(images.shape[3])
    empty = measure(placeholder(np.zeros(number, np.int64), size, channels, bits))
    try:
        planned = plan(budget, 1, images_per_class=number, size=size, channels=channels, bits=bits, fixed_bytes=empty)
    except BudgetError:
        least = math.ceil((empty + number * coded_bits(bits, size, 1, channels) / 8) / number)
        raise BudgetError(
            f"--bytes-per-image: {budget:,} bytes for {number:,} images do not hold one Gaussian each and the file's header; "
            f"ask for {least} or more, or for more images"
        ) from None
    chosen = np.unique(np.linspace(0, number - 1, min(_SAMPLE, number)).round().astype(np.int64))
    counts = spread_counts(planned.gaussians, number)[chosen]
    tried = sample_fit(chosen, counts)
    without = measure_sample(placeholder(np.zeros(len(chosen), np.int64), size, channels, bits), chosen)
    spent = 8 * (measure_sample(tried.codes, chosen) - without) / max(1, int(counts.sum()))
    total = 8 * (budget - empty) / spent
    if abs(total / planned.gaussians - 1) < _PLAUSIBLE:  # a quick fit of a few images says less than the measured plan
        total = planned.gaussians
    factors = candidate_factors(tries) if tries > 1 else [_SURPLUS]
    for attempt in range(_ROUNDS):
        plans = [spread_counts(max(number, round(total * factor)), number) for factor in factors]
        candidates = fit(plans, f"round{attempt}-")
        choice, weight, next_choice = candidates.best_within(budget, measure)
        codes, losses = candidates.pick(choice)
        if LEAST_USE * budget <= weight <= budget or int(plans[-1].sum()) == number * MAX_COUNT:
            return codes
        heavier = weight > budget
        if not heavier and next_choice is not None:  # few images: the next choice is a large step, so go back from it
            codes, losses = candidates.pick(next_choice)
            weight, heavier = measure(codes), True
        if heavier and (tries == 1 or next_choice is not None or attempt == _ROUNDS - 1 or int(plans[0].max()) <= 1):
            return _prune(codes, losses, weight, budget, empty, measure, improve)
        total = int(codes.counts.sum()) * (budget - empty) / max(1, weight - empty)
    return codes


def _prune(
    codes: Codes,
    losses: NDArray[np.float32],
    weight: int,
    budget: int,
    empty: int,
    measure: Callable[[Codes], int],
    improve: Callable[[Codes], tuple[Codes, NDArray[np.float32]]],
) -> Codes:
    while weight > budget:
        number = codes.num_gaussians
        excess = math.ceil(number * (weight - budget) / max(1, weight - empty))
        codes = without_least(codes, losses, min(number, max(1, excess)))
        codes, losses = improve(codes)
        weight = measure(codes)
        if codes.num_gaussians == 0 and weight > budget:
            raise BudgetError(
                f"--bytes-per-image: the file weighs {weight:,} bytes without any Gaussian, above {budget:,}"
            )
    return codes


def without_least(codes: Codes, losses: NDArray[np.float32], number: int) -> Codes:
    """``codes`` without the ``number`` Gaussians that their images miss least; the last of an image goes last."""
    image = np.repeat(np.arange(codes.num_images), codes.counts)
    order = np.lexsort((losses, image))
    last = np.zeros(len(losses), bool)
    ends = np.cumsum(codes.counts)[codes.counts > 0] - 1
    last[order[ends]] = True
    keep = np.ones(len(losses), bool)
    keep[np.lexsort((losses, last))[:number]] = False
    counts = np.bincount(image[keep], minlength=codes.num_images).astype(np.int64)
    return replace(
        codes, means=codes.means[keep], cholesky=codes.cholesky[keep], colors=codes.colors[keep], counts=counts
    )
