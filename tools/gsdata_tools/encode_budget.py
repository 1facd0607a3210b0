"""How many Gaussians fit into a byte budget: estimate, fit fewer and more, and keep of each image what the file can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata.budget import Bits, plan
from gsdata.errors import BudgetError
from gsdata.quantize import Codes, Quantizer, QuantizerSet
from gsdata.streams import MAX_COUNT
from gsdata_tools.density import Candidates, Counts, candidate_factors, spread_counts
from gsdata_tools.draws import rng
from gsdata_tools.search import FitResult
from gsdata_tools.usage import note

LEAST_USE = 0.98
_SAMPLE = 32
_SURPLUS = 1.06  # a single try is fitted beyond the estimate, and then the least useful are taken out
_PLAUSIBLE = 0.15  # more than that from the plan, images are of another kind, and their sample counts
_ROUNDS = 4


def placeholder(counts: Counts, size: tuple[int, int], channels: int, bits: Bits) -> Codes:
    """Codes of content that no coder makes smaller: random ones, within bounds of many digits."""
    total = int(counts.sum())
    quantizers = QuantizerSet(
        means=Quantizer("uniform", -0.9873218, 0.9764531, bits.means),
        scales=Quantizer("log2", -1.0348712, 4.1236547, bits.scales),
        shear=Quantizer("uniform", -1.2736548, 1.1983746, bits.shear),
        colors=Quantizer("uniform", -1.0237465, 1.0871234, bits.colors),
    )
    draws = rng(0, "budget-placeholder")
    means, cholesky, colors = (
        draws.integers(0, [2**width for width in widths], (total, len(widths)), np.uint16)
        for widths in (
            [bits.means] * 2,
            [bits.scales, bits.shear, bits.scales],
            [bits.colors] * channels,
        )
    )
    return Codes(means, cholesky, colors, counts, size, (quantizers,))


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

    Images get at most a Gaussian per pixel; a budget that is larger than that is not used up, and a note says so.
    """
    number = len(images)
    size, channels = (int(images.shape[1]), int(images.shape[2])), int(images.shape[3])
    empty, least = (measure(placeholder(np.full(number, each, np.int64), size, channels, bits)) for each in (0, 1))
    if budget < least:
        raise BudgetError(
            f"--bytes-per-image: {budget:,} bytes for {number:,} images do not hold one Gaussian each and the file's header; "
            f"ask for {math.ceil(least / number)} or more, or for more images"
        )
    try:
        planned = plan(
            budget, 1, images_per_class=number, size=size, channels=channels, bits=bits, fixed_bytes=empty
        ).gaussians
    except BudgetError:
        planned = number
    most = min(MAX_COUNT, size[0] * size[1])
    chosen = np.unique(np.linspace(0, number - 1, min(_SAMPLE, number)).round().astype(np.int64))
    planned = min(planned, number * most)
    counts = spread_counts(planned, number)[chosen]
    tried = sample_fit(chosen, counts)
    without = measure_sample(placeholder(np.zeros(len(chosen), np.int64), size, channels, bits), chosen)
    spent = 8 * (measure_sample(tried.codes, chosen) - without) / max(1, int(counts.sum()))
    total = 8 * (budget - empty) / spent
    if abs(total / planned - 1) < _PLAUSIBLE:  # a quick fit of a few images says less than the measured plan
        total = planned
    factors = candidate_factors(tries) if tries > 1 else [_SURPLUS]
    for attempt in range(_ROUNDS):
        plans = [spread_counts(min(number * most, max(number, round(total * factor))), number) for factor in factors]
        candidates = fit(plans, f"round{attempt}-")
        choice, weight, next_choice = candidates.best_within(budget, measure)
        codes, losses = candidates.pick(choice)
        if LEAST_USE * budget <= weight <= budget:
            return codes
        if weight < budget and int(plans[0].sum()) == number * most:
            limit = "a file holds" if most == MAX_COUNT else "its pixels can tell apart"
            note(
                f"--bytes-per-image: {weight:,} of {budget:,} bytes used, with {most:,} Gaussians for an image, the most that {limit}"
            )
            return codes
        heavier = weight > budget
        if not heavier and next_choice is not None:  # few images: the next choice is a large step, so go back from it
            codes, losses = candidates.pick(next_choice)
            weight, heavier = measure(codes), True
        if heavier and (tries == 1 or next_choice is not None or attempt == _ROUNDS - 1 or int(plans[0].max()) <= 1):
            return _prune(codes, losses, weight, budget, empty, measure, improve)
        total = int(codes.counts.sum()) * (budget - empty) / max(1, weight - empty)
    note(f"--bytes-per-image: {weight:,} of {budget:,} bytes used; --gaussians {int(total / number)} comes nearer")
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
        if codes.num_gaussians < codes.num_images and weight > budget:
            raise BudgetError(
                f"--bytes-per-image: {budget:,} bytes do not hold one Gaussian for each of {codes.num_images:,} images; ask for more"
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
