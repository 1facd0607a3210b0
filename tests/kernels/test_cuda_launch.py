"""How kernels are chosen, compiled and launched, with a stand-in for CuPy: what it is asked to do, and what is said without it."""

from __future__ import annotations

import logging
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gsdata
from gsdata import rendering
from gsdata.kernels import cuda_launch
from gsdata.kernels.cuda_launch import TASK, Launch
from gsdata.testing import make_gaussians


@pytest.fixture(autouse=True)
def forget():
    caches = (cuda_launch.problem, cuda_launch._kernel, cuda_launch._capacity, rendering._tell_once)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


class StandIn:
    """The part of CuPy that is used."""

    def __init__(self, fails: str = "") -> None:
        self.asked, self.launched, self.fails = [], [], fails
        self.cuda = SimpleNamespace(
            nvrtc=SimpleNamespace(getVersion=lambda: self.fail("nvrtc", (13, 0))),
            runtime=SimpleNamespace(getDeviceCount=lambda: 1),
            Device=self.device,
        )

    def fail(self, where, result):
        if self.fails == where:
            raise OSError(f"{where} is not there\nsecond line")
        return result

    def device(self, index):
        found = nullcontext()
        found.attributes = {"MaxSharedMemoryPerMultiprocessor": 228 * 1024, "MaxThreadsPerMultiProcessor": 2048}
        return found

    def RawKernel(self, code, name, **options):
        self.asked.append({"code": code, "name": name, **options})

        def kernel(*arguments, **keywords):
            self.fail("launch", self.launched.append((name, arguments, keywords)))

        return kernel


@pytest.fixture
def cupy(monkeypatch):
    def install(fails: str = "") -> StandIn:
        stand_in = StandIn(fails)
        monkeypatch.setitem(sys.modules, "cupy", stand_in)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=77))
        return stand_in

    return install


def a_launch(blocks: int = 5) -> Launch:
    return Launch("splat_forward", 2, blocks, 256, 1000, np.zeros(1, TASK), {}, torch.device("cuda", 0))


def test_what_is_compiled_and_launched(cupy):
    stand_in, launch = cupy(), a_launch()
    cuda_launch.run(launch)
    cuda_launch.run(launch)
    cuda_launch.run(a_launch(blocks=0))
    (options,) = stand_in.asked
    assert options["code"] == cuda_launch.SOURCE.read_text()
    assert options["options"] == ("-DCHANNELS=2", f"-DTASK_BYTES={TASK.itemsize}")
    assert len(stand_in.launched) == 2
    name, (grid, block, arguments), keywords = stand_in.launched[0]
    assert (name, grid, block, keywords["shared_mem"]) == ("splat_forward", (5,), (256,), 1000)
    assert arguments[0] is launch.task
    assert arguments[0].size == 1  # CuPy passes arrays of one element by value
    assert keywords["stream"].ptr == 77
    assert cuda_launch.LAUNCHERS["cuda"].capacity(torch.device("cuda", 0)) == 992


def test_a_launch_that_fails_says_which(cupy):
    cupy("launch")
    with pytest.raises(
        RuntimeError, match=r"splat_forward on cuda:0, 5 blocks of 256 threads, 1000 bytes shared: OSError"
    ):
        cuda_launch.run(a_launch())


def test_what_to_install(cupy, monkeypatch):
    cupy()
    assert cuda_launch.problem() is None
    monkeypatch.setitem(sys.modules, "cupy", None)
    cuda_launch.problem.cache_clear()
    assert cuda_launch.problem() == "CuPy is missing: pip install 'gsdata[cuda13]'"
    cupy("nvrtc")
    cuda_launch.problem.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    expected = "CuPy does not work here (OSError: nvrtc is not there): pip install 'gsdata[cuda12]'"
    assert cuda_launch.problem() == expected
    cuda_launch.problem.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda_launch.problem() == "this PyTorch was not built for CUDA"


def on_a_gpu() -> SimpleNamespace:
    tensor = SimpleNamespace(device=torch.device("cuda", 0))
    return SimpleNamespace(means=tensor, cholesky=tensor, colors=tensor, opacities=None)


def test_the_backend_that_is_chosen(cupy, monkeypatch, caplog):
    cupy()
    assert rendering._choose("auto", on_a_gpu(), "bfloat16") == "cuda"
    assert rendering._choose("cuda", on_a_gpu(), "uint8") == "cuda"
    assert rendering._choose("auto", on_a_gpu(), "float64") == "dense"
    assert not caplog.records
    monkeypatch.setitem(sys.modules, "cupy", None)
    cuda_launch.problem.cache_clear()
    with caplog.at_level(logging.WARNING, "gsdata"):
        for _ in range(2):
            assert rendering._choose("auto", on_a_gpu(), "float32") == "dense"
    assert [record.getMessage() for record in caplog.records] == [
        "rendering with plain torch, slower and larger: CuPy is missing: pip install 'gsdata[cuda13]'"
    ]
    with pytest.raises(
        ValueError, match=r"backend 'cuda' cannot be used: CuPy is missing: pip install 'gsdata\[cuda13\]'"
    ):
        rendering._choose("cuda", on_a_gpu(), "float32")
    with pytest.raises(ValueError, match="backend 'cuda' computes in float32"):
        rendering._choose("cuda", on_a_gpu(), "float64")


def test_the_backend_needs_its_device():
    batch = make_gaussians(0, [2], size=(4, 4))
    with pytest.raises(ValueError, match="backend 'cuda' needs tensors on a CUDA device, found NumPy arrays"):
        gsdata.render(batch, backend="cuda")
    with pytest.raises(ValueError, match="backend 'cuda' needs tensors on a CUDA device, found cpu"):
        gsdata.render(batch.torch(), backend="cuda")
