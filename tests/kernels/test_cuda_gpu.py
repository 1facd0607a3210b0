"""The CUDA kernels on a GPU: the part of the tests that g++ cannot stand in for. One command: python -m pytest -m gpu"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import gsdata
from gsdata.gaussians import ANTIALIAS_MODES, Gaussians
from gsdata.kernels import cuda, cuda_launch, dense, reference
from gsdata.kernels.cuda import Output
from gsdata.kernels.device_codes import DeviceCodes
from gsdata.quantize import fit_quantizers, quantize
from gsdata.testing import KINDS, make_gaussians
from parity import assert_gradients, assert_values, value_tolerance

pytestmark = pytest.mark.gpu
NAMES = ("means", "cholesky", "colors", "opacities")


@pytest.fixture(autouse=True)
def works():
    """On a machine with a GPU these tests fail, rather than are skipped, where CuPy does not work."""
    assert cuda_launch.problem() is None, cuda_launch.problem()


def leaves_of(batch: Gaussians) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor(getattr(batch, name), device="cuda", requires_grad=True)
        for name in NAMES
        if getattr(batch, name) is not None
    }


def gradients(batch: Gaussians, grad_out, size=None, indices=None, **options) -> dict[str, np.ndarray]:
    leaves = leaves_of(batch)
    image = cuda.render(replace(batch, **leaves), size, indices, Output(**options))
    found = torch.autograd.grad(image, list(leaves.values()), torch.as_tensor(grad_out).to(image))
    return dict(zip(leaves, (grad.cpu().numpy() for grad in found), strict=True))


def check(batch: Gaussians, size: tuple[int, int], indices: list[int], seed: int = 0) -> None:
    image = gsdata.render(batch.torch("cuda"), size, indices, backend="cuda")
    assert_values(image.cpu().numpy(), batch, size, indices)
    shape = (len(indices), batch.channels, *size)
    grad_out = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    assert_gradients(gradients(batch, grad_out, size, indices), batch, grad_out, size, indices)


def test_the_default_on_a_gpu(caplog):
    batch = make_gaussians(0, [7, 3])
    image = gsdata.render(batch.torch("cuda"))
    assert torch.equal(image, cuda.render(batch.torch("cuda")))
    assert not caplog.records


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


def test_many_gaussians_in_a_large_image():
    """4,000 at 512 x 512, more than shared memory holds; compared with the dense form, which is tested elsewhere."""
    batch = make_gaussians(3, [4000], size=(512, 512), kinds=("fitted",)).torch("cuda")
    with torch.no_grad():
        expected = dense.render(batch)
    assert float((cuda.render(batch) - expected).abs().max()) <= 1e-4


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_and_layouts(dtype, channels_last):
    batch = make_gaussians(5, [40, 9, 20], kinds=("fitted", "mixed"), size=(19, 35), opacities=True)
    exact = reference.render(batch)
    image = cuda.render(batch.torch("cuda"), None, None, Output(dtype=dtype, channels_last=channels_last))
    assert image.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    bits = {torch.float32: 60, torch.float16: 11, torch.bfloat16: 8}[dtype]
    half_ulp = np.maximum(np.abs(exact), 2.0**-14) * 2.0**-bits
    error = np.abs(image.double().cpu().numpy() - exact)
    assert np.all(error <= 1.01 * half_ulp + value_tolerance(batch, (19, 35), [0, 1, 2]))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 3.0)
    grad_out = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = gradients(batch, grad_out, dtype=dtype, channels_last=channels_last, mean=mean, std=std)
    assert_gradients(found, batch, grad_out.double().numpy() / np.array(std)[:, None, None], (19, 35), [0, 1, 2])


@pytest.mark.parametrize("channels_last", [False, True])
def test_uint8_is_the_rounded_reference(channels_last):
    batch = make_gaussians(5, [60] * 6, kinds=("fitted", "mixed"))
    exact = reference.render(batch) * 255
    sure = np.abs(exact - np.floor(exact) - 0.5) > 0.01
    found = cuda.render(batch.torch("cuda"), None, None, Output(dtype=torch.uint8, channels_last=channels_last))
    assert np.array_equal(found.cpu().numpy()[sure], np.rint(np.clip(exact, 0, 255))[sure])


def test_the_same_bits_every_time():
    batch = make_gaussians(4, [300, 85, 0, 12], kinds=("mixed",), opacities=True, size=(50, 70))
    grad_out = np.random.default_rng(0).normal(size=(5, 3, 50, 70)).astype(np.float32)
    for indices in ([1, 0, 1, 3, 2], torch.tensor([1, 0, 1, 3, 2], device="cuda")):
        first = gradients(batch, grad_out, None, indices)
        assert_gradients(first, batch, grad_out, (50, 70), [1, 0, 1, 3, 2])
        for _ in range(5):
            again = gradients(batch, grad_out, None, indices)
            assert all(np.array_equal(first[name], again[name]) for name in NAMES)
    image = cuda.render(batch.torch("cuda"))
    assert all(torch.equal(image, cuda.render(batch.torch("cuda"))) for _ in range(5))


def test_codes_render_as_their_values_bit_for_bit():
    batch = make_gaussians(0, [85, 0, 200], kinds=("fitted",), size=(24, 40))
    codes = quantize(batch, fit_quantizers(batch, means_bits=9))
    resident, values = DeviceCodes.from_codes(codes), codes.dequantize().torch("cuda")
    for indices in (None, [2, 0, 0], torch.tensor([1, 2], device="cuda")):
        for dtype in cuda.FORMATS:
            assert torch.equal(
                resident.render(33, indices, Output(dtype=dtype)), cuda.render(values, 33, indices, Output(dtype=dtype))
            )


@pytest.mark.parametrize("with_indices", [False, True])
def test_graph_capture(with_indices):
    """A captured step, replayed with other values and other indices, is the step itself."""
    batch = make_gaussians(2, [20, 5, 9], kinds=("fitted",), opacities=True)
    leaves = leaves_of(batch)
    indices = torch.tensor([2, 0, 2, 1], device="cuda") if with_indices else None
    shape = (4 if with_indices else 3, 3, 32, 32)
    grad_out = torch.randn(shape, device="cuda")

    def step() -> list[torch.Tensor]:
        image = cuda.render(replace(batch, **leaves), None, indices, Output(dtype=torch.bfloat16))
        return [image, *torch.autograd.grad(image, list(leaves.values()), grad_out.bfloat16())]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for leaf in leaves.values():
            leaf.mul_(0.9)
    if indices is not None:
        indices.copy_(torch.tensor([0, 1, 1, 0]))
    graph.replay()
    for found, expected in zip(captured, step(), strict=True):
        assert torch.equal(found, expected)


def test_what_would_need_an_upload_is_refused_while_capturing():
    batch = make_gaussians(2, [21, 5]).torch("cuda")
    cuda.render(batch)
    message = "render once with the same counts before"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an empty graph
        with torch.cuda.graph(torch.cuda.CUDAGraph()), pytest.raises(RuntimeError, match=message):
            cuda.render(batch, None, [1, 0])


def test_two_streams():
    batches = [make_gaussians(seed, [85] * 64, kinds=("fitted",)).torch("cuda") for seed in range(2)]
    expected = [cuda.render(batch) for batch in batches]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    found: list[list[torch.Tensor]] = [[], []]
    for _ in range(20):
        for stream, batch, images in zip(streams, batches, found, strict=True):
            with torch.cuda.stream(stream):
                images.append(cuda.render(batch))
    torch.cuda.synchronize()
    assert all(torch.equal(image, expected[i]) for i in range(2) for image in found[i])


def test_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    batch = make_gaussians(0, [7, 3])
    with torch.cuda.device(0):
        image = cuda.render(batch.torch("cuda:1"))
    assert image.device == torch.device("cuda", 1)
    assert_values(image.cpu().numpy(), batch, (32, 32), [0, 1])


def test_running_out_of_memory_leaves_the_process_usable():
    batch = make_gaussians(0, [3])
    free, _ = torch.cuda.mem_get_info()
    images = free // (4 * 3 * 32768**2) + 1
    with pytest.raises(torch.cuda.OutOfMemoryError):
        cuda.render(batch.torch("cuda"), (32768, 32768), [0] * images)
    check(batch, (32, 32), [0])


def test_tensors_on_two_devices_are_refused():
    batch = make_gaussians(0, [3]).torch("cuda")
    with pytest.raises(ValueError, match="on one device"):
        gsdata.render(replace(batch, colors=batch.colors.cpu()))
    with pytest.raises(ValueError, match="on one CUDA device, found cpu, cuda:0"):
        cuda.render(replace(batch, colors=batch.colors.cpu()))


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer(tool):
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("compute-sanitizer is not installed")
    code = (
        "import torch, gsdata\n"
        "from gsdata.testing import make_gaussians\n"
        "g = make_gaussians(0, [300, 5], size=(35, 41), kinds=('mixed',)).torch('cuda')\n"
        "g.means.requires_grad_()\n"
        "gsdata.render(g, dtype='bfloat16').sum().backward()\n"
        "torch.cuda.synchronize()\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [program, "--tool", tool, "--kernel-name", "kernel_substring=splat_", "--error-exitcode", "9"]
    done = subprocess.run(
        [*command, sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
