"""``splat.cu`` compiles for every architecture, as CuPy will compile it, and fits: no spills, enough blocks resident."""

from __future__ import annotations

import pytest

from benchmarks.cuda_resources import ARCHITECTURES, CHANNELS, Nvrtc, find_nvrtc, resources
from gsdata.kernels import cuda_launch

NVRTC = find_nvrtc()
needs_nvrtc = pytest.mark.skipif(NVRTC is None, reason="nvrtc: not installed")
REGISTERS = 65_536
"""Of a multiprocessor, on every architecture here."""


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    assert NVRTC is not None
    return Nvrtc(NVRTC)


def check(nvrtc: Nvrtc, architecture: int, channels: int) -> None:
    assert architecture in nvrtc.architectures()
    kernels = resources(nvrtc, architecture, channels)
    assert len(kernels) == 4
    for kernel in kernels:
        print(kernel)
        assert kernel["spill_bytes"] == kernel["stack_bytes"] == kernel["static_shared_bytes"] == 0, kernel
        # As __launch_bounds__ promises; registers are handed out in eights.
        forward = kernel["kernel"] == "splat_forward"
        threads, blocks = (cuda_launch.FORWARD_THREADS, 3) if forward else (cuda_launch.BACKWARD_THREADS, 7)
        assert -(-kernel["registers"] // 8) * 8 * threads * blocks <= REGISTERS, kernel


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_three_channels_compile_without_spills(nvrtc, architecture):
    check(nvrtc, architecture, 3)


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_channels_compile_without_spills(nvrtc, architecture):
    for channels in set(CHANNELS) - {3}:
        check(nvrtc, architecture, channels)


@needs_nvrtc
def test_a_broken_source_is_reported(nvrtc, tmp_path, monkeypatch):
    path = tmp_path / "splat.cu"
    path.write_text(cuda_launch.SOURCE.read_text().replace("struct Row {", "struct Row { int unknown[no_such_name];"))
    monkeypatch.setattr(cuda_launch, "SOURCE", path)
    with pytest.raises(RuntimeError, match=r"sm_90, 3 channels: splat\.cu\(\d+\): error.*no_such_name"):
        resources(nvrtc, 90, 3)


@needs_nvrtc
def test_a_task_of_another_size_does_not_compile(nvrtc, monkeypatch):
    monkeypatch.setattr(cuda_launch, "options", lambda channels: (f"-DCHANNELS={channels}", "-DTASK_BYTES=8"))
    with pytest.raises(RuntimeError, match=r"struct Task and cuda_launch\.TASK differ"):
        resources(nvrtc, 90, 3)
