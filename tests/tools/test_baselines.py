from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from gsdata_tools import baselines
from gsdata_tools.baselines import Pool, draw, encode_jpeg, encode_webp, labels_bytes, largest_fitting
from gsdata_tools.usage import UsageError


def pool(count: int = 240, classes: int = 4, size: int = 16, channels: int = 3) -> Pool:
    rng = np.random.default_rng(count)
    labels = np.arange(count, dtype=np.int64) % classes
    rows, columns = np.mgrid[0:size, 0:size] / size
    waves = np.sin(6.0 * (rows[None] * rng.random((count, 1, 1)) + columns[None] * rng.random((count, 1, 1))))
    images = (waves[..., None] * rng.random((count, 1, 1, channels)) * 100 + 128).astype(np.uint8)
    return Pool.of(images, labels, classes, seed=0)


def test_labels_are_charged_in_whole_bits() -> None:
    assert [labels_bytes(n, 10) for n in (0, 1, 2, 3, 1000)] == [0, 1, 1, 2, 500]
    assert labels_bytes(8, 2) == 1
    assert labels_bytes(8, 1) == 0
    assert labels_bytes(8, 256) == 8
    assert labels_bytes(8, 257) == 9


def test_validation_images_are_never_drawn() -> None:
    p = pool()
    assert not set(p.drawn) & set(p.validation)
    assert len(p.drawn) + len(p.validation) == 240
    assert np.bincount(p.labels[p.validation]).tolist() == [6, 6, 6, 6]
    for name in baselines.NAMES:
        drawn = draw(name, baselines.settings_of(name, (16, 16))[0], p, 1200, 1, "final")
        assert len(drawn.indices) >= 4
        assert set(drawn.indices) <= set(p.drawn)


@pytest.mark.parametrize("name", ["webp", "jpeg"])
def test_the_budget_is_filled_and_every_byte_of_it_accounted_for(name: str) -> None:
    p = pool()
    encode = {"webp": encode_webp, "jpeg": encode_jpeg}[name]
    for budget in (1000, 1777, 3001):
        drawn = draw(name, 30, p, budget, 5, "final")
        n = len(drawn.indices)
        parts = [encode(p.images[i], 30) for i in drawn.indices]
        assert drawn.labels_bytes == labels_bytes(n, 4) == -(-2 * n // 8)
        assert drawn.bytes_total == sum(e.charged for e in parts) + parts[0].shared + drawn.labels_bytes
        following = encode(p.images[p.order(5, "baseline-final")[n]], 30)
        assert drawn.bytes_total <= budget < drawn.bytes_total + following.charged + 1
        counts = np.bincount(p.labels[drawn.indices], minlength=4)
        assert counts.max() - counts.min() <= 1
        assert drawn.data.labels.tolist() == p.labels[drawn.indices].tolist()
        expected = np.stack([e.pixels for e in parts]).transpose(0, 3, 1, 2) / np.float32(255)
        np.testing.assert_allclose(drawn.data.images.numpy(), expected, rtol=1e-6)


def test_what_is_charged_of_a_file_is_what_its_container_does_not_hold() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for quality in (1, 60):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "WEBP", quality=quality, method=6)
        whole = len(stream.getvalue())
        assert whole - encode_webp(pixels, quality).charged in (30, 31)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
        coded = encode_jpeg(pixels, quality)
        assert coded.charged + coded.shared == len(stream.getvalue())
        assert coded.shared == encode_jpeg(pixels[::-1].copy(), quality).shared


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_and_colour_survive_the_codecs(channels: int) -> None:
    pixels = pool(channels=channels).images[3]
    for encode in (encode_webp, encode_jpeg):
        coded = encode(pixels, 90)
        assert coded.pixels.shape == pixels.shape
        error = coded.pixels.astype(float) - pixels
        assert float(np.abs(error).mean()) < 8


def test_random_gsd_is_a_real_file_within_the_budget() -> None:
    import gsdata

    p = pool(80, size=8)
    drawn = draw("random-gsd", 3, p, 1500, 2, "final")
    assert float(drawn.data.images.min()) >= 0
    assert float(drawn.data.images.max()) <= 1
    n = len(drawn.indices)
    assert drawn.bytes_total <= 1500
    assert n >= 4
    assert tuple(drawn.data.images.shape) == (n, 3, 8, 8)
    counts = np.bincount(p.labels[drawn.indices], minlength=4)
    assert counts.max() - counts.min() <= 1
    from gsdata_tools.fit import fit_images

    more = p.order(2, "baseline-final")[: n + 8]
    codes = fit_images(p.images[more], 3, seed=2, image_keys=more).codes
    # Fitted with a few more images the file differs a little, but one that is 8 images larger cannot fit.
    assert len(gsdata.to_bytes(codes, labels=p.labels[more], class_count=4)) > 1500


def test_seeds_and_purposes_draw_other_images_and_repeat_exactly() -> None:
    p = pool()
    first, again = draw("webp", 30, p, 900, 3, "final"), draw("webp", 30, p, 900, 3, "final")
    assert first.indices.tolist() == again.indices.tolist()
    assert first.data.images.equal(again.data.images)
    assert set(first.indices) != set(draw("webp", 30, p, 900, 4, "final").indices)
    assert set(first.indices) != set(draw("webp", 30, p, 900, 3, "search").indices)


def test_at_least_four_qualities_and_three_gaussian_counts_are_tried() -> None:
    for size in ((28, 28), (32, 32), (128, 128)):
        assert len(baselines.settings_of("random-gsd", size)) >= 3
    assert len(baselines.settings_of("webp", (32, 32))) >= 4
    assert len(baselines.settings_of("jpeg", (32, 32))) >= 4


def test_largest_fitting() -> None:
    for budget in range(0, 120, 7):
        expected = max(n for n in range(11) if n == 0 or 10 * n + 3 <= budget)
        assert largest_fitting(lambda n: 10 * n + 3, 10, budget) == expected


def test_bad_requests_are_named() -> None:
    with pytest.raises(UsageError, match="no 'png'"):
        baselines.check_names("webp,png", 3)
    with pytest.raises(UsageError, match="2 channels"):
        baselines.check_names("jpeg", 2)
    assert baselines.check_names("webp, jpeg,webp", 3) == ("webp", "jpeg")
    with pytest.raises(UsageError, match="not one image fits"):
        draw("jpeg", 60, pool(), 100, 0, "final")
    with pytest.raises(UsageError, match="two per class"):
        Pool.of(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5, dtype=np.int64), 5, 0)


def test_a_drawn_set_at_another_size_is_the_same_images() -> None:
    p = pool()
    for name in ("random-gsd", "webp"):
        drawn = draw(name, baselines.settings_of(name, (16, 16))[0], p, 1200, 1, "final")
        assert drawn.at((16, 16)) is drawn.data
        large = drawn.at((32, 32))
        assert large.images.shape == (len(drawn.data), 3, 32, 32)
        assert torch.equal(large.labels, drawn.data.labels)
        back = torch.nn.functional.avg_pool2d(large.images, 2)
        assert float((back - drawn.data.images).abs().mean()) < 0.02
