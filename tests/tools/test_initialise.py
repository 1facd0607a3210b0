from __future__ import annotations

import numpy as np
import pytest
import torch

import gsdata
from gsdata_tools.initialise import choose_real, noise_set, real_set, solid_warmup
from gsdata_tools.learnable import LearnableSet, RowAdam

LABELS = np.repeat(np.arange(3), 40)
IMAGES = np.random.default_rng(0).integers(0, 256, (120, 16, 16, 3)).astype(np.uint8)
BITS = (8, 6, 7, 7)


@pytest.mark.parametrize("choice", ["random", "kmeans", "typical"])
def test_choices_are_balanced_distinct_and_keyed_by_seed(choice):
    def choose(seed):
        return choose_real(
            LABELS, 7, choice, seed, images=IMAGES, confidence=lambda c: np.random.default_rng(1).random(120)[c]
        )

    chosen = choose(0)
    assert len(set(chosen.tolist())) == 21
    assert LABELS[chosen].tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert np.array_equal(chosen, choose(0))
    assert not np.array_equal(chosen, choose(1))
    assert chosen[:7].tolist() != list(range(7))


def test_typical_takes_neither_the_easiest_nor_the_hardest():
    sure = np.tile(np.arange(40) / 40, 3)
    chosen = choose_real(LABELS, 8, "typical", 0, images=IMAGES, confidence=lambda c: sure[c])
    assert sure[chosen].max() < 0.9
    assert sure[chosen].min() >= 0.5


def test_typical_takes_all_where_all_are_wanted():
    chosen = choose_real(LABELS, 40, "typical", 0, images=IMAGES, confidence=lambda c: np.zeros(len(c)))
    assert chosen.tolist() == list(range(120))


def test_kmeans_takes_one_image_of_each_cluster():
    centers = np.array([0, 60, 120, 180, 240])
    images = np.repeat(centers, 8)[:, None, None, None] + np.random.default_rng(0).integers(0, 6, (40, 16, 16, 1))
    order = np.random.default_rng(1).permutation(40)
    images = images.astype(np.uint8)[order]
    chosen = choose_real(np.zeros(40, np.int64), 5, "kmeans", 0, images=images)
    assert sorted((images[chosen].mean(axis=(1, 2, 3)) // 60).astype(int).tolist()) == [0, 1, 2, 3, 4]


def test_real_images_are_fitted():
    y, x = np.mgrid[:16, :16]
    images = np.stack([(x + y) * 8, 255 - x * 8], axis=0)[..., None].astype(np.uint8)
    parameters = real_set(images, np.array([8, 9]), BITS, 200, 0, torch.device("cpu"))
    assert parameters.counts.tolist() == [8, 9]
    shown = gsdata.render(parameters.codes().dequantize())
    assert np.mean((shown - images.transpose(0, 3, 1, 2) / 255) ** 2) < 10**-2.5


def test_noise_has_the_published_ranges_and_room_in_the_quantisers():
    gaussians, quantizers = noise_set(np.array([500, 7]), (32, 32), 3, BITS, 0)
    assert gaussians.means.min() < -0.9 < 0.9 < gaussians.means.max()
    assert 0.5 <= gaussians.cholesky[:, 0].min() < gaussians.cholesky[:, 0].max() <= 1.5
    for values, quantizer in ((gaussians.cholesky[:, 0::2], quantizers.scales), (gaussians.colors, quantizers.colors)):
        assert quantizer.table[0] < values.min() < values.max() < quantizer.table[-1]
    again, _ = noise_set(np.array([500]), (32, 32), 3, BITS, 0)
    assert np.array_equal(again.means, gaussians.means[:500])  # keyed by image, not by what else is drawn


def test_warmup_reaches_a_solid_colour():
    gaussians, quantizers = noise_set(np.array([30, 30]), (16, 16), 3, BITS, 0)
    parameters = LearnableSet.from_gaussians(gaussians, quantizers, torch.device("cpu"))
    adam = RowAdam({"means": 0.01, "log_scales": 0.05, "shear": 0.1, "colors": 0.02})
    adam.attach(parameters)
    before = gsdata.render(parameters.codes().dequantize())
    solid_warmup(parameters, adam, 100)
    after = gsdata.render(parameters.codes().dequantize())
    assert np.mean((after - 0.5) ** 2) < 0.05 * np.mean((before - 0.5) ** 2)
    assert np.abs(after - 0.5).mean() < 0.1
