"""``gsdata.render``: kinds, dtypes, backends, gradients through torch, and every bad argument."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gsdata
from gsdata import rendering
from gsdata.kernels import reference
from gsdata.testing import gaussians, make_gaussians


@pytest.fixture
def batch():
    return make_gaussians(0, [7, 0, 11], size=(12, 20), opacities=True)


def test_numpy_in_numpy_out_torch_in_torch_out(batch):
    image = gsdata.render(batch)
    assert isinstance(image, np.ndarray)
    assert (image.shape, image.dtype) == ((3, 3, 12, 20), np.float32)
    tensor = gsdata.render(batch.torch())
    assert isinstance(tensor, torch.Tensor)
    assert tensor.dtype == torch.float32
    assert np.array_equal(tensor.numpy(), image)


def test_sizes_and_indices(batch):
    assert gsdata.render(batch, 9).shape == (3, 3, 9, 9)
    assert gsdata.render(batch, np.int64(9)).shape == (3, 3, 9, 9)
    assert gsdata.render(batch, (5, 33)).shape == (3, 3, 5, 33)
    assert gsdata.render(batch, indices=[]).shape == (0, 3, 12, 20)
    assert gsdata.render(batch, indices=np.array([], np.int64), backend="dense").shape == (0, 3, 12, 20)
    whole = gsdata.render(batch)
    assert np.array_equal(gsdata.render(batch, indices=[-1, 0, 0, 1]), whole[[2, 0, 0, 1]])


def test_empty_batch():
    assert gsdata.render(make_gaussians(0, [], size=(4, 5))).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("backend", ["reference", "dense", "cpu"])
def test_backends_by_name(batch, backend):
    expected = reference.render(batch)
    for given_batch in (batch, batch.torch()):
        found = gsdata.render(given_batch, backend=backend)
        assert type(found) is type(given_batch.means)
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", np.float16, np.dtype("uint8"), "float64", float, torch.float32, None])
def test_dtypes_of_numpy(batch, dtype):
    wanted = {torch.float32: np.float32, None: np.float32}.get(dtype, dtype)
    assert gsdata.render(batch, dtype=dtype).dtype == np.dtype(wanted)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, torch.uint8, np.float32, "float64"])
def test_dtypes_of_torch(batch, dtype):
    name = str(dtype).removeprefix("torch.") if not isinstance(dtype, type) else np.dtype(dtype).name
    assert gsdata.render(batch.torch(), dtype=dtype).dtype == getattr(torch, name)


def test_float64_is_the_reference_to_rounding(batch):
    expected = reference.render(batch)
    assert np.array_equal(gsdata.render(batch, dtype=float), expected)
    np.testing.assert_allclose(gsdata.render(batch.torch(), dtype=float).numpy(), expected, atol=1e-7)


def test_uint8_rounds_half_to_even_and_clamps():
    image = torch.tensor([-1.0, 0.5 / 255, 1.5 / 255, 2.5 / 255, 0.999, 2.0], dtype=torch.float64)
    expected = [0, 0, 2, 2, 255, 255]
    assert rendering._convert(image, "uint8").tolist() == expected
    assert rendering._convert(image.numpy(), "uint8").tolist() == expected


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"size": 0}, ValueError, r"size must lie in 1..32768 pixels, found \(0, 0\)"),
        ({"size": (4, 40_000)}, ValueError, "size must lie in"),
        ({"size": "32"}, TypeError, "size must be None, an int or a pair"),
        ({"size": 2.5}, TypeError, "size must be None"),
        ({"size": (1, 2, 3)}, TypeError, "size must be None"),
        ({"indices": [0, 3]}, IndexError, "image index 3 is out of range for 3 images"),
        ({"indices": [-4]}, IndexError, "image index -4 is out of range"),
        ({"indices": [0.0]}, TypeError, "indices must be integers, found float64"),
        ({"indices": [True]}, TypeError, "indices must be integers, found bool"),
        ({"indices": [[0]]}, ValueError, r"indices must be a vector, found shape \(1, 1\)"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of .*, found int8"),
        ({"dtype": "nonsense"}, ValueError, "dtype must be one of .*, found 'nonsense'"),
        ({"dtype": "bfloat16"}, ValueError, "bfloat16 needs torch tensors"),
        ({"backend": "gpu"}, ValueError, "backend must be one of auto, .*, found 'gpu'"),
        ({"backend": "cpu", "dtype": "float64"}, ValueError, "computes in float32"),
    ],
)
def test_bad_arguments(batch, options, error, line):
    with pytest.raises(error, match=line):
        gsdata.render(batch, **options)


def test_mixed_kinds(batch):
    with pytest.raises(TypeError, match="all NumPy arrays or all torch tensors"):
        gsdata.render(replace(batch, colors=torch.tensor(batch.colors)))
    meta = replace(batch.torch(), colors=torch.empty(18, 3, device="meta"))
    with pytest.raises(ValueError, match="must lie on one device"):
        gsdata.render(meta)
    with pytest.raises(ValueError, match="backend 'cpu' needs tensors on the CPU, found meta"):
        gsdata.render(batch.torch("meta"), backend="cpu")


def test_without_numba_one_line_says_what_to_install(batch, monkeypatch, caplog):
    monkeypatch.setattr(rendering, "_installed", lambda module: module != "numba")
    rendering._tell_once.cache_clear()
    expected = reference.render(batch)
    with caplog.at_level(logging.WARNING, "gsdata"):
        for _ in range(2):
            np.testing.assert_allclose(gsdata.render(batch), expected, atol=1e-5)
    assert [record.getMessage() for record in caplog.records] == [
        "numba is missing, rendering with the slow backend 'dense': pip install 'gsdata[torch]'"
    ]
    with pytest.raises(ValueError, match=r"backend 'cpu' needs numba: pip install 'gsdata\[torch\]'"):
        gsdata.render(batch, backend="cpu")
    rendering._tell_once.cache_clear()


def test_with_the_core_alone_the_reference_renders(batch, monkeypatch, caplog):
    monkeypatch.setattr(rendering, "_installed", lambda module: False)
    rendering._tell_once.cache_clear()
    with caplog.at_level(logging.WARNING, "gsdata"):
        assert np.array_equal(gsdata.render(batch), reference.render(batch).astype(np.float32))
    assert "slow backend 'reference'" in caplog.text
    rendering._tell_once.cache_clear()


def test_numpy_needs_no_torch():
    code = (
        "import sys, numpy as np, gsdata\n"
        "g = gsdata.Gaussians(np.zeros((1, 2), 'f4'), np.ones((1, 3), 'f4'), np.ones((1, 3), 'f4'), [1], (8, 8))\n"
        "assert gsdata.render(g, dtype='uint8').shape == (1, 3, 8, 8)\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=120, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def leaves(batch, dtype=torch.float32):
    names = ("means", "cholesky", "colors", "opacities")
    return {name: torch.tensor(getattr(batch, name), dtype=dtype, requires_grad=True) for name in names}


@settings(max_examples=15)
@given(gaussians(max_images=3, max_count=6, max_size=20, kinds=("fitted",), opacities=True), st.integers(0, 99))
def test_gradients_flow_through_folding_and_dtype(batch, seed):
    """The kernels' adjoint and autograd of the dense form agree, opacities and a half-precision output included."""
    if batch.num_gaussians == 0:
        return
    gradients = []
    for backend in ("cpu", "dense"):
        values = leaves(batch)
        image = gsdata.render(replace(batch, **values), dtype=torch.bfloat16, backend=backend)
        target = torch.rand(image.shape, generator=torch.Generator().manual_seed(seed))
        (image.float() * target).sum().backward()
        gradients.append([value.grad for value in values.values()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-4 * float(other.abs().max()) + 1e-30)


def test_parameters_in_other_floating_types(batch):
    expected = reference.render_backward(batch, np.ones((3, 3, 12, 20)))
    for dtype, close in ((torch.float64, 1e-5), (torch.bfloat16, 0.05)):
        values = leaves(batch, dtype)
        image = gsdata.render(replace(batch, **values))
        assert image.dtype == torch.float32
        image.sum().backward()
        for name, value in values.items():
            assert value.grad.dtype == dtype
            error = np.abs(value.grad.double().numpy() - expected[name]).max()
            assert error <= close * np.abs(expected[name]).max(), name


def test_strided_tensors_and_gradients(batch):
    """Views are rendered as what they show, and a gradient that is an expanded scalar is taken as it is."""
    wide = torch.tensor(np.concatenate([batch.colors, batch.colors], 1), requires_grad=True)
    image = gsdata.render(replace(batch.torch(), colors=wide[:, ::2]))
    same = gsdata.render(replace(batch.torch(), colors=wide.detach()[:, ::2].contiguous()))
    assert torch.equal(image.detach(), same)
    image.sum().backward()
    assert wide.grad[:, ::2].abs().sum() > 0
    assert wide.grad[:, 1::2].abs().sum() == 0


def test_uint8_and_no_grad_have_no_graph(batch):
    values = leaves(batch)
    assert not gsdata.render(replace(batch, **values), dtype=torch.uint8).requires_grad
    with torch.no_grad():
        assert not gsdata.render(replace(batch, **values)).requires_grad


def test_second_derivatives_are_refused_not_wrong(batch):
    values = leaves(batch)
    image = gsdata.render(replace(batch, **values))
    (grad,) = torch.autograd.grad((image**2).sum(), [values["means"]], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_gradcheck_of_the_dense_form():
    batch = make_gaussians(11, [2, 1], channels=2, size=(6, 7), opacities=True)
    values = leaves(batch, torch.float64)

    def image(means, cholesky, colors, opacities):
        moved = replace(batch, means=means, cholesky=cholesky, colors=colors, opacities=opacities)
        return gsdata.render(moved, backend="dense", dtype="float64")

    assert torch.autograd.gradcheck(image, tuple(values.values()))
