"""``splat.cu`` through ``cuda.py``, compiled by g++ and run on the CPU, against the float64 reference.

What is not tested here needs a GPU: CuPy's compilation and launch, streams, graphs (test_cuda_gpu.py).
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gsdata
from gsdata.gaussians import ANTIALIAS_MODES, Gaussians
from gsdata.kernels import cuda, cuda_launch, reference
from gsdata.kernels.cuda import Output
from gsdata.kernels.device_codes import DeviceCodes
from gsdata.quantize import concatenate, fit_quantizers, quantize
from gsdata.testing import KINDS, gaussians, indices_of, make_gaussians, sizes
from parity import assert_gradients, assert_values, value_tolerance
from shim import ShimLauncher, installed, library, needs_compiler

pytestmark = needs_compiler
NAMES = ("means", "cholesky", "colors", "opacities")


@pytest.fixture(autouse=True)
def launcher():
    with installed() as launcher:
        yield launcher


def render(batch: Gaussians, size=None, indices=None, **options) -> np.ndarray:
    return cuda.render(batch.torch(), size, indices, Output(**options)).numpy()


def gradients(batch: Gaussians, grad_out, size, indices, **options) -> dict[str, np.ndarray]:
    names = [name for name in NAMES if getattr(batch, name) is not None]
    leaves = {name: torch.tensor(getattr(batch, name), requires_grad=True) for name in names}
    image = cuda.render(replace(batch, **leaves), size, indices, Output(**options))
    found = torch.autograd.grad(image, list(leaves.values()), torch.as_tensor(grad_out).to(image.dtype))
    return dict(zip(names, (grad.numpy() for grad in found), strict=True))


def check(batch: Gaussians, size: tuple[int, int], indices: list[int], seed: int = 0) -> None:
    assert_values(render(batch, size, indices), batch, size, indices)
    shape = (len(indices), batch.channels, *size)
    grad_out = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    assert_gradients(gradients(batch, grad_out, size, indices), batch, grad_out, size, indices)


@settings(max_examples=150)
@given(data=st.data())
def test_ragged_batches(data):
    batch = data.draw(gaussians())
    indices = data.draw(indices_of(batch.num_images))
    size = data.draw(st.one_of(st.just(batch.size), sizes(40)))
    assert_values(render(batch, size, indices), batch, size, indices)


@pytest.mark.parametrize("mode", ANTIALIAS_MODES)
@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_kinds_with_gradients(mode, kind):
    for channels, size in ((1, (17, 30)), (2, (23, 19)), (3, (33, 40)), (4, (17, 30))):
        batch = make_gaussians(
            channels, [4, 0, 9], channels=channels, size=(17, 30), kinds=(kind,), antialias=mode, opacities=True
        )
        check(batch, size, [2, 0, 1, -1])


@pytest.mark.parametrize("mode", ANTIALIAS_MODES)
@pytest.mark.parametrize("size", [(128, 128), (1, 1), (3, 130), (200, 70)])
def test_larger_and_odd_sizes(mode, size):
    for kind in ("needle", "mixed"):
        check(make_gaussians(7, [15], size=(32, 32), kinds=(kind,), antialias=mode), size, [0])


def test_more_gaussians_than_shared_memory_holds():
    """Rounds change no bit: not how many Gaussians are held at a time, nor in which order threads run."""
    batch = make_gaussians(3, [1100, 40], size=(40, 40), kinds=("mixed",))
    images = []
    for options in ({}, {"capacity": 512}, {"capacity": 4096}, {"descending": True}):
        with installed(ShimLauncher(**options)):
            images.append(render(batch, (33, 50)))
    assert_values(images[0], batch, (33, 50), [0, 1])
    assert all(np.array_equal(image, images[0]) for image in images)


def test_gradients_are_deterministic():
    batch = make_gaussians(4, [70, 3], kinds=("mixed",), opacities=True, size=(20, 30))
    grad_out = np.random.default_rng(0).normal(size=(3, 3, 20, 30)).astype(np.float32)
    found = []
    for descending in (False, True):
        with installed(ShimLauncher(descending=descending)):
            found.append(gradients(batch, grad_out, (20, 30), [1, 0, 1]))
    assert all(np.array_equal(found[0][name], found[1][name]) for name in NAMES)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_dtypes_and_layouts(channels):
    batch = make_gaussians(5, [40, 9, 20], channels=channels, kinds=("fitted", "mixed"), size=(19, 35))
    exact = reference.render(batch)
    for dtype, bits in ((torch.float32, 60), (torch.float16, 11), (torch.bfloat16, 8)):
        for channels_last in (False, True):
            output = Output(dtype=dtype, channels_last=channels_last)
            image = cuda.render(batch.torch(), None, None, output)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            assert (image.dtype, tuple(image.shape)) == (dtype, exact.shape)
            assert image.is_contiguous(memory_format=layout)
            half_ulp = np.maximum(np.abs(exact), 2.0**-14) * 2.0**-bits
            assert np.all(
                np.abs(image.double().numpy() - exact) <= 1.01 * half_ulp + value_tolerance(batch, (19, 35), [0, 1, 2])
            )


@pytest.mark.parametrize("channels_last", [False, True])
def test_uint8_is_the_rounded_reference(channels_last):
    batch = make_gaussians(5, [60] * 4, kinds=("fitted", "mixed"))
    exact = reference.render(batch) * 255
    assert exact.min() < -20
    assert exact.max() > 275
    sure = np.abs(exact - np.floor(exact) - 0.5) > 0.01
    found = render(batch, dtype=torch.uint8, channels_last=channels_last)
    assert np.array_equal(found[sure], np.rint(np.clip(exact, 0, 255))[sure])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_in_half_precision_with_normalisation(dtype, channels_last):
    """The gradient arrives in the output's type and layout; one that was rounded is taken as it is."""
    batch = make_gaussians(6, [12, 0, 33], kinds=("fitted", "mixed"), size=(21, 18), opacities=True)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 3.0)
    grad_out = torch.randn((3, 3, 21, 18), generator=torch.Generator().manual_seed(0)).to(dtype)
    if channels_last:
        grad_out = grad_out.contiguous(memory_format=torch.channels_last)
    options = {"dtype": dtype, "channels_last": channels_last, "mean": mean, "std": std}
    found = gradients(batch, grad_out, None, None, **options)
    by_image = grad_out.double().numpy() / np.array(std)[:, None, None]
    assert_gradients(found, batch, by_image, (21, 18), [0, 1, 2])


def test_normalisation():
    batch = make_gaussians(8, [20], size=(9, 14))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = render(batch, mean=mean, std=std)
    expected = (reference.render(batch) - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.array_equal(render(batch, mean=(0, 0, 0)), render(batch))


def test_repeats_add_up_and_indices_may_be_on_the_device():
    batch = make_gaussians(9, [5, 7, 0, 3], kinds=("fitted", "mixed"), size=(13, 16))
    indices = [3, 0, 3, 3, 1]
    grad_out = np.random.default_rng(1).normal(size=(5, 3, 13, 16)).astype(np.float32)
    for wanted in (indices, torch.tensor(indices)):
        assert_gradients(gradients(batch, grad_out, None, wanted), batch, grad_out, (13, 16), indices)
    whole = render(batch)
    assert np.array_equal(render(batch, None, torch.tensor(indices)), whole[indices])
    assert np.array_equal(render(batch, None, [-1, 0]), whole[[3, 0]])


def test_indices_on_the_device_that_are_out_of_range():
    batch = make_gaussians(10, [5, 7], size=(6, 5))
    wanted = torch.tensor([1, 2, -1, 2**40, 0])
    found = render(batch, None, wanted)
    assert np.isnan(found[1:4]).all()
    assert np.array_equal(found[[0, 4]], render(batch)[[1, 0]])
    assert (render(batch, None, wanted, dtype=torch.uint8)[1:4] == 0).all()
    grad_out = np.ones((5, 3, 6, 5), np.float32)
    assert_gradients(gradients(batch, grad_out, None, wanted), batch, grad_out[:2], (6, 5), [1, 0])


def test_nothing_to_do():
    empty = make_gaussians(0, [], size=(4, 5))
    assert render(empty).shape == (0, 3, 4, 5)
    blank = make_gaussians(0, [0, 0], size=(4, 5))
    assert_values(render(blank), blank, (4, 5), [0, 1])
    batch = make_gaussians(1, [3, 0], size=(4, 5))
    assert render(batch, None, []).shape == (0, 3, 4, 5)
    found = gradients(batch, np.zeros((0, 3, 4, 5), np.float32), None, [])
    assert not any(grad.any() for grad in found.values())
    found = gradients(batch, np.ones((1, 3, 4, 5), np.float32), None, [1])
    assert not any(grad.any() for grad in found.values())


def test_only_the_gradients_that_are_wanted(launcher):
    batch = make_gaussians(2, [6])
    grad_out = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    cholesky = torch.tensor(batch.cholesky, requires_grad=True)
    cuda.render(replace(batch.torch(), cholesky=cholesky)).backward(torch.from_numpy(grad_out))
    expected = reference.render_backward(batch, grad_out)["cholesky"]
    np.testing.assert_allclose(cholesky.grad.numpy(), expected, atol=1e-4 * np.abs(expected).max())
    task = launcher.launches[-1].task
    assert task["grad_cholesky"][0]
    assert not task["grad_means"][0]
    assert not task["grad_colors"][0]


def test_strided_values_and_gradients():
    """Views are rendered as what they show; an expanded gradient is read through its strides; float64 is converted."""
    batch = make_gaussians(3, [7, 4], size=(12, 20))
    wide = torch.tensor(np.concatenate([batch.colors, batch.colors], 1), dtype=torch.float64, requires_grad=True)
    flat = torch.cat([torch.zeros(1), torch.tensor(batch.means).ravel()])
    given = replace(batch.torch(), colors=wide[:, :3], means=flat[1:].view(-1, 2))
    image = cuda.render(given)
    assert np.array_equal(image.detach().numpy(), render(batch))
    image.sum().backward()
    expected = reference.render_backward(batch, np.ones(image.shape))["colors"]
    np.testing.assert_allclose(wide.grad[:, :3].numpy(), expected, rtol=1e-4)
    assert wide.grad.dtype == torch.float64


def test_second_derivatives_and_uint8_are_refused_not_wrong():
    batch = make_gaussians(3, [7], size=(12, 20))
    means = torch.tensor(batch.means, requires_grad=True)
    given = replace(batch.torch(), means=means)
    (grad,) = torch.autograd.grad((cuda.render(given) ** 2).sum(), [means], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
    assert not cuda.render(given, None, None, Output(dtype=torch.uint8)).requires_grad


@pytest.mark.parametrize("name", ["means", "cholesky"])
def test_a_value_that_is_not_finite_makes_its_image_nan(name):
    for bad in (np.nan, np.inf):
        batch = make_gaussians(2, [4, 4], size=(40, 40))
        getattr(batch, name)[5, 0] = bad
        grad_out = np.ones((2, 3, 40, 40), np.float32)
        found = gradients(batch, grad_out, None, None)
        assert np.isnan(render(batch)[1]).all()
        assert np.isfinite(render(batch)[0]).all()
        assert all(np.isnan(found[each][5]).all() for each in ("means", "cholesky", "colors"))
        assert all(np.isfinite(found[each][[0, 1, 2, 3, 4, 6, 7]]).all() for each in found)


@pytest.mark.parametrize("bits", [5, 8, 9, 12])
def test_codes_render_as_their_values_bit_for_bit(bits):
    parts = []
    for seed, channels_bits in ((0, bits), (1, 6)):
        batch = make_gaussians(seed, [30, 0, 12], kinds=("fitted",), size=(24, 20), background=False)
        quantizers = fit_quantizers(batch, means_bits=bits, scales_bits=6, shear_bits=7, colors_bits=channels_bits)
        parts.append(quantize(batch, quantizers))
    codes = concatenate(parts)
    for name in ("means", "cholesky", "colors"):
        getattr(codes, name).flags.writeable = False
    resident = DeviceCodes.from_codes(codes, "cpu")
    assert resident.tensors["means"].dtype == (torch.uint8 if bits <= 8 else torch.uint16)
    for size, indices in ((None, None), ((50, 33), [4, 0, 0, -1]), (7, torch.tensor([5, 1]))):
        for dtype in (torch.float32, torch.bfloat16, torch.uint8):
            expected = cuda.render(codes.dequantize().torch(), size, indices, Output(dtype=dtype))
            assert torch.equal(resident.render(size, indices, Output(dtype=dtype)), expected)
    assert_values(resident.render().numpy(), codes.dequantize(), (24, 20), range(6))


def test_codes_beyond_their_table_are_refused():
    batch = make_gaussians(0, [3])
    codes = quantize(batch, fit_quantizers(batch, shear_bits=3))
    codes.cholesky[2, 1] = 8
    with pytest.raises(ValueError, match="a code of cholesky is beyond its quantiser's table"):
        DeviceCodes.from_codes(codes, "cpu")


def test_bit_patterns_of_sixteen_bit_floats():
    """Against torch: every pattern read, and every kind of float32 written, ties and all."""
    shim = library(1)
    patterns = np.arange(2**16, dtype=np.uint16)
    read16, read_b16 = np.empty(2**16, np.float32), np.empty(2**16, np.float32)
    shim.shim_read(
        ctypes.c_void_p(patterns.ctypes.data),
        len(patterns),
        *(ctypes.c_void_p(a.ctypes.data) for a in (read16, read_b16)),
    )
    tensor = torch.from_numpy(patterns.view(np.int16))
    for found, dtype in ((read16, torch.float16), (read_b16, torch.bfloat16)):
        assert np.array_equal(found, tensor.view(dtype).float().numpy(), equal_nan=True)
    rng = np.random.default_rng(0)
    between = np.concatenate([read16, read_b16]).view(np.uint32)
    bits = np.concatenate([between, between + 1, between - 1, between + 0x1000, between + 0x8000, between + 0xFFF])
    values = np.concatenate([bits, rng.integers(0, 2**32, 300_000, dtype=np.uint32)]).view(np.float32)
    as16, as_b16 = np.empty(len(values), np.uint16), np.empty(len(values), np.uint16)
    shim.shim_bits(
        ctypes.c_void_p(values.ctypes.data), len(values), *(ctypes.c_void_p(a.ctypes.data) for a in (as16, as_b16))
    )
    for found, dtype in ((as16, torch.float16), (as_b16, torch.bfloat16)):
        expected = torch.from_numpy(values).to(dtype)
        mine = torch.from_numpy(found.view(np.int16)).view(dtype)
        same = (mine.view(torch.int16) == expected.view(torch.int16)) | (mine.isnan() & expected.isnan())
        assert bool(same.all())


def test_out_is_written_in_place():
    batch = make_gaussians(0, [9, 4], size=(6, 11))
    space = torch.full((2, 6, 13, 3), -7.0)
    out = space[:, :, 1:12].permute(0, 3, 1, 2)
    found = cuda.render(batch.torch(), None, None, Output(out=out))
    assert found is out
    assert np.array_equal(out.numpy(), render(batch))
    assert (space[:, :, [0, 12]] == -7).all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"dtype": torch.float64}, "dtype must be one of torch.float32, .*, found torch.float64"),
        ({"dtype": torch.uint8, "std": (1, 1, 1)}, "mean and std need a floating-point dtype"),
        ({"mean": (0.5,)}, "mean and std must be 3 numbers each"),
        ({"std": (0.5, 0, 1)}, "std positive"),
        ({"out": torch.empty(1, 3, 6, 10)}, "out must have shape, dtype and device"),
        ({"out": torch.empty(2, 3, 6, 11).half()}, "out must have shape, dtype and device"),
        ({"out": torch.empty(1, 1, 1, 1).expand(2, 3, 6, 11)}, "memory of its own for every pixel"),
    ],
)
def test_bad_output(options, line):
    with pytest.raises(ValueError, match=line):
        cuda.render(make_gaussians(0, [9, 4], size=(6, 11)).torch(), None, None, Output(**options))


def test_bad_arguments(launcher):
    batch = make_gaussians(0, [9, 4], size=(6, 11))
    with pytest.raises(ValueError, match="on one CUDA device, found NumPy arrays"):
        cuda.render(batch)
    with pytest.raises(ValueError, match="on one CUDA device, found cpu, meta"):
        cuda.render(replace(batch.torch(), colors=torch.empty((13, 3), device="meta")))
    with pytest.raises(TypeError, match=r"vector of int64, found 1-d torch\.int32"):
        cuda.render(batch.torch(), None, torch.zeros(1, dtype=torch.int32))
    with pytest.raises(IndexError, match="image index 2 is out of range"):
        cuda.render(batch.torch(), None, [2])
    given = replace(batch.torch(), means=torch.tensor(batch.means, requires_grad=True))
    with pytest.raises(ValueError, match="out is not differentiable"):
        cuda.render(given, None, None, Output(out=torch.empty(2, 3, 6, 11)))
    with pytest.raises(ValueError, match="2147483648 blocks exceed"):
        cuda_launch.run(cuda_launch.Launch("splat_forward", 3, 2**31, 256, 0, np.zeros(1), {}, torch.device("cpu")))
    assert not launcher.launches


def test_the_task_and_the_constants_are_those_of_the_source():
    source = cuda_launch.SOURCE.read_text()
    assert "#include" not in source
    body = re.sub(r"//.*", "", re.search(r"struct Task \{(.*?)\n\};", source, re.DOTALL)[1])
    declared = re.findall(r"(\w+)(?:\[4\])?(?=[,;])", body)
    assert tuple(declared) == cuda_launch.TASK.names
    for name in ("REGION", "FORWARD_THREADS", "BACKWARD_THREADS", "BATCH"):
        assert int(re.search(rf"\b{name} = (\d+)", source)[1]) == getattr(cuda_launch, name), name


def test_shared_memory_never_limits_the_blocks_of_a_multiprocessor():
    for shared, threads in ((64, 1024), (100, 1536), (164, 2048), (228, 2048)):
        held = cuda_launch.gaussians_held(shared * 1024, threads)
        assert held >= cuda_launch.FORWARD_THREADS
        used = held * cuda_launch.GAUSSIAN_BYTES + 64
        assert used <= 48 * 1024
        assert min(3, threads // 256) * (used + 1024) <= shared * 1024


def test_what_the_guide_shows_runs(tmp_path, monkeypatch):
    """The snippet of docs/gpu.md, on the CPU."""
    root = cuda_launch.SOURCE.parents[2]
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", (root / "docs" / "gpu.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    batch = make_gaussians(0, [6] * 10, channels=1, size=(28, 28), background=False)
    gsdata.save("demo/digits.gsd", quantize(batch, fit_quantizers(batch)))
    names: dict[str, object] = {}
    exec(compile(snippet.replace('"cuda"', '"cpu"'), "docs/gpu.md", "exec"), names)
    images = names["images"]
    assert isinstance(images, torch.Tensor)
    assert (images.shape, images.dtype) == ((256, 1, 32, 32), torch.bfloat16)
    assert names["gaussians"].means.grad.any()
