"""Every backend against the float64 reference, values and gradients, at the tolerances of FORMAT.md.

A new backend adds itself to ``BACKENDS`` and is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gsdata
from gsdata.gaussians import ANTIALIAS_MODES, Gaussians
from gsdata.kernels import reference
from gsdata.testing import KINDS, gaussians, indices_of, make_gaussians, sizes
from parity import assert_gradients, assert_values, value_tolerance

BACKENDS = ("cpu", "dense")
backends = pytest.mark.parametrize("backend", BACKENDS)


def gradients(
    batch: Gaussians, grad_out: np.ndarray, size: tuple[int, int], indices: list[int], backend: str
) -> dict[str, np.ndarray]:
    names = [name for name in ("means", "cholesky", "colors", "opacities") if getattr(batch, name) is not None]
    leaves = {name: torch.tensor(getattr(batch, name), requires_grad=True) for name in names}
    image = gsdata.render(replace(batch, **leaves), size, indices, backend=backend)
    found = torch.autograd.grad(image, list(leaves.values()), torch.from_numpy(grad_out), materialize_grads=True)
    return dict(zip(names, (grad.numpy() for grad in found), strict=True))


def check(batch: Gaussians, size: tuple[int, int], indices: list[int], backend: str, seed: int = 0) -> None:
    assert_values(gsdata.render(batch, size, indices, backend=backend), batch, size, indices)
    shape = (len(indices), batch.channels, *size)
    grad_out = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    assert_gradients(gradients(batch, grad_out, size, indices, backend), batch, grad_out, size, indices)


@backends
@settings(max_examples=80)
@given(data=st.data())
def test_ragged_batches(backend, data):
    batch = data.draw(gaussians())
    indices = data.draw(indices_of(batch.num_images))
    size = data.draw(st.one_of(st.just(batch.size), sizes(40)))
    assert_values(gsdata.render(batch, size, indices, backend=backend), batch, size, indices)


@backends
@pytest.mark.parametrize("mode", ANTIALIAS_MODES)
@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_kinds_with_gradients(backend, mode, kind):
    for channels in (1, 2, 3, 4):
        batch = make_gaussians(
            channels, [4, 0, 9], channels=channels, size=(17, 30), kinds=(kind,), antialias=mode, opacities=True
        )
        for size in ((17, 30), (23, 19)):
            check(batch, size, [2, 0, 1, -1], backend)


@backends
@pytest.mark.parametrize("mode", ANTIALIAS_MODES)
@pytest.mark.parametrize("size", [(128, 128), (1, 1), (3, 130), (200, 70)])
def test_larger_and_odd_sizes(backend, mode, size):
    for kind in ("needle", "mixed"):
        check(make_gaussians(7, [15], size=(32, 32), kinds=(kind,), antialias=mode), size, [0], backend)


@backends
def test_gradients_with_respect_to_some_attributes_only(backend):
    batch = make_gaussians(2, [6])
    grad_out = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    expected = reference.render_backward(batch, grad_out)["cholesky"]
    cholesky = torch.tensor(batch.cholesky, requires_grad=True)
    rest = batch.torch()
    gsdata.render(replace(rest, cholesky=cholesky), backend=backend).backward(torch.from_numpy(grad_out))
    np.testing.assert_allclose(cholesky.grad.numpy(), expected, atol=1e-4 * np.abs(expected).max())
    assert rest.means.grad is None


@backends
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_one_rounding_more(backend, dtype):
    batch = make_gaussians(4, [40, 10], kinds=("fitted", "mixed"))
    image = gsdata.render(batch.torch(), dtype=dtype, backend=backend)
    assert image.dtype == getattr(torch, dtype)
    expected = reference.render(batch)
    half_ulp = np.maximum(np.abs(expected), 2.0**-14) * {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    error = np.abs(image.double().numpy() - expected)
    assert np.all(error <= 1.01 * half_ulp + value_tolerance(batch, (32, 32), [0, 1]))


def _uint8_numpy(batch: Gaussians, backend: str) -> np.ndarray:
    return gsdata.render(batch, dtype="uint8", backend=backend)


def _uint8_torch(batch: Gaussians, backend: str) -> np.ndarray:
    return gsdata.render(batch.torch(), dtype=torch.uint8, backend=backend).numpy()


@backends
@pytest.mark.parametrize("render", [_uint8_numpy, _uint8_torch])
def test_uint8_is_the_rounded_reference(backend, render: Callable[[Gaussians, str], np.ndarray]):
    """Equal unless reference x 255 lies within 0.01 of a half; values beyond [0, 1] are clamped."""
    batch = make_gaussians(5, [60] * 6, kinds=("fitted", "mixed"))
    exact = reference.render(batch) * 255
    assert exact.min() < -20
    assert exact.max() > 275
    sure = np.abs(exact - np.floor(exact) - 0.5) > 0.01
    found = render(batch, backend)
    assert found.dtype == np.uint8
    assert sure.mean() > 0.95
    assert np.array_equal(found[sure], np.rint(np.clip(exact, 0, 255))[sure])
