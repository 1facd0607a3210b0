"""The tolerances that every backend must meet against ``kernels/reference.py``; the numbers are FORMAT.md's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gsdata.gaussians import Gaussians
from gsdata.kernels import reference

ATTRIBUTES = ("means", "cholesky", "colors")


def value_tolerance(batch: Gaussians, size: tuple[int, int], indices: Sequence[int]) -> np.ndarray:
    """1e-5 (1 + sum |w color|) per value up to 128 px, times size / 128 above."""
    larger = max(1.0, max(size) / 128)
    return 1e-5 * larger * (1.0 + reference.magnitude(batch, size, indices))


def assert_values(found: np.ndarray, batch: Gaussians, size: tuple[int, int], indices: Sequence[int]) -> None:
    """Fail where ``found`` is further from the reference than ``value_tolerance``."""
    expected = reference.render(batch, size, indices)
    assert found.shape == expected.shape
    excess = np.abs(found - expected) / value_tolerance(batch, size, indices)
    assert np.all(excess <= 1.0), f"worst value is {np.nanmax(excess):.3g} times the tolerance"


def assert_gradients(
    found: Mapping[str, np.ndarray],
    batch: Gaussians,
    grad_out: np.ndarray,
    size: tuple[int, int],
    indices: Sequence[int],
    tolerance: float = 1e-4,
) -> None:
    """Fail where a gradient is off by more than ``tolerance`` of the attribute's largest one in that image."""
    expected = reference.render_backward(batch, grad_out, size, indices)
    assert set(found) == set(expected)
    offsets = batch.offsets
    for name, values in found.items():
        assert values.shape == expected[name].shape, name
        for image in range(batch.num_images):
            rows = slice(offsets[image], offsets[image + 1])
            if rows.start == rows.stop:
                continue
            largest = np.abs(expected[name][rows]).max()
            error = np.abs(values[rows] - expected[name][rows]).max()
            # Below the smallest normal float32 there are no digits left to compare.
            assert error <= tolerance * largest + 1e-37, (
                f"{name} of image {image}: error {error:.3g}, largest reference gradient {largest:.3g}"
            )


def cut_off_distance(batch: Gaussians, size: tuple[int, int]) -> float:
    """The least |q - Q_MAX| of any pixel and Gaussian, from the inverse matrix (so not the reference's own way)."""
    from gsdata.kernels.arguments import Q_MAX, VARIANCE

    height, width = size
    variance = VARIANCE[("box-normalized", "box", "none").index(batch.antialias)]
    least = np.inf
    for (x, y), (l11, l21, l22) in zip(batch.means.astype(float), batch.cholesky.astype(float), strict=True):
        a = np.diag([width / batch.size[1], height / batch.size[0]]) @ np.array([[l11, 0.0], [l21, l22]])
        inverse = np.linalg.inv(a @ a.T + variance * np.eye(2))
        dx = np.arange(width) + 0.5 - (x + 1) / 2 * width
        dy = np.arange(height)[:, None] + 0.5 - (y + 1) / 2 * height
        q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
        least = min(least, float(np.abs(q - Q_MAX).min()))
    return least
