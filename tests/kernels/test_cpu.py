"""What the Numba kernels promise beyond parity: bits, threads, forks, memory, bad numbers."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import gsdata
from gsdata.gaussians import ANTIALIAS_MODES, Gaussians
from gsdata.kernels import cpu
from gsdata.testing import make_gaussians
from parity import assert_gradients, assert_values

ROOT = Path(gsdata.__file__).parents[1]


def backward(batch: Gaussians, grad_out: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, ...]:
    mode = ANTIALIAS_MODES.index(batch.antialias)
    return cpu.backward(batch.means, batch.cholesky, batch.colors, batch.counts, indices, batch.size, mode, grad_out)


@pytest.fixture
def many_chunks(monkeypatch):
    """Small work is split too, so that a few images reach every thread."""
    monkeypatch.setattr(cpu, "MIN_CHUNK", 1)


@pytest.mark.usefixtures("many_chunks")
def test_same_bits_for_any_thread_count(monkeypatch):
    batch = make_gaussians(0, [30, 0, 3, 80, 1, 17, 40] * 3, size=(24, 36), kinds=("fitted", "mixed"))
    indices = np.array([5, 3, 3, 0, 20, 11, 4, 5, 8, 19, 2, 1, 6])
    grad_out = np.random.default_rng(0).normal(size=(len(indices), 3, 24, 36)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 8):
        monkeypatch.setenv("GSDATA_NUM_THREADS", str(threads))
        results.append([gsdata.render(batch, indices=indices), *backward(batch, grad_out, indices)])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert not np.array_equal(results[0][0][0], results[0][0][1])


def _render_in_child(batch: Gaussians, queue: multiprocessing.Queue) -> None:
    queue.put(gsdata.render(batch))


@pytest.mark.usefixtures("many_chunks")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_after_the_parent_rendered(monkeypatch):
    """The parent's threads do not exist in the child, which must not wait for them."""
    monkeypatch.setenv("GSDATA_NUM_THREADS", "2")
    batch = make_gaussians(1, [20] * 8)
    expected = gsdata.render(batch)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_render_in_child, args=(batch, queue))
    child.start()
    try:
        found = queue.get(timeout=60)
    finally:
        child.join(timeout=10)
        child.kill()
    assert np.array_equal(found, expected)
    assert np.array_equal(gsdata.render(batch), expected)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 32, 45])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_kernels_write_inside_their_arrays_only(width, channels):
    batch = make_gaussians(3, [25], channels=channels, size=(7, width), kinds=("mixed",))
    height, fence = 7, 64
    values = batch.means, batch.cholesky, batch.colors

    def fenced(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        count = int(np.prod(shape))
        whole = np.full(count + 2 * fence, 7.5, np.float32)
        return whole, whole[fence : fence + count].reshape(shape)

    image_memory, image = fenced((channels, height, width))
    image[:] = 0
    cpu.splat_forward(*values, 1.0, 1.0, 0, image)
    grads = [fenced(value.shape) for value in values]
    grad_out = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    cpu.splat_backward(*values, 1.0, 1.0, 0, grad_out, *(grad for _, grad in grads))
    for memory in (image_memory, *(memory for memory, _ in grads)):
        assert np.all(memory[:fence] == 7.5)
        assert np.all(memory[-fence:] == 7.5)
    assert_values(image[None], replace(batch, background=()), (height, width), [0])
    found = dict(zip(("means", "cholesky", "colors"), (grad for _, grad in grads), strict=True))
    assert_gradients(found, batch, grad_out[None], (height, width), [0])


def test_forward_adds_and_backward_overwrites():
    batch = make_gaussians(4, [12])
    values = batch.means, batch.cholesky, batch.colors
    empty, full = np.zeros((3, 32, 32), np.float32), np.full((3, 32, 32), 5.0, np.float32)
    cpu.splat_forward(*values, 1.0, 1.0, 0, empty)
    cpu.splat_forward(*values, 1.0, 1.0, 0, full)
    np.testing.assert_allclose(full - 5, empty, atol=1e-5)
    clean, dirty = [np.zeros_like(v) for v in values], [np.full_like(v, 9) for v in values]
    for grads in (clean, dirty):
        cpu.splat_backward(*values, 1.0, 1.0, 0, full, *grads)
    assert all(np.array_equal(a, b) for a, b in zip(clean, dirty, strict=True))


def test_kernels_can_be_called_from_other_kernels():
    """The encoder fuses them with its residual and its optimiser."""

    @njit(nogil=True)
    def residual_gradient(means, cholesky, colors, target, image, grad_means, grad_cholesky, grad_colors):
        image[:] = 0.0
        cpu.splat_forward(means, cholesky, colors, 1.0, 1.0, 0, image)
        image -= target
        cpu.splat_backward(means, cholesky, colors, 1.0, 1.0, 0, image, grad_means, grad_cholesky, grad_colors)

    batch = replace(make_gaussians(5, [12]), background=(0.0, 0.0, 0.0))
    values = batch.means, batch.cholesky, batch.colors
    grads = [np.empty_like(value) for value in values]
    target = np.random.default_rng(0).uniform(size=(3, 32, 32)).astype(np.float32)
    residual_gradient(*values, target, np.empty_like(target), *grads)
    residual = gsdata.render(batch) - target
    assert_gradients(dict(zip(("means", "cholesky", "colors"), grads, strict=True)), batch, residual, (32, 32), [0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("attribute", ["means", "cholesky"])
def test_values_that_are_not_finite_show(attribute, bad):
    """Such a Gaussian has no place to be drawn: its image is NaN, the others are untouched."""
    batch = make_gaussians(6, [4, 4, 4])
    expected = gsdata.render(batch)
    broken = getattr(batch, attribute).copy()
    broken[5, 1] = bad
    batch = replace(batch, **{attribute: broken})
    found = gsdata.render(batch)
    assert np.isnan(found[1]).all()
    assert np.array_equal(found[[0, 2]], expected[[0, 2]])
    grads = backward(batch, np.ones_like(found), np.arange(3))
    for grad in grads:
        assert np.isnan(grad[5]).all()
        assert np.isfinite(np.delete(grad, 5, 0)).all()


_FIRST_USE = """
import sys, numpy as np, gsdata
g = gsdata.Gaussians(np.zeros((1, 2), np.float32), np.ones((1, 3), np.float32), np.ones((1, 1), np.float32),
                     np.array([1]), (16, 16))
sys.stdout.write(repr(float(gsdata.render(g).sum())))
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_several_processes_compile_for_the_first_time_at_once(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", _FIRST_USE]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = [subprocess.Popen(command, env=environment, **pipes) for _ in range(3)]
    outputs = [process.communicate(timeout=200) for process in first]
    later = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    found = {output for output, _ in outputs} | {later.stdout}
    assert [process.returncode for process in first] == [0, 0, 0], outputs
    assert len(found) == 1
    assert float(found.pop()) == pytest.approx(6.2, rel=0.05)
