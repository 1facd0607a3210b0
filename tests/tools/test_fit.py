"""The fit against the float64 reference, its independence of everything but its arguments, and what pruning keeps."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from gsdata.gaussians import Gaussians
from gsdata.kernels import reference
from gsdata.kernels.simd import LANES
from gsdata.quantize import fit_quantizers, quantize
from gsdata_tools import blocks, fit, splat_kernels
from gsdata_tools.encode_budget import without_least


def _smooth(count, height=32, width=32, channels=3, seed=0):
    """Made-up images with edges and gradients, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    images = np.empty((count, height, width, channels))
    for i in range(count):
        for c in range(channels):
            a, b, p = rng.normal(size=3) * 4
            images[i, ..., c] = 127 + 70 * np.sin(a * x * 3 + b * y * 3 + p) + 50 * ((x * a + y * b) > 0.3 * p)
    return np.clip(images, 0, 255).astype(np.uint8)


def _values(count, channels, size, seed=0):
    rng = np.random.default_rng(seed)
    values = np.empty((5 + channels, count), np.float32)
    values[:2] = rng.uniform(-1.1, 1.1, (2, count))
    values[2], values[4] = np.exp2(rng.uniform(-2, 3.5, (2, count)))
    values[3] = rng.normal(size=count) * 4
    values[5:] = rng.normal(size=(channels, count)) * 0.5
    gaussians = Gaussians(
        values[:2].T.copy(), values[2:5].T.copy(), values[5:].T.copy(), np.array([count]), size
    )  # fmt: skip
    return values, gaussians


def _rendered(values, size):
    """The picture and the buffers of the fit's own forward pass."""
    channels, (height, width) = values.shape[0] - 5, size
    stride = width + LANES
    image = np.zeros(channels * height * stride + LANES, np.float32)
    placed, box = np.zeros((values.shape[1], 8), np.float32), np.zeros((values.shape[1], 4), np.int64)
    length = sum(splat_kernels.place(values, n, width, height, placed[n], box[n]) for n in range(values.shape[1]))
    weights, at = np.zeros((length + 1) * LANES, np.float32), 0
    for n in range(values.shape[1]):
        one = np.float32(1)
        at = splat_kernels.splat(
            values, n, channels, stride, height * stride, placed[n], box[n], one, image, weights, at
        )
    assert at == length * LANES
    return image, placed, box, weights


@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (9, 41)), (4, (17, 5)), (2, (1, 1))])
def test_the_fit_renders_and_differentiates_like_the_reference(channels, size):
    values, gaussians = _values(24, channels, size)
    height, width = size
    stride = width + LANES
    image, placed, box, weights = _rendered(values, size)
    picture = image[: channels * height * stride].reshape(channels, height, stride)[:, :, :width]
    expected = reference.render(gaussians)[0]
    scale = 1 + reference.render(replace(gaussians, colors=np.abs(gaussians.colors)))[0]
    assert (np.abs(picture - expected) / scale).max() < 2e-5

    given = np.random.default_rng(1).normal(size=(channels, height, width)).astype(np.float32)
    residual = np.zeros_like(image)
    residual[: channels * height * stride].reshape(channels, height, stride)[:, :, :width] = given
    grad, at = np.zeros_like(values), 0
    for n in range(values.shape[1]):
        at = splat_kernels.gradient(
            values, n, channels, width, height, stride, height * stride, placed[n], box[n], residual, weights, at, grad
        )
    wanted = reference.render_backward(gaussians, given[None])
    by_log2 = np.log(2) * values[[2, 4]].T
    wanted["cholesky"][:, [0, 2]] *= by_log2
    for name, rows in (("means", slice(0, 2)), ("cholesky", slice(2, 5)), ("colors", slice(5, None))):
        error = np.abs(grad[rows].T - wanted[name]).max()
        assert error <= 2e-4 * np.abs(wanted[name]).max(), name


def test_the_search_reports_the_error_that_the_reference_renders():
    images = _smooth(3)
    result = fit.fit_images(images, 30, steps=60)
    shown = np.clip(reference.render(result.codes.dequantize()), 0, 1)
    errors = np.square(shown - images.transpose(0, 3, 1, 2) / 255).sum(axis=(1, 2, 3))
    assert result.squared_errors == pytest.approx(errors, rel=1e-4)


def test_the_search_improves_on_rounding_for_every_image():
    images = _smooth(6)
    rounded = fit.fit_images(images, 30, steps=150, sweeps=0)
    searched = fit.fit_images(images, 30, steps=150)
    nearest = quantize(fit.fit_gaussians(images, 30, steps=150), rounded.codes.quantizers[0])
    assert np.array_equal(rounded.codes.means, nearest.means)
    assert np.array_equal(rounded.codes.colors, nearest.colors)
    assert (searched.squared_errors <= rounded.squared_errors * (1 + 1e-6)).all()
    gain = 10 * np.log10(rounded.squared_errors / searched.squared_errors)
    assert gain.mean() > 0.1


def test_losses_are_what_removal_costs():
    images = _smooth(1)
    result = fit.fit_images(images, 20, steps=100)
    base = result.codes.dequantize()
    target = images.transpose(0, 3, 1, 2) / 255
    for n in (0, 7, 19):
        keep = np.arange(20) != n
        without = replace(
            base, means=base.means[keep], cholesky=base.cholesky[keep], colors=base.colors[keep], counts=np.array([19])
        )
        change = np.square(reference.render(without) - target).sum() - np.square(reference.render(base) - target).sum()
        assert result.losses[n] == pytest.approx(change, rel=0.1, abs=0.05)


def _digest(result):
    parts = (result.codes.means, result.codes.cholesky, result.codes.colors, result.losses, result.squared_errors)
    quantizers = repr(result.codes.quantizers).encode()  # their ranges tell apart what codes may round away
    return hashlib.sha256(quantizers + b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def test_threads_change_nothing():
    images = _smooth(9)
    assert len({_digest(fit.fit_images(images, 12, steps=20, threads=threads)) for threads in (1, 2, 5)}) == 1
    assert (
        len({fit.fit_gaussians(images, 12, steps=20, threads=number).cholesky.tobytes() for number in (1, 2, 5)}) == 1
    )


class _Memory:
    def __init__(self):
        self.saved = {}

    def names(self):
        return sorted(self.saved)

    def save(self, name, arrays, meta=None):
        self.saved[name] = ({key: np.array(value) for key, value in arrays.items()}, dict(meta or {}))

    def load(self, name):
        return self.saved[name]


def test_saved_blocks_are_used_and_change_nothing(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_PIXELS", 4 * 32 * 32)
    images, store = _smooth(10), _Memory()
    plain = _digest(fit.fit_images(images, 12, steps=20))
    assert _digest(fit.fit_images(images, 12, steps=20, store=store)) == plain
    assert store.names() == ["codes", *(f"fit-{first:07d}" for first in (0, 4, 8))]
    del store.saved["fit-0000004"], store.saved["codes"]
    monkeypatch.setattr(
        fit, "_start", lambda target, count, draws, start=fit._start: calls.append(1) or start(target, count, draws)
    )
    calls = []
    assert _digest(fit.fit_images(images, 12, steps=20, store=store)) == plain
    assert len(calls) == 4


def test_a_search_goes_on_where_it_was_saved():
    images, store, states = _smooth(5), _Memory(), []
    save = store.save
    store.save = lambda name, arrays, meta=None: states.append((name, arrays, meta)) or save(name, arrays, meta)
    whole = _digest(fit.fit_images(images, 12, steps=20, store=store))
    searched = [state for state in states if state[0] == "codes"]
    assert len(searched) > 3
    assert [meta["ended"] for _, _, meta in searched] == [False] * (len(searched) - 1) + [True]
    for state in searched:
        save(*state)
        assert _digest(fit.fit_images(images, 12, steps=20, store=store)) == whole


def test_an_image_starts_the_same_way_in_any_selection():
    images = _smooth(6)
    whole = fit.fit_gaussians(images, 10, steps=30)
    part = fit.fit_gaussians(images[[4, 1]], 10, steps=30, image_keys=[4, 1])
    assert np.array_equal(part.means, whole.select([4, 1]).means)
    other = fit.fit_gaussians(images[[4, 1]], 10, steps=30, image_keys=[4, 1], seed=1)
    assert not np.array_equal(part.means, other.means)


def test_more_steps_fit_better():
    images = _smooth(4)
    errors = [fit.fit_images(images, 25, steps=steps).squared_errors.mean() for steps in (1, 30, 300)]
    assert errors[0] > 2 * errors[1] > 3 * errors[2]


@pytest.mark.parametrize(
    ("shape", "counts"),
    [((2, 1, 1, 3), 5), ((2, 1, 9, 1), 3), ((3, 7, 1, 2), 4), ((2, 5, 6, 4), 40), ((3, 16, 20, 3), [0, 3, 9])],
)
def test_odd_shapes(shape, counts):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    result = fit.fit_images(images, counts, steps=150)
    assert result.codes.counts.tolist() == (counts if isinstance(counts, list) else [counts] * shape[0])
    before = np.square(images / 255.0).reshape(len(images), -1).sum(axis=1)  # of a black picture
    some = np.asarray(result.codes.counts) > 0
    assert (result.squared_errors[some] < before[some]).all()
    assert result.squared_errors[~some] == pytest.approx(before[~some])


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images(value):
    result = fit.fit_images(np.full((2, 32, 32, 3), value, np.uint8), 42, steps=600)
    assert (10 * np.log10(3072 / np.maximum(result.squared_errors, 1e-9)) > 45).all()


def test_bad_arguments():
    images = _smooth(2)
    for bad in (images.astype(np.float32), images[0], images[..., :0]):
        with pytest.raises(ValueError, match="images must be uint8"):
            fit.fit_images(bad, 3, steps=1)
    for bad in ([1, 2, 3], 1.5, -1):
        with pytest.raises(ValueError, match="counts"):
            fit.fit_images(images, bad, steps=1)


def test_pruning_takes_the_least_and_spares_the_last_of_an_image():
    _, gaussians = _values(7, 3, (8, 8))
    gaussians = replace(gaussians, counts=np.array([4, 0, 1, 2]))
    codes = quantize(gaussians, fit_quantizers(gaussians))
    losses = np.array([5.0, 1.0, 9.0, 2.0, 0.1, 3.0, 0.5], np.float32)
    left = without_least(codes, losses, 3)
    assert left.counts.tolist() == [2, 0, 1, 1]
    assert np.array_equal(left.means, codes.means[[0, 2, 4, 5]])
    assert without_least(codes, losses, 4).counts.tolist() == [1, 0, 1, 1]
    assert without_least(codes, losses, 7).num_gaussians == 0


_FIT = """
import hashlib, numpy as np
from gsdata_tools import fit
images = (np.indices((2, 24, 24, 3)).sum(0) * 7 % 256).astype(np.uint8)
codes = fit.fit_images(images, 20, steps=60).codes
print(hashlib.sha256(codes.means.tobytes() + codes.cholesky.tobytes() + codes.colors.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_the_process_that_compiles_computes_what_later_ones_do(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    first, second = (
        subprocess.run([sys.executable, "-c", _FIT], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert first == second
