"""What a distillation starts from: fitted real images, a solid colour, or noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

import gsdata
from gsdata.budget import Bits
from gsdata.gaussians import Gaussians
from gsdata.quantize import Quantizer, QuantizerSet
from gsdata_tools.draws import rng
from gsdata_tools.learnable import LearnableSet, RowAdam

if TYPE_CHECKING:
    from gsdata_tools.blocks import Progress, Store

Choice: TypeAlias = Literal["typical", "kmeans", "random"]
EASIEST, HARDEST = 0.1, 0.5
"""``typical`` draws from the images between these quantiles of each class, in falling order of confidence."""
CANDIDATES = 6
"""``typical`` looks at so many random images for each that it takes: asking networks about all would take minutes."""


def choose_real(
    labels: NDArray[np.int64],
    per_class: int,
    choice: Choice,
    seed: int,
    *,
    images: NDArray[np.uint8],
    confidence: Callable[[NDArray[np.int64]], NDArray[np.float64]] | None = None,
) -> NDArray[np.int64]:
    """Indices of ``per_class`` real images of every class, class after class.

    Args:
        labels: (N,) classes of the real images, 0 to K - 1, each with at least ``per_class`` images.
        per_class: how many of each.
        choice: ``random``; ``kmeans``: of ``per_class`` clusters of the class's images at a quarter of their size, the
            image nearest to each centre; ``typical``: random among the images that networks trained on the real data
            find neither trivial nor hard.
        seed: of every draw.
        images: (N, H, W, C), for ``kmeans``.
        confidence: from indices to the probability of the own class, for ``typical``.

    Raises:
        ValueError: ``typical`` without ``confidence``.
    """
    chosen = []
    for label in range(int(labels.max()) + 1):
        draws = rng(seed, "init-choice", label)
        members = draws.permutation(np.flatnonzero(labels == label))
        if choice == "kmeans" and per_class < len(members):
            members = members[_nearest_to_centers(images[members], per_class, int(draws.integers(2**31)))]
        elif choice == "typical":
            if confidence is None:
                raise ValueError("choice 'typical' needs the confidence of trained networks")
            members = members[: CANDIDATES * per_class]
            order = members[np.argsort(-confidence(members), kind="stable")]
            count = max(per_class, round(len(order) * (HARDEST - EASIEST)))
            first = min(round(len(order) * EASIEST), len(order) - count)
            members = draws.permutation(order[first : first + count])
        chosen.append(np.sort(members[:per_class]))
    return np.concatenate(chosen)


def _nearest_to_centers(images: NDArray[np.uint8], clusters: int, seed: int) -> NDArray[np.int64]:
    """The image nearest to each k-means centre; a centre whose nearest is taken gets the next free one."""
    from sklearn.cluster import MiniBatchKMeans

    step = max(1, min(images.shape[1:3]) // 8)
    height, width = (side // step * step for side in images.shape[1:3])
    small = images[:, :height, :width].reshape(len(images), height // step, step, width // step, step, -1)
    features = small.mean(axis=(2, 4)).reshape(len(images), -1) / 255.0
    model = MiniBatchKMeans(clusters, random_state=seed, n_init=1, batch_size=1024).fit(features)
    distances = model.transform(features)
    free = np.ones(len(images), bool)
    picked = []
    for cluster in range(clusters):
        order = np.argsort(distances[:, cluster], kind="stable")
        nearest = order[free[order]][0]
        free[nearest] = False
        picked.append(nearest)
    return np.array(picked, np.int64)


def noise_set(
    counts: NDArray[np.int64], size: tuple[int, int], channels: int, bits: tuple[int, int, int, int], seed: int
) -> tuple[Gaussians, QuantizerSet]:
    """Random Gaussians as the reference method starts from (GSDD, arXiv:2509.26219), and quantisers that leave room.

    Positions are uniform over the image, l11 and l22 uniform in 0.5 to 1.5 pixels, l21 and colours uniform in [0, 1].
    """
    parts = []
    for image, count in enumerate(counts.tolist()):
        draws = rng(seed, "init-random", image)
        parts.append(draws.random((count, 5 + channels)))
    u = np.concatenate(parts).astype(np.float32)
    cholesky = np.stack([0.5 + u[:, 2], u[:, 3], 0.5 + u[:, 4]], axis=1)
    gaussians = Gaussians(2 * u[:, :2] - 1, cholesky, u[:, 5:], counts, size)
    means_bits, scales_bits, shear_bits, colors_bits = bits
    largest = math.log2(max(size) / 2)
    quantizers = QuantizerSet(
        means=Quantizer("uniform", -1.0, 1.0, means_bits),
        scales=Quantizer("log2", -1.5, max(largest, 0.0), scales_bits),
        shear=Quantizer("uniform", -max(size) / 6, max(size) / 6, shear_bits),
        colors=Quantizer("uniform", -1.0, 1.5, colors_bits),
    )
    return gaussians, quantizers


def solid_warmup(parameters: LearnableSet, adam: RowAdam, steps: int, batch: int = 256) -> None:
    """Fit every image to mid-grey: random Gaussians then cover the image, and gradients reach every pixel (GSDD)."""
    for first in range(0, len(parameters.counts), batch):
        indices = np.arange(first, min(first + batch, len(parameters.counts)), dtype=np.int64)
        rows = parameters.rows(indices)
        for _ in range(steps):
            leaves = parameters.leaves(rows)
            rendered = gsdata.render(parameters.stored(leaves, parameters.counts[indices]))
            (rendered - 0.5).square().sum().backward()
            adam.step(parameters, rows, leaves)
            parameters.clamp(rows)


def real_set(
    images: NDArray[np.uint8],
    counts: NDArray[np.int64],
    bits: tuple[int, int, int, int],
    steps: int,
    seed: int,
    device: torch.device,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> LearnableSet:
    """Real images (B, H, W, C) fitted by ``counts`` Gaussians at the bit widths of the file."""
    from gsdata_tools.fit import fit_images

    fitted = fit_images(images, counts, steps=steps, seed=seed, bits=Bits(*bits), store=store, progress=progress)
    return LearnableSet.from_codes(fitted.codes, device)
