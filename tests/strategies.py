"""Hypothesis strategies shared by all tests: batches of Gaussians, from fitted-looking to pathological.

Structure (images, counts, channels, size, antialias, kinds) is drawn by hypothesis and shrinks; values come from a
NumPy generator seeded by one drawn integer, which is fast.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from gsdata.gaussians import ANTIALIAS_MODES, Gaussians

KINDS = ("fitted", "needle", "tiny", "huge", "off-image")
"""needle: axis ratio above 1000; tiny: far below a pixel; huge: far above the image; off-image: means up to 3."""


def draw_values(
    rng: np.random.Generator, kind: str, count: int, channels: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """means (count, 2), cholesky (count, 3) and colors (count, channels) of one ``KINDS``, float32."""
    means = rng.uniform(-1.05, 1.05, (count, 2))
    scale = np.exp(rng.normal(np.log(2.0), 0.5, (count, 2)))
    shear = rng.normal(0.0, 1.0, count)
    colors = rng.normal(0.0, 0.5, (count, channels))
    if kind == "needle":
        scale = np.stack([rng.uniform(20, 300, count), rng.uniform(0.004, 0.02, count)], 1)
        shear = rng.choice([0.0, 1.0, 20.0, -300.0], count) * rng.uniform(0.5, 1, count)
        upright = rng.random(count) < 0.3
        scale[upright] = scale[upright, ::-1]
    elif kind == "tiny":
        scale, shear = 10.0 ** rng.uniform(-4, -1, (count, 2)), rng.normal(0, 1e-2, count)
    elif kind == "huge":
        scale, shear = max(size) * 10.0 ** rng.uniform(0, 3, (count, 2)), rng.normal(0, max(size), count)
    elif kind == "off-image":
        means = rng.uniform(-3, 3, (count, 2))
        scale *= 3.0
    cholesky = np.stack([scale[:, 0], shear, scale[:, 1]], 1)
    return means.astype(np.float32), cholesky.astype(np.float32), colors.astype(np.float32)


def make_gaussians(
    seed: int,
    counts: Sequence[int],
    *,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    kinds: Sequence[str] = ("fitted",),
    antialias: str = "box-normalized",
    background: bool = True,
    opacities: bool = False,
) -> Gaussians:
    """A batch of NumPy Gaussians, image b of kind ``kinds[b % len(kinds)]`` ("mixed": all kinds in turn)."""
    rng = np.random.default_rng(seed)
    parts = []
    for image, count in enumerate(counts):
        kind = kinds[image % len(kinds)]
        if kind == "mixed":
            parts.extend(draw_values(rng, KINDS[row % len(KINDS)], 1, channels, size) for row in range(count))
        else:
            parts.append(draw_values(rng, kind, count, channels, size))
    parts.append(draw_values(rng, "fitted", 0, channels, size))
    means, cholesky, colors = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Gaussians(
        means,
        cholesky,
        colors,
        np.array(counts, np.int64),
        size,
        opacities=rng.uniform(0.05, 1.0, (len(means), 1)).astype(np.float32) if opacities else None,
        antialias=antialias,  # type: ignore[arg-type]
        background=tuple(rng.uniform(0, 1, channels)) if background else (),
    )


def sizes(limit: int = 40) -> st.SearchStrategy[tuple[int, int]]:
    """(H, W), odd and non-square ones included."""
    return st.tuples(st.integers(1, limit), st.integers(1, limit))


@st.composite
def gaussians(
    draw: st.DrawFn,
    *,
    max_images: int = 4,
    max_count: int = 12,
    max_size: int = 40,
    kinds: Sequence[str] = (*KINDS, "mixed"),
    opacities: bool | None = None,
) -> Gaussians:
    """Ragged batches (empty images and empty batches too) of 1 to 4 channels, any antialias mode and background."""
    counts = draw(st.lists(st.integers(0, max_count), min_size=0, max_size=max_images))
    return make_gaussians(
        draw(st.integers(0, 2**32 - 1)),
        counts,
        channels=draw(st.integers(1, 4)),
        size=draw(sizes(max_size)),
        kinds=draw(st.lists(st.sampled_from(list(kinds)), min_size=1, max_size=3)),
        antialias=draw(st.sampled_from(ANTIALIAS_MODES)),
        background=draw(st.booleans()),
        opacities=draw(st.booleans()) if opacities is None else opacities,
    )


@st.composite
def indices_of(draw: st.DrawFn, count: int, *, max_length: int = 5) -> list[int]:
    """Image indices of a batch of ``count`` images, with repeats and negative ones."""
    if count == 0:
        return []
    return draw(st.lists(st.integers(-count, count - 1), max_size=max_length))
