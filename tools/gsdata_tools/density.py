"""Adaptive density: Gaussians go to the images, and to the fits, that make the most of them.

A fit ends in one of many optima, and what one more Gaussian is worth to an image cannot be told before it was tried: the
difference between fits of 38 and of 46 Gaussians varies more by chance than by image. So every image is fitted several times with
different numbers of Gaussians, and one budget for the whole set decides which fit of each is kept. What chance gave is
kept with it: at equal bytes and equal work that is better than fits of one number (benchmarks/results/adaptive_density.json).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata.quantize import Codes
from gsdata_tools.fit import FitResult, fit_images

Counts = NDArray[np.int64]
SPREAD = 0.2  # of the mean number of Gaussians: how far the candidates' numbers lie from it
_TRY_KEY = 1 << 40  # apart from any image's own key


def candidate_factors(tries: int) -> list[float]:
    """Numbers of Gaussians of the candidates, as shares of the mean; a single try has no choice."""
    return [1.0] if tries == 1 else np.linspace(1 - SPREAD, 1 + SPREAD, tries).tolist()


class Candidates:
    """Several fits of each of B images, with one quantiser set, and the choice among them.

    Attributes:
        quality: (K, B) float64, PSNR in dB of each fit of each image.
        counts: (K, B) int64, their Gaussians.
    """

    def __init__(self, images: NDArray[np.uint8], counts: Sequence[Counts], **options: Any) -> None:
        """Fit ``images`` once for every (B,) element of ``counts``; ``options`` are those of ``fit_images``."""
        tries, number = len(counts), len(images)
        keys = np.arange(number) + _TRY_KEY * np.arange(tries)[:, None]
        # One call, so that all fits share quantisers and the estimate of the rate.
        repeated = images if tries == 1 else np.concatenate([images] * tries)
        self._result: FitResult = fit_images(repeated, np.concatenate(counts), image_keys=keys.ravel(), **options)
        errors = self._result.squared_errors.reshape(tries, number) / max(1, images[:1].size)
        self.quality: NDArray[np.float64] = -10 * np.log10(np.maximum(errors, 1e-10))
        self.counts: Counts = np.stack(counts)

    def pick(self, chosen: NDArray[np.int64]) -> tuple[Codes, NDArray[np.float32]]:
        """Codes, and ``FitResult.losses``, of fit ``chosen[i]`` of every image i."""
        rows = chosen * self.counts.shape[1] + np.arange(self.counts.shape[1])
        ends = np.cumsum(self.counts.ravel())
        losses = [self._result.losses[ends[row] - self.counts.flat[row] : ends[row]] for row in rows]
        return self._result.codes.select(rows), np.concatenate(losses)

    def best(self) -> NDArray[np.int64]:
        """(B,) the best fit of every image, whatever it weighs."""
        chosen: NDArray[np.int64] = self.quality.argmax(axis=0)
        return chosen

    def path(self) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
        """From the cheapest choice to the best one, the most useful step first.

        Returns:
            (B,) the fit of each image with the fewest Gaussians, and steps (image, fit) in descending order of dB per
            Gaussian: the first n of them, applied in order, are the best choice for the Gaussians that it has.
        """
        start: NDArray[np.int64] = np.lexsort((-self.quality, self.counts), axis=0)[0]
        steps: list[tuple[float, int, int]] = []
        for image in range(self.counts.shape[1]):
            here = int(start[image])
            while True:
                more = self.counts[:, image] - self.counts[here, image]
                gain = self.quality[:, image] - self.quality[here, image]
                slope = np.where((more > 0) & (gain > 0), gain / np.maximum(more, 1), 0.0)
                here = int(slope.argmax())
                if slope[here] <= 0:
                    break
                steps.append((-float(slope[here]), image, here))
        return start, [(image, fit) for _, image, fit in sorted(steps)]

    def best_within(
        self, budget: int, measure: Callable[[Codes], int]
    ) -> tuple[NDArray[np.int64], int, NDArray[np.int64] | None]:
        """The choice of the highest mean PSNR whose file weighs at most ``budget`` bytes by ``measure``.

        Returns:
            The (B,) choice, its weight, and the next better choice, which is too heavy (None where there is none). Where
            even the cheapest choice is too heavy: that one, its weight, None.
        """
        start, steps = self.path()

        def after(number: int) -> NDArray[np.int64]:
            chosen = start.copy()
            for image, fit in steps[:number]:
                chosen[image] = fit
            return chosen

        weight = measure(self.pick(start)[0])
        if weight > budget:
            return start, weight, None
        low, high, guess = 0, len(steps), len(steps)
        while low < high and weight < 0.999 * budget:
            tried = measure(self.pick(after(guess))[0])
            # Weights are nearly linear in the steps: aim just below the budget, and bisect when that does not help.
            if tried <= budget:
                weight, low = tried, guess
                guess = (low + high + 1) // 2
            else:
                high = guess - 1
                aimed = low + int((guess - low) * (budget - weight) / max(1, tried - weight))
                guess = min(high, max(low + 1, aimed))
        return after(low), weight, after(low + 1) if low < len(steps) else None
