"""PSNR and SSIM against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from gsdata_tools import metrics


def _images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_psnr_of_a_known_error():
    black = np.zeros((2, 4, 5, 3), np.uint8)
    other = black.copy()
    other[0] += 1
    other[1, 0, 0, 0] = 60
    expected = [20 * np.log10(255), 10 * np.log10(255**2 / (3600 / 60))]
    assert metrics.psnr(other, black) == pytest.approx(expected)


def test_psnr_of_equal_images_is_finite():
    images = _images((3, 6, 6, 1))
    assert metrics.psnr(images, images).tolist() == [metrics.MOST_PSNR] * 3


def test_psnr_is_symmetric_where_uint8_would_wrap():
    dark, bright = np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255, np.uint8)
    assert metrics.psnr(dark, bright) == metrics.psnr(bright, dark) == 0.0


def _ssim_by_definition(x, y):
    """One channel, a loop over the windows."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    x, y = x.astype(float), y.astype(float)
    values = []
    for i in range(5, x.shape[0] - 5):
        for j in range(5, x.shape[1] - 5):
            a, b = (image[i - 5 : i + 6, j - 5 : j + 6] for image in (x, y))
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_by_definition(channels):
    x = _images((2, 16, 13, channels))
    y = np.clip(x.astype(int) + np.random.default_rng(1).integers(-40, 41, x.shape), 0, 255).astype(np.uint8)
    expected = [
        np.mean([_ssim_by_definition(a[..., c], b[..., c]) for c in range(channels)]) for a, b in zip(x, y, strict=True)
    ]
    assert metrics.ssim(x, y) == pytest.approx(expected, abs=1e-9)


def test_ssim_bounds():
    x = _images((2, 20, 20, 3))
    assert metrics.ssim(x, x) == pytest.approx(1.0)
    assert (metrics.ssim(x, 255 - x) < 0).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 30), (10, 11)])
def test_ssim_of_images_smaller_than_the_window(size):
    x = _images((1, *size, 2))
    assert metrics.ssim(x, x) == pytest.approx(1.0)
    flat = np.full_like(x, 100)
    # Constant images: mirrored windows have the same moments everywhere, and no structure.
    c1 = (0.01 * 255) ** 2
    assert metrics.ssim(flat, flat + 50) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1))


def test_batches_change_nothing(monkeypatch):
    x, y = _images((7, 12, 12, 3)), _images((7, 12, 12, 3), 1)
    whole = metrics.ssim(x, y)
    monkeypatch.setattr(metrics, "_BATCH_VALUES", 2 * x[0].size)
    assert np.array_equal(whole, metrics.ssim(x, y))


def test_shapes_and_types_must_agree():
    x = _images((2, 4, 4, 1))
    for bad in (x[:1], x.astype(np.float32)):
        with pytest.raises(ValueError, match="uint8 of one shape"):
            metrics.psnr(bad, x)
