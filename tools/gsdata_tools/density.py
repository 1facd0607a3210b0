"""Adaptive density: Gaussians go to the images, and to the fits, that make the most of them.

A fit ends in one of many optima, so every image is fitted several times, and one budget for the whole set decides which fit of
each is kept. The first fits have equal numbers of Gaussians. They show which images still use all of theirs: the later fits
have more of them there and fewer elsewhere. At equal bytes that is 0.12 to 0.16 dB better than one fit of one number; of
which most is chance made use of, for the best of two fits of one number is as good within 0.05 dB. Gaussians that move during
a fit are worth ten times as much (benchmarks/results/adaptive_density.json, ``density_kernels``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsdata.gaussians import Gaussians
from gsdata.quantize import Codes
from gsdata.streams import MAX_COUNT
from gsdata_tools.blocks import Progress
from gsdata_tools.fit import fit_gaussians
from gsdata_tools.search import FitResult, choose_codes

Counts = NDArray[np.int64]
SPREAD = 0.05  # of the mean number of Gaussians: how far the candidates' mean numbers lie from it
_LEAST_USEFUL = 0.3  # share of an image's Gaussians that says what more would give
_POWER = 0.4  # of that in the number that an image should have
_TRY_KEY = 1 << 40  # apart from any image's own key


def candidate_factors(tries: int) -> list[float]:
    """Mean numbers of Gaussians of the candidates, as shares of the wanted one; a single try has no choice."""
    return [1.0] if tries == 1 else np.linspace(1 - SPREAD, 1 + SPREAD, tries).tolist()


def needs(fitted: FitResult) -> NDArray[np.float64]:
    """(B,) how many Gaussians images should have for the highest mean PSNR, relative to each other, mean 1.

    If PSNR grows with the logarithm of the number, an image deserves Gaussians in proportion to that slope. What its
    error would grow by without the least useful ones of those that it has stands for the slope.
    """
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(fitted.codes.counts)])
    growth = np.zeros(len(starts) - 1)
    for image, (start, end) in enumerate(itertools.pairwise(starts)):
        own = np.sort(fitted.losses[start:end].astype(np.float64))
        growth[image] = own[: max(1, round(_LEAST_USEFUL * len(own)))].clip(0).sum()
    relative = np.log1p(growth / np.maximum(fitted.squared_errors, 1e-9)) ** _POWER
    mean = float(relative.mean()) if len(relative) else 0.0
    return relative / mean if mean > 0 else np.ones_like(relative)


def spread_counts(total: int, images: int) -> Counts:
    """``total`` Gaussians over ``images`` images, as evenly as whole numbers allow, the larger counts spread too.

    No image gets fewer than one or more than ``MAX_COUNT``, whatever the total is.
    """
    ends: Counts = np.arange(images + 1, dtype=np.int64) * min(max(total, images), images * MAX_COUNT) // images
    return np.diff(ends)


def share_out(total: int, shares: NDArray[np.float64]) -> Counts:
    """About ``total`` Gaussians over images in proportion to ``shares``, at least one and at most ``MAX_COUNT`` each."""
    ends = np.round(np.cumsum(shares) / max(1e-12, shares.sum()) * total).astype(np.int64)
    counts: Counts = np.diff(ends, prepend=0).clip(1, MAX_COUNT)
    return counts


class Candidates:
    """Several fits of each of B images, with one quantiser set, and the choice among them.

    Attributes:
        quality: (K, B) float64, PSNR in dB of each fit of each image.
        counts: (K, B) int64, their Gaussians.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        counts: Sequence[Counts],
        *,
        adapt: bool = False,
        coding: dict[str, Any] | None = None,
        progress: Progress | None = None,
        name: str = "",
        first_key: int = 0,
        **fitting: Any,
    ) -> None:
        """Fit ``images`` once for every (B,) element of ``counts``.

        Args:
            images: (B, H, W, C) uint8.
            counts: Gaussians of each image in each fit.
            adapt: every fit after the first has as many Gaussians in all, but shared out by the images' needs.
            coding: options of ``choose_codes`` that are not for ``fit_gaussians`` too.
            progress: see ``fit.Progress``; counts images of all fits.
            name: see ``fit.fit_images``.
            first_key: what the draws of the first image are keyed by; those of the others by what follows.
            fitting: further options of ``fit_gaussians``.
        """
        number = len(images)
        both = {key: fitting[key] for key in ("store", "threads") if key in fitting}
        fits: list[Gaussians] = []
        for attempt, own in enumerate(counts):
            if adapt and attempt:
                if attempt == 1:
                    rounded = {**(coding or {}), "sweeps": 0, "threads": fitting.get("threads")}
                    shares = needs(choose_codes(images, fits[0], **rounded))
                own = share_out(int(own.sum()), shares)

            def tell(done: int, psnr: float, before: int = attempt * number) -> None:
                if progress:
                    progress(before + done, psnr)

            keys = first_key + np.arange(number) + _TRY_KEY * attempt
            fits.append(
                fit_gaussians(images, own, image_keys=keys, progress=tell, name=f"{name}try{attempt}-", **fitting)
            )
        # One search, so that all fits share quantisers and the estimate of the rate.
        repeated = images if len(fits) == 1 else np.concatenate([images] * len(fits))
        self._result: FitResult = choose_codes(repeated, _unite(fits), name=name, **(coding or {}), **both)
        errors = self._result.squared_errors.reshape(len(fits), number) / max(1, images[:1].size)
        self.quality: NDArray[np.float64] = -10 * np.log10(np.maximum(errors, 1e-10))
        self.counts: Counts = np.stack([fitted.counts for fitted in fits])

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


def _unite(fits: Sequence[Gaussians]) -> Gaussians:
    means, cholesky, colors, counts = (
        np.concatenate([np.asarray(getattr(fitted, name)) for fitted in fits])
        for name in ("means", "cholesky", "colors", "counts")
    )
    return Gaussians(means, cholesky, colors, counts, fits[0].size)
